/**
 * What a crash drill kills, and when. All of it comes from the seed, so a round that failed can be named and its
 * schedule run again. The moments are moments of real time: the schedule repeats, the interleaving does not.
 */

export const targets = ['relay', 'postmaster', 'both', 'relay then postmaster', 'backend'] as const
export type Target = (typeof targets)[number]

/** One kill -9. */
export interface Strike {
  readonly target: Target
  /** After the load flows or, for the second strike of a round, after the first. */
  readonly afterMs: number
  /** Between the relay and the postmaster, where they die one after the other. */
  readonly gapMs: number
  /** Which backend, where one dies: 0 is the first, anything below 1 the last. */
  readonly pick: number
}

export interface Round {
  /** From 1. */
  readonly number: number
  readonly strikes: readonly Strike[]
}

/** A new relay needs about a second to open: the second strike of a round falls before, into or after that. */
const secondStrikeWithinMs = 1_000

/** Every target is dealt once before any is dealt again; every other round strikes twice. */
export function planRounds(count: number, seed: number): Round[] {
  const random = mulberry32(seed)
  const between = (least: number, most: number) => least + Math.floor(random() * (most - least + 1))
  const deck: Target[] = []
  const deal = (): Target => {
    if (deck.length === 0) deck.push(...targets)
    return deck.splice(between(0, deck.length - 1), 1)[0] ?? 'relay'
  }
  const strike = (least: number, most: number): Strike => ({
    target: deal(),
    afterMs: between(least, most),
    gapMs: between(1, 8),
    pick: random(),
  })
  return Array.from({ length: count }, (_, i) => {
    const underLoad = strike(50, 700)
    return { number: i + 1, strikes: i % 2 === 1 ? [underLoad, strike(0, secondStrikeWithinMs)] : [underLoad] }
  })
}

/** Tommy Ettinger's Mulberry32: 32 bits of state, numbers from 0 to below 1. */
function mulberry32(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}
