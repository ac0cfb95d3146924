import fc from 'fast-check'
import { expect, test } from 'vitest'
import { RateLimiter } from '../../src/tenant/rate-limiter.ts'

const rate = { per_second: 4, burst: 3 }
const at = (ms: number) => new Date(1_000_000 + ms)

test('whenever it is asked, it gives no more than the burst and what the time since has filled', () => {
  const steps = fc.array(fc.integer({ min: -500, max: 2000 }), { maxLength: 200 })
  fc.assert(
    fc.property(steps, (stepsMs) => {
      const limiter = new RateLimiter()
      let nowMs = 0
      let passedMs = 0
      let taken = 0
      for (const stepMs of stepsMs) {
        nowMs += stepMs
        passedMs += Math.max(0, stepMs)
        if (limiter.take('a', rate, at(nowMs)) === 0) taken++
        expect(taken).toBeLessThanOrEqual(rate.burst + (passedMs / 1000) * rate.per_second + 1e-6)
      }
    }),
  )
})

test('whoever comes again after the time it names has a turn', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 500 }), fc.double({ min: 0.01, max: 100, noNaN: true }), (ms, perSecond) => {
      const limiter = new RateLimiter()
      const slow = { per_second: perSecond, burst: 1 }
      expect(limiter.take('a', slow, at(0))).toBe(0)
      const waitS = limiter.take('a', slow, at(ms))
      if (waitS > 0) expect(limiter.take('a', slow, at(ms + waitS * 1000))).toBe(0)
    }),
  )
})

test('each name has its own, and looking takes nothing', () => {
  const limiter = new RateLimiter()
  for (let i = 0; i < 10; i++) expect(limiter.waitS('a', rate, at(0))).toBe(0)
  for (let i = 0; i < 3; i++) expect(limiter.take('a', rate, at(0))).toBe(0)
  expect(limiter.take('a', rate, at(0))).toBe(1)
  expect(limiter.take('b', rate, at(0))).toBe(0)
})
