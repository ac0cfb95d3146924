import type { Outcome } from './client.ts'

const second = 1000
const minute = 60 * second
const hour = 60 * minute
const day = 24 * hour

/** Delays between attempts, in milliseconds: the first attempt is at once, nine follow, the last after about 3 days. */
export const defaultScheduleMs: readonly number[] = [
  ...[5 * second, 5 * minute, 30 * minute],
  ...[2, 5, 10, 14, 20, 24].map((hours) => hours * hour),
]

/** What calls for another attempt. A delivered message has none, and the compiler knows. */
export type FailedOutcome = Exclude<Outcome, { kind: 'delivered' }>

export interface FailedAttempt {
  /** Numbered from 1. */
  attempt: number
  outcome: FailedOutcome
  now: Date
  schedule?: readonly number[]
  /** In [0, 1). */
  random: () => number
}

/**
 * When to attempt again, or `undefined` to abandon the delivery: the schedule is used up, or the receiver said 410 Gone.
 *
 * Each delay varies by ±20 %, so that what failed together does not come back together. A receiver's Retry-After can
 * only postpone, and by no more than a day: it must not hurry us, and must not park a message for a year.
 */
export function nextAttemptAt({
  attempt,
  outcome,
  now,
  schedule = defaultScheduleMs,
  random,
}: FailedAttempt): Date | undefined {
  const delayMs = schedule[attempt - 1]
  if (delayMs === undefined || (outcome.kind === 'refused' && outcome.status === 410)) return undefined
  const scheduledMs = delayMs * (1 - jitter + 2 * jitter * random())
  const askedMs = outcome.kind === 'refused' ? Math.min(outcome.retryAfterMs ?? 0, maxRetryAfterMs) : 0
  return new Date(now.getTime() + Math.max(Math.round(scheduledMs), askedMs))
}

const jitter = 0.2
const maxRetryAfterMs = day

/**
 * Parses `RETRY_SCHEDULE`, e.g. `5s,5m,30m,2h`: 1 to 30 delays, each a whole number and `s`, `m`, `h` or `d`, from one
 * second to 7 days. Returns milliseconds; throws `RangeError` naming the delay that is wrong.
 */
export function parseSchedule(text: string): readonly number[] {
  const parts = text.split(',').map((part) => part.trim())
  if (parts.length > maxDelays) throw new RangeError(`a schedule has at most ${maxDelays} delays, not ${parts.length}`)
  return parts.map((part, index) => {
    const [, digits, unit] = /^(\d{1,7})([smhd])$/.exec(part) ?? []
    const delayMs = Number(digits) * { s: second, m: minute, h: hour, d: day }[unit as 's' | 'm' | 'h' | 'd']
    if (delayMs >= second && delayMs <= 7 * day) return delayMs
    const wanted = 'a whole number and s, m, h or d, from 1s to 7d'
    throw new RangeError(`delay ${index + 1} of the schedule is ${JSON.stringify(part)}, which is not ${wanted}`)
  })
}

const maxDelays = 30

/** The text that {@link parseSchedule} reads as these milliseconds. */
export const formatSchedule = (schedule: readonly number[]): string =>
  schedule
    .map((delayMs) => {
      const units = [
        ['d', day],
        ['h', hour],
        ['m', minute],
        ['s', second],
      ] as const
      const [unit, unitMs] = units.find(([, ms]) => delayMs % ms === 0) ?? ['s', second]
      return `${delayMs / unitMs}${unit}`
    })
    .join(',')
