import type { ByteRange, ObjectStat, ObjectStore, PutOptions } from '../../src/ports/object-store.ts'

export interface ObjectFault {
  /** The write that is struck: the first whose key matches. */
  readonly at: RegExp
  /** fails: nothing was written · persisted: it was written, and the answer is an error all the same */
  readonly how: 'fails' | 'persisted'
  /** Whether the process is as good as dead from there on: nothing it writes arrives any more. */
  readonly dies: boolean
}

/** A real object store that fails once, at a chosen write. */
export class FaultyObjectStore implements ObjectStore {
  readonly #real: ObjectStore
  #fault: ObjectFault | undefined
  #dead = false
  /** How many faults happened. */
  struck = 0

  constructor(real: ObjectStore) {
    this.#real = real
  }

  strike(fault: ObjectFault): void {
    this.#fault = fault
  }

  put(key: string, bytes: Uint8Array, options?: PutOptions): Promise<void> {
    return this.#write(key, () => this.#real.put(key, bytes, options))
  }

  putIfAbsent(key: string, bytes: Uint8Array, options?: PutOptions): Promise<'stored' | 'exists'> {
    return this.#write(key, () => this.#real.putIfAbsent(key, bytes, options))
  }

  find(key: string): Promise<Uint8Array | undefined> {
    return this.#real.find(key)
  }

  stat(key: string): Promise<ObjectStat | undefined> {
    return this.#real.stat(key)
  }

  read(key: string, range?: ByteRange): AsyncIterable<Uint8Array> {
    return this.#real.read(key, range)
  }

  write(key: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    return this.#write(key, () => this.#real.write(key, chunks))
  }

  delete(key: string): Promise<void> {
    return this.#write(key, () => this.#real.delete(key))
  }

  list(prefix: string, after?: string): AsyncIterable<string> {
    return this.#real.list(prefix, after)
  }

  async #write<T>(key: string, write: () => Promise<T>): Promise<T> {
    if (this.#dead) throw new Error('injected: the process is dead')
    const fault = this.#fault
    if (fault === undefined || !fault.at.test(key)) return write()
    this.#fault = undefined
    this.struck += 1
    this.#dead = fault.dies
    if (fault.how === 'persisted') await write()
    throw new Error(`injected: ${key} ${fault.how}`)
  }
}
