import { randomFillSync } from 'node:crypto'

/** Random bytes, drawn from the system `length` at a time: in small draws nearly all of the cost is the draw. */
export class Randomness {
  readonly #pool: Buffer
  #used: number

  constructor(length: number) {
    this.#pool = Buffer.alloc(length)
    this.#used = length
  }

  /** Fills `bytes`, of which there must be no more than are drawn at a time. */
  fill(bytes: Uint8Array): void {
    const from = this.#take(bytes.length)
    bytes.set(this.#pool.subarray(from, from + bytes.length))
  }

  /** So many bytes, as base64url. */
  text(length: number): string {
    const from = this.#take(length)
    return this.#pool.toString('base64url', from, from + length)
  }

  #take(length: number): number {
    if (this.#used + length > this.#pool.length) {
      randomFillSync(this.#pool)
      this.#used = 0
    }
    this.#used += length
    return this.#used - length
  }
}
