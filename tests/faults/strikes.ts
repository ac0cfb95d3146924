/**
 * What a crash drill strikes, and when. All of it comes from the seed, so a round that failed can be named and its
 * schedule run again. The moments are moments of real time: the schedule repeats, the interleaving does not.
 */

export const targets = [
  // kill -9
  'relay', // any of them
  'postmaster',
  'owner and postmaster', // the relay that runs PostgreSQL dies with it
  'owner then postmaster',
  'backend',
  // The supervisor asks, in the middle of a burst.
  'terminate',
  // The network between PostgreSQL and the relays that do not run it.
  'network cut',
  'commit lost', // cut instead of delivering a COMMIT
  'commit unanswered', // COMMIT delivered and done, its answer cut off
  // No room for another byte in DATA_DIR.
  'disk full',
  // A tenant's receiver answers 500, resets or is silent.
  'receiver outage',
] as const
export type Target = (typeof targets)[number]

/** One fault. */
export interface Strike {
  readonly target: Target
  /** After the load flows or, for the second strike of a round, after the first is over. */
  readonly afterMs: number
  /** Between the owner and the postmaster, where they die one after the other. */
  readonly gapMs: number
  /** How long it lasts, where it is no single moment. */
  readonly lastsMs: number
  /** Which one, where there are several: 0 is the first, anything below 1 the last. */
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
    lastsMs: between(200, 1_000),
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
