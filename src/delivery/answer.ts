import { createHash, type Hash } from 'node:crypto'
import { sha256 } from '../message/digest.ts'

/** How much of an answer's body is kept for the tenant to look at. */
export const mostKeptBytes = 4096

/** What a receiver answered, as far as it was read. The body counts as it came over the wire: nothing is unpacked. */
export interface Answer {
  readonly status: number
  /** How much of the body was read. */
  readonly bytes: number
  /** SHA-256 of that. */
  readonly sha256: Uint8Array
  /** Its first {@link mostKeptBytes} bytes. */
  readonly head: Uint8Array
  /** Whether it was read to its end. */
  readonly complete: boolean
}

/** Reads the body of an answer: memory stays at {@link mostKeptBytes}, whatever comes. */
export class AnswerReader {
  readonly #status: number
  readonly #maxBytes: number
  readonly #head: Uint8Array[] = []
  #hash: Hash | undefined
  #bytes = 0

  constructor(status: number, maxBytes: number) {
    this.#status = status
    this.#maxBytes = maxBytes
  }

  /** Takes what fits under the cap; false if there was more. */
  take(chunk: Uint8Array): boolean {
    const taken = chunk.subarray(0, this.#maxBytes - this.#bytes)
    const kept = taken.subarray(0, Math.max(0, mostKeptBytes - this.#bytes))
    if (kept.length > 0) this.#head.push(Buffer.from(kept)) // a copy: the chunk holds on to a whole read buffer
    this.#hash ??= createHash('sha256')
    this.#hash.update(taken)
    this.#bytes += taken.length
    return taken.length === chunk.length
  }

  finish(complete: boolean): Answer {
    const read = this.#hash === undefined ? nothing : { sha256: this.#hash.digest(), head: Buffer.concat(this.#head) }
    return { status: this.#status, bytes: this.#bytes, ...read, complete }
  }
}

/** Most answers to webhooks have no body. */
const nothing = { sha256: sha256(new Uint8Array()), head: new Uint8Array() }
