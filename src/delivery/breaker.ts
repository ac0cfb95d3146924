/**
 * When an endpoint is left alone, and when it is tried again; everything here is decided from its arguments.
 *
 *     flows  --ten failures in a row-->  stopped  --time-->  probes  --a success-->  flows
 *       |  ^                               ^ |                  |
 *       |  '----time---- held <--429--'    | '----a failure-----'      each time twice as long
 *       '-----429, or 503 with Retry-After-'
 *
 * While an endpoint is stopped its deliveries wait in its backlog and spend none of their attempts.
 */
import type { Outcome } from './client.ts'

/** What is known of an endpoint that does not simply work. Undefined where it does. */
export interface Health {
  /** Failures in a row, none of them more than {@link forgetMs} after the one before. */
  readonly failures: number
  /** The first failure since the last success. Null where there is none, but the endpoint asked for time. */
  readonly failingSince: Date | null
  readonly lastFailedAt: Date | null
  /** How often it was stopped since the last success. */
  readonly trips: number
  /** Stopped: nothing is sent before, and only one probe at a time after. */
  readonly openUntil: Date | null
  /** Held: the receiver asked for time. */
  readonly heldUntil: Date | null
}

export type HealthEvent =
  | { readonly kind: 'delivered'; readonly at: Date }
  | { readonly kind: 'failed'; readonly at: Date }
  /** 429, or 503 with Retry-After. */
  | { readonly kind: 'throttled'; readonly at: Date; readonly retryAfterMs: number | undefined }

/** What may be sent to an endpoint now. */
export type Passage =
  | { readonly kind: 'flows' }
  | { readonly kind: 'probes' }
  | { readonly kind: 'stopped'; readonly until: Date }

const second = 1000
const minute = 60 * second

/** Failures in a row that stop an endpoint. */
export const failuresToStop = 10

/** Failures further apart than this are not one row: a single delivery that follows its schedule stops nothing. */
const forgetMs = minute

/** How long an endpoint is stopped at first; doubled by each probe that fails, up to the most. */
const firstStopMs = 5 * second
export const longestStopMs = 15 * minute

/** A receiver may hold us off no longer than this, whatever it asks: its other deliveries must not wait for a year. */
export const longestHoldMs = 15 * minute
const shortestHoldMs = second

const jitter = 0.2

/** What an outcome says about the endpoint; undefined if nothing: 410 is about to pause it, and we were shut down. */
export function healthEventOf(outcome: Outcome, at: Date): HealthEvent | undefined {
  switch (outcome.kind) {
    case 'delivered':
      return { kind: 'delivered', at }
    case 'unreachable':
      return outcome.reason === 'aborted' ? undefined : { kind: 'failed', at }
    case 'refused': {
      const { status, retryAfterMs } = outcome
      if (status === 410) return undefined
      const throttled = status === 429 || (status === 503 && retryAfterMs !== undefined)
      return throttled ? { kind: 'throttled', at, retryAfterMs } : { kind: 'failed', at }
    }
  }
}

/** The health after `event`. `random` is in [0, 1): what stopped together must not come back together. */
export function healthAfter(before: Health | undefined, event: HealthEvent, random: () => number): Health | undefined {
  const { at } = event
  if (event.kind === 'delivered') {
    const heldUntil = before?.heldUntil ?? null
    return heldUntil !== null && heldUntil > at ? { ...well, heldUntil } : undefined
  }
  const failing = { ...(before ?? well), failingSince: before?.failingSince ?? at, lastFailedAt: at }
  if (event.kind === 'throttled') {
    const askedMs = event.retryAfterMs ?? shortestHoldMs * 2 ** Math.min(failing.failures, 6)
    const holdMs = Math.min(Math.max(askedMs, shortestHoldMs), longestHoldMs)
    return { ...failing, failures: failing.failures + 1, heldUntil: latest(failing.heldUntil, after(at, holdMs)) }
  }
  const inRow = before?.lastFailedAt != null && at.getTime() - before.lastFailedAt.getTime() <= forgetMs
  const failures = (inRow ? failing.failures : 0) + 1
  // What was already on its way when the endpoint was stopped tells nothing new.
  if (failing.openUntil !== null && failing.openUntil > at) return { ...failing, failures }
  if (failing.openUntil === null && failures < failuresToStop) return { ...failing, failures }
  const stopMs = Math.min(firstStopMs * 2 ** Math.min(failing.trips, 20), longestStopMs)
  const openUntil = after(at, Math.round(stopMs * (1 - jitter + 2 * jitter * random())))
  return { ...failing, failures, trips: failing.trips + 1, openUntil }
}

export function passageOf(health: Health | undefined, now: Date): Passage {
  if (health === undefined) return { kind: 'flows' }
  const until = latest(health.openUntil, health.heldUntil)
  if (until !== null && until > now) return { kind: 'stopped', until }
  return { kind: health.openUntil === null ? 'flows' : 'probes' }
}

const well: Health = {
  failures: 0,
  failingSince: null,
  lastFailedAt: null,
  trips: 0,
  openUntil: null,
  heldUntil: null,
}

const after = (at: Date, ms: number): Date => new Date(at.getTime() + ms)

const latest = (a: Date | null, b: Date | null): Date | null => (a === null || (b !== null && b > a) ? b : a)
