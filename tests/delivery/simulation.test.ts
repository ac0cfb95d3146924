import { expect, test } from 'vitest'
import type { Outcome } from '../../src/delivery/client.ts'
import { day, hour, minute, type SimulatedEndpoint, SimulatedRelays, second } from './simulated-relay.ts'

/** `SIMULATION_SEED=17` runs that one alone: a seed that failed fails again. */
const seeds = process.env.SIMULATION_SEED ? [Number(process.env.SIMULATION_SEED)] : [1, 2, 3]

test.each(seeds)('a year of two relays, ten receivers and their bad days keeps every rule (seed %i)', async (seed) => {
  const random = seeded(seed)
  const endpoints = receivers(random)
  const relays = new SimulatedRelays({ random, endpoints, processes: 2, concurrency: 32 })
  const endsAt = relays.nowMs + 365 * day
  for (const endpoint of endpoints) post(relays, endpoint, random, endsAt)
  every(
    relays,
    endsAt,
    () => (0.2 + random() * 3) * day,
    () => relays.crash(),
  )
  every(
    relays,
    endsAt,
    () => (5 + random() * 20) * day,
    () => relays.resumeAll(),
  )
  every(
    relays,
    endsAt,
    () => day,
    () => relays.check(),
  )
  await relays.run(endsAt)
  const { counts } = relays
  // The rare paths were walked, or the rules would say nothing.
  expect(counts.stops).toBeGreaterThan(50)
  expect(counts.pauses).toBeGreaterThan(0)
  expect(counts.abandoned).toBeGreaterThan(0)
  expect(counts.crashes).toBeGreaterThan(100)

  // Nothing more is posted, nobody fails any more: whatever is pending must come to its end.
  everyoneIsWell = true
  relays.resumeAll()
  for (let left = 14; left > 0 && relays.pending > 0; left--) {
    await relays.run(relays.nowMs + day)
    relays.resumeAll()
  }
  everyoneIsWell = false
  relays.check()
  expect(relays.pending, JSON.stringify(counts)).toBe(0)
  expect(counts.delivered + counts.abandoned).toBe(counts.owed)
})

/** In the phase that must end. */
let everyoneIsWell = false

/** Each receiver has a character, and what it does at a time depends on that time and chance alone. */
function receivers(random: () => number): SimulatedEndpoint[] {
  const down = (everyMs: number, forMs: number) => {
    const phase = random() * everyMs
    return (atMs: number) => (atMs + phase) % everyMs < forMs
  }
  const characters: [options: Partial<SimulatedEndpoint>, answer: (atMs: number) => Answer][] = [
    [{}, () => ok],
    [{}, when(down(30 * day, 2 * day), timeout)],
    [{}, when(down(7 * day, 6 * hour), error)],
    [{}, when(down(90 * day, 20 * day), refusedConnection)],
    [{}, when(down(5 * day, 12 * hour), tooMany)],
    [{}, when(() => random() < 0.1, error)],
    [{ fifo: true }, when(down(20 * day, 8 * hour), error)],
    [{ fifo: true }, when(() => random() < 0.2, timeout)],
    [{ rateLimit: { perSecond: 0.5, burst: 5 } }, when(down(20 * day, hour), error)],
    [{ concurrency: 2 }, when(() => random() < 0.0005, gone)],
  ]
  return characters.map(([options, answer], i) => ({
    ...{ id: `ep${i}`, tenantId: `ten${i % 3}`, rateLimit: null, concurrency: null, fifo: false, ...options },
    receive: (atMs) => {
      const { outcome, tookMs } = everyoneIsWell ? ok : answer(atMs)
      return { outcome: { ...outcome, durationMs: tookMs }, tookMs: Math.ceil(tookMs * (0.5 + random())) }
    },
  }))
}

interface Answer {
  readonly outcome: Outcome
  readonly tookMs: number
}

const ok: Answer = { outcome: { kind: 'delivered', status: 204, durationMs: 0 }, tookMs: 50 }
const error: Answer = { outcome: { kind: 'refused', status: 500, durationMs: 0 }, tookMs: 50 }
const tooMany: Answer = { outcome: { kind: 'refused', status: 429, retryAfterMs: 90_000, durationMs: 0 }, tookMs: 20 }
const gone: Answer = { outcome: { kind: 'refused', status: 410, durationMs: 0 }, tookMs: 20 }
const timeout: Answer = { outcome: { kind: 'unreachable', reason: 'timeout', durationMs: 0 }, tookMs: 10_000 }
const refusedConnection: Answer = { outcome: { kind: 'unreachable', reason: 'connect', durationMs: 0 }, tookMs: 1 }

const when = (bad: (atMs: number) => boolean, answer: Answer) => (atMs: number) => (bad(atMs) ? answer : ok)

/** A message every hour or so, and now and then a burst. */
function post(relays: SimulatedRelays, endpoint: SimulatedEndpoint, random: () => number, endsAt: number): void {
  every(
    relays,
    endsAt,
    () => -Math.log(1 - random()) * hour,
    () => {
      const count = random() < 0.01 ? 60 : 1
      for (let n = 0; n < count; n++) relays.at(relays.nowMs + random() * second * count, () => relays.owe(endpoint))
    },
  )
}

function every(relays: SimulatedRelays, endsAt: number, pauseMs: () => number, work: () => void): void {
  const next = () => {
    const atMs = relays.nowMs + Math.max(pauseMs(), minute / 60)
    if (atMs > endsAt) return
    relays.at(atMs, () => {
      work()
      next()
    })
  }
  next()
}

/** mulberry32: small, and the same everywhere. */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}
