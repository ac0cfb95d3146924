/** Room for `burst` at once, filled again at `per_second`. */
interface Rate {
  readonly per_second: number
  readonly burst: number
}

/** Buckets held at once. */
const mostBuckets = 100_000

/**
 * Token buckets by name, in the memory of this process: with several processes a rate holds for each. That is meant:
 * the limit protects the relay and what stands behind it, and a round trip to count exactly would cost every post more
 * than the excess does.
 */
export class RateLimiter {
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>()

  /** Seconds until `name` has a turn; 0 if it has one now. Takes nothing. */
  waitS(name: string, rate: Rate, now: Date): number {
    const tokens = this.#fill(name, rate, now.getTime()).tokens
    return tokens >= 1 ? 0 : Math.max(1, Math.ceil((1 - tokens) / rate.per_second))
  }

  /** Takes a turn if there is one; else says in how many seconds. */
  take(name: string, rate: Rate, now: Date): number {
    const waitS = this.waitS(name, rate, now)
    if (waitS === 0) this.#fill(name, rate, now.getTime()).tokens -= 1
    return waitS
  }

  #fill(name: string, { per_second: perSecond, burst }: Rate, nowMs: number) {
    const known = this.#buckets.get(name)
    if (known !== undefined) {
      // A clock that stepped back fills nothing.
      const passedS = Math.max(0, nowMs - known.atMs) / 1000
      known.tokens = Math.min(burst, known.tokens + passedS * perSecond)
      known.atMs = nowMs
      return known
    }
    const bucket = { tokens: burst, atMs: nowMs }
    const [oldest] = this.#buckets.keys()
    if (this.#buckets.size >= mostBuckets && oldest !== undefined) this.#buckets.delete(oldest)
    this.#buckets.set(name, bucket)
    return bucket
  }
}
