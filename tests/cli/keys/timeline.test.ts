import { generateKeyPairSync } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { HistoryKey } from '../../../src/cli/keys/history.ts'
import { drawTimeline } from '../../../src/cli/keys/timeline.ts'

const policy = { rotateEveryDays: 91, publishBeforeUseDays: 30, overlapDays: 90, shortOverlapReason: undefined }
const now = new Date('2026-07-02T00:00:00Z')
const { publicKey } = generateKeyPairSync('ed25519')

/** A payload key with the times of its life, in days from now. */
function makeKey(
  kid: string,
  days: Partial<Record<'generated' | 'activated' | 'retiring' | 'retired' | 'revoked', number>>,
) {
  const at = (day: number | undefined) => (day === undefined ? undefined : new Date(now.getTime() + day * 86_400_000))
  const { generated = 0, activated, retiring, retired, revoked } = days
  const state =
    revoked !== undefined
      ? 'revoked'
      : retired !== undefined
        ? 'retired'
        : retiring !== undefined
          ? 'retiring'
          : activated !== undefined
            ? 'active'
            : 'next'
  const times = { activatedAt: at(activated), retiringAt: at(retiring), retiredAt: at(retired), revokedAt: at(revoked) }
  const revokedReason = revoked === undefined ? undefined : 'stolen\u001b[2J\nby night'
  return {
    kid,
    purpose: 'payload',
    state,
    publicKey,
    generatedAt: at(generated) ?? now,
    ...times,
    revokedReason,
  } satisfies HistoryKey
}

const keys = [
  makeKey('AAAAAAAA', { generated: -1000, activated: -970, retiring: -879, retired: -789 }),
  makeKey('BBBBBBBB', { generated: -250, activated: -220, retiring: -129, retired: -39 }),
  makeKey('CCCCCCCC', { generated: -159, activated: -129, retiring: -38 }),
  makeKey('EEEEEEEE', { generated: -110, activated: -100, revoked: -80 }),
  makeKey('DDDDDDDD', { generated: -68, activated: -38 }),
]

/** The chart's rows for a kid, without the label. */
const barOf = (drawn: string, kid: string): string =>
  (drawn.split('\n').find((line) => line.includes(kid)) ?? '').slice(26)

describe('the timeline', () => {
  const drawn = drawTimeline(keys, policy, now)

  test('draws each phase of a life, on record up to now and as planned beyond', () => {
    expect(barOf(drawn, 'BBBBBBBB').trim()).toMatch(/^░{3,5}█{11,13}▒{11,13}$/)
    expect(barOf(drawn, 'DDDDDDDD').trim()).toMatch(/^░{3,5}█{11,13}▒{11,13}$/)
    expect(barOf(drawn, 'EEEEEEEE').trim()).toMatch(/^░{1,2}█{2,3}×$/)
  })

  test('has exactly one key sign at any time after the first', () => {
    const lines = drawn.split('\n')
    const rows = lines.slice(0, lines.indexOf(''))
    for (let cell = 20; cell < 72; cell++) {
      const signing = rows.filter((row) => !row.includes('revoked') && row[26 + cell] === '█')
      expect(signing, `cell ${cell}`).toHaveLength(1)
    }
  })

  test('marks now where the active key signs and its predecessor no more', () => {
    const marker = drawn.split('\n').find((line) => line.endsWith('▼ now')) ?? ''
    const at = marker.indexOf('▼') - 26
    expect(barOf(drawn, 'DDDDDDDD')[at]).toBe('█')
    expect(barOf(drawn, 'CCCCCCCC')[at]).toBe('▒')
    expect(drawn.split('\n')[1]?.slice(26 + at, 29 + at)).toBe('Jul')
  })

  test('plans what lifecycle.ts would do: the key to come is published 30 days before it signs', () => {
    const [planned] = drawn.split('\n').filter((line) => line.includes('~2026-07-25'))
    expect(planned).toContain('~2026-08-24') // 91 days after the active key began, on 25 May
  })

  test('leaves out, and counts, keys that were gone before the first month', () => {
    expect(drawn).not.toContain('AAAAAAAA')
    expect(drawn).toContain('1 older key')
  })

  test('fits 100 columns', () => {
    expect(Math.max(...drawn.split('\n').map((line) => line.length))).toBeLessThanOrEqual(100)
  })

  test('can do with ASCII', () => {
    expect(drawTimeline(keys, policy, now, true)).toMatch(/^[\n\x20-\x7e]*$/)
  })

  test('shows a reason without what would move the cursor', () => {
    expect(drawn).toContain('stolen?[2J?by night')
  })
})

test.each(['2026-01-01T00:00:00Z', '2026-02-28T23:59:59Z', '2026-11-30T12:00:00Z', '2028-02-29T00:00:00Z'])(
  'at %s the marker stands in the cell of that moment',
  (time) => {
    const at = new Date(time)
    const [, months = '', marker = ''] = drawTimeline([], policy, at).split('\n')
    const column = marker.indexOf('▼')
    const month = months.slice(column - ((column - 26) % 4), column - ((column - 26) % 4) + 3)
    expect(month).toBe(at.toLocaleString('en', { month: 'short', timeZone: 'UTC' }))
  },
)
