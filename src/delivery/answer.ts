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
  /** Of a body longer than what is kept. */
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
    if (kept.length < taken.length) this.#hash ??= hashOf(this.#head)
    if (kept.length > 0) this.#head.push(Buffer.from(kept)) // a copy: the chunk holds on to a whole read buffer
    this.#hash?.update(taken)
    this.#bytes += taken.length
    return taken.length === chunk.length
  }

  finish(complete: boolean): Answer {
    const status = this.#status
    const bytes = this.#bytes
    if (bytes === 0) return { status, bytes, sha256: sha256OfNothing, head: nothing, complete }
    const head = Buffer.concat(this.#head)
    return { status, bytes, sha256: this.#hash?.digest() ?? sha256(head), head, complete }
  }
}

function hashOf(chunks: readonly Uint8Array[]): Hash {
  const hash = createHash('sha256')
  for (const chunk of chunks) hash.update(chunk)
  return hash
}

/** Most answers to webhooks have no body. */
const nothing = new Uint8Array()
const sha256OfNothing = sha256(nothing)
