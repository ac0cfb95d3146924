import type { KeyObject } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { type Question, type Reply, signatureBytes, writeLetter } from './signing-letter.ts'

type Asked = Question & {
  readonly answer: (bytes: Uint8Array) => void
  readonly reject: (error: Error) => void
}

/** While one letter is answered, another is on its way, so that the thread need not wait for ours. */
const mostLetters = 2

/**
 * Ed25519 on a thread of its own, the dearest things done for a message: three signatures, 0.13 ms together. Questions go
 * over in letters, since a letter costs as much as it saves if it holds only one: while two are under way, the next fills.
 * That is also why this beats the callback forms of node:crypto, which wake a thread for each.
 */
export class SigningThread {
  readonly #worker = new Worker(new URL('signing-worker.ts', import.meta.url), { name: 'signing' })
  readonly #keys = new Map<KeyObject, number>()
  readonly #sent: Asked[][] = []
  #keysToSend: (readonly [number, KeyObject])[] = []
  #questions: Asked[] = []
  #failure: Error | undefined

  constructor() {
    this.#worker.on('message', (reply: Reply) => {
      const asked = this.#sent.shift() ?? []
      this.#send() // first of all: while what follows is done here, the thread is busy
      for (let i = 0; i < asked.length; i++) {
        asked[i]?.answer(reply.subarray(i * signatureBytes, (i + 1) * signatureBytes))
      }
      if (this.#sent.length === 0) this.#worker.unref() // an idle thread keeps no process alive
    })
    this.#worker.on('error', (error: Error) => this.#fail(error))
    this.#worker.unref()
  }

  /** 64 bytes, RFC 8032. */
  sign(key: KeyObject, input: Uint8Array): Promise<Uint8Array> {
    return this.#ask({ kind: 'sign', key: this.#nameOf(key), input })
  }

  /** False also for a signature that is not 64 bytes long. */
  verify(key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    return this.#holds('verify', key, input, signature)
  }

  /** Whether `signature`, made with this private key, holds. For signatures of our own: who could try any other could
   *  learn from it what the key signs. */
  confirm(key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    return this.#holds('confirm', key, input, signature)
  }

  /** Whatever is still asked is rejected. */
  async close(): Promise<void> {
    this.#fail(new Error('the signing thread was stopped'))
    await this.#worker.terminate()
  }

  async #holds(kind: 'verify' | 'confirm', key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    if (signature.length !== signatureBytes) return false
    const [holds] = await this.#ask({ kind, key: this.#nameOf(key), input, signature })
    return holds === 1
  }

  #ask(question: Question): Promise<Uint8Array> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    // Not at once: the rest of this turn may have more to ask.
    if (this.#questions.length === 0 && this.#sent.length < mostLetters) setImmediate(() => this.#send())
    return new Promise((answer, reject) => this.#questions.push({ ...question, answer, reject }))
  }

  #send(): void {
    if (this.#questions.length === 0 || this.#sent.length >= mostLetters) return
    const letter = writeLetter(this.#keysToSend, this.#questions)
    this.#sent.push(this.#questions)
    this.#keysToSend = []
    this.#questions = []
    this.#worker.postMessage(letter, [letter.heads.buffer, letter.bytes.buffer])
    this.#worker.ref()
  }

  /** A key goes over once, as the handle to the same key, and by its number from then on. */
  #nameOf(key: KeyObject): number {
    const known = this.#keys.get(key)
    if (known !== undefined) return known
    const name = this.#keys.size
    this.#keys.set(key, name)
    this.#keysToSend.push([name, key])
    return name
  }

  #fail(error: Error): void {
    this.#failure ??= error
    for (const asked of [...this.#sent.splice(0), this.#questions.splice(0)]) {
      for (const { reject } of asked) reject(error)
    }
  }
}
