import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  defaultScheduleMs,
  type FailedAttempt,
  formatSchedule,
  nextAttemptAt,
  parseSchedule,
} from '../../src/delivery/schedule.ts'

const now = new Date('2026-12-01T00:00:00Z')
const day = 86_400_000

/** Milliseconds until the next attempt; with `random` at 0.5 there is no jitter. */
function delayMs(given: Partial<FailedAttempt>): number | undefined {
  const outcome = { kind: 'unreachable', reason: 'timeout', durationMs: 1 } as const
  const next = nextAttemptAt({ attempt: 1, outcome, now, random: () => 0.5, ...given })
  return next && next.getTime() - now.getTime()
}

const refused = (status: number, retryAfterMs?: number) =>
  ({ kind: 'refused', status, durationMs: 1, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }) as const

describe('the next attempt', () => {
  it('follows the default schedule, and there are ten attempts', () => {
    const delays = Array.from({ length: 11 }, (_, index) => delayMs({ attempt: index + 1 }))
    expect(delays).toEqual([...parseSchedule('5s,5m,30m,2h,5h,10h,14h,20h,24h'), undefined, undefined])
  })

  it('varies by a fifth either way', () => {
    expect(delayMs({ random: () => 0 })).toBe(4000)
    expect(delayMs({ random: () => 0.999999 })).toBe(6000)
  })

  it('is none once the receiver says 410, and only then', () => {
    expect(delayMs({ outcome: refused(410) })).toBeUndefined()
    for (const status of [301, 400, 401, 404, 409, 429, 500, 503])
      expect(delayMs({ outcome: refused(status) })).toBe(5000)
  })

  it('is postponed by Retry-After, at most a day, and never hurried', () => {
    expect(delayMs({ outcome: refused(503, 60_000) })).toBe(60_000)
    expect(delayMs({ outcome: refused(503, 1) })).toBe(5000)
    expect(delayMs({ outcome: refused(503, 400 * day) })).toBe(day)
    expect(delayMs({ outcome: refused(429, 60_000), attempt: 10 })).toBeUndefined()
  })

  it('is never sooner than asked within a day, nor later than schedule and receiver want', () => {
    const asked = fc.integer({ min: 0, max: 2 * day })
    const unit = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), asked, unit, (attempt, retryAfterMs, random) => {
        const delay = delayMs({ attempt, outcome: refused(503, retryAfterMs), random: () => random }) ?? Number.NaN
        const scheduled = defaultScheduleMs[attempt - 1] ?? Number.NaN
        expect(delay).toBeGreaterThanOrEqual(Math.max(0.8 * scheduled, Math.min(retryAfterMs, day)))
        expect(delay).toBeLessThanOrEqual(Math.max(1.2 * scheduled, Math.min(retryAfterMs, day)))
      }),
    )
  })
})

describe('a schedule', () => {
  it('is read with its units', () => {
    expect(parseSchedule('1s, 2m,3h,4d')).toEqual([1000, 120_000, 10_800_000, 4 * day])
  })

  it.each(['', '5', '5 s', '0s', '-5s', '1.5h', '5S', '5s,', ',5s', '5s,,5m', '8d', '169h', '5w', '99999999s', '5ms'])(
    'that cannot be understood is refused: %j',
    (text) => {
      expect(() => parseSchedule(text)).toThrow(RangeError)
    },
  )

  it('is written as it is read, in the largest units', () => {
    expect(formatSchedule(defaultScheduleMs)).toBe('5s,5m,30m,2h,5h,10h,14h,20h,1d')
    const delays = fc.array(
      fc.integer({ min: 1, max: 7 * 86_400 }).map((s) => s * 1000),
      { minLength: 1, maxLength: 30 },
    )
    fc.assert(
      fc.property(delays, (schedule) => {
        expect(parseSchedule(formatSchedule(schedule))).toEqual(schedule)
      }),
    )
  })

  it('names the delay that is wrong', () => {
    expect(() => parseSchedule('5s,5m,soon')).toThrow(/delay 3 .*"soon"/)
  })

  it('has at most 30 delays', () => {
    expect(parseSchedule(Array(30).fill('1s').join())).toHaveLength(30)
    expect(() => parseSchedule(Array(31).fill('1s').join())).toThrow(RangeError)
  })
})
