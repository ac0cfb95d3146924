/**
 * What the processes of the bench note per post, and how it becomes figures. A post's number is its index everywhere: it
 * stands in the payload, so the generator and the receiver keep plain columns of numbers and need no common protocol.
 */

/** Milliseconds of the machine's monotonic clock, the same in every process; `performance.now()` alone starts anew in
 *  each. */
export const clockMs = (): number => performance.now() + originMs

const originMs = Number(process.hrtime.bigint()) / 1e6 - performance.now()

/** One number per post, in memory that grows by doubling. Unset is 0, which no time and no status is. */
export class Column {
  #values = new Float64Array(1 << 16)
  #length = 0

  get(post: number): number {
    return this.#values[post] ?? 0
  }

  set(post: number, value: number): void {
    if (post >= this.#values.length) {
      const grown = new Float64Array(2 ** Math.ceil(Math.log2(post + 1)))
      grown.set(this.#values)
      this.#values = grown
    }
    this.#values[post] = value
    this.#length = Math.max(this.#length, post + 1)
  }

  /** A copy of all that was set, from post `from` on. */
  slice(from: number): Float64Array {
    return this.#values.slice(from, this.#length)
  }
}

/**
 * Keeps an even sample of posts: those whose number a power of two divides, which doubles whenever there would be too
 * many. So the samples of the generator and of the receiver are mostly of the same posts.
 */
export class Sample<Item> {
  readonly #most: number
  readonly #items = new Map<number, Item>()
  #stride = 1

  constructor(most: number) {
    this.#most = most
  }

  /** Whether `post` would be kept; ask before doing work for it. */
  wants(post: number): boolean {
    return post % this.#stride === 0
  }

  keep(post: number, item: Item): void {
    this.#items.set(post, item)
    if (this.#items.size <= this.#most) return
    this.#stride *= 2
    for (const kept of this.#items.keys()) if (!this.wants(kept)) this.#items.delete(kept)
  }

  items(): [post: number, item: Item][] {
    return [...this.#items]
  }
}

/** Exact percentiles, by the nearest rank; undefined of nothing. Sorts `values` in place. */
export function percentilesOf(values: Float64Array): Percentiles | undefined {
  if (values.length === 0) return undefined
  values.sort()
  const at = (share: number) => values[Math.max(0, Math.ceil(share * values.length) - 1)] ?? 0
  return { p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999) }
}

export interface Percentiles {
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly p999: number
}
