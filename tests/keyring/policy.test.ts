import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { parsePolicy, readPolicy } from '../../src/keyring/policy.ts'

const path = fileURLToPath(new URL('../../keys/policy.json', import.meta.url))

const members = { purposes: ['payload', 'log'], rotate_every_days: 91, publish_before_use_days: 30, overlap_days: 90 }

const parse = (changed: object) => parsePolicy(Buffer.from(JSON.stringify({ ...members, ...changed })))

test('the policy that is shipped is quarterly, published 30 days before use, with 90 days of overlap', () => {
  expect(parsePolicy(readFileSync(path))).toEqual({
    rotateEveryDays: 91,
    publishBeforeUseDays: 30,
    overlapDays: 90,
    shortOverlapReason: undefined,
  })
})

describe('a member that cannot be is refused by name', () => {
  const wrongDays = [0, -1, 1.5, 3651, '91', null, true, [91]]

  test.each<[string, unknown]>([
    ...[undefined, null, 'payload', [], ['payload'], ['payload', 'log', 'log'], ['payload', 'other']].map(
      (value): [string, unknown] => ['purposes', value],
    ),
    ...['rotate_every_days', 'publish_before_use_days', 'overlap_days'].flatMap((name) =>
      [undefined, ...wrongDays].map((value): [string, unknown] => [name, value]),
    ),
    ['publish_before_use_days', 6], // never less than a week
    ['publish_before_use_days', 91], // there would be no time left to sign
    ['overlap_days', 89],
    ...[null, 1, '', ' '].map((value): [string, unknown] => ['short_overlap_reason', value]),
  ])('%s: %j', (name, value) => {
    expect(() => parse({ [name]: value })).toThrow(new RegExp(`"${name}"`))
  })

  test('and so is one that is not known, as a misspelt one would be', () => {
    expect(() => parse({ overlap_day: 90 })).toThrow(/none of .*overlap_days/)
  })
})

test('the least that is allowed is: a week before use, 90 days of overlap', () => {
  expect(parse({ publish_before_use_days: 7, rotate_every_days: 8 })).toMatchObject({ publishBeforeUseDays: 7 })
})

test('an overlap below 90 days needs a reason, which is kept to be logged', () => {
  expect(() => parse({ overlap_days: 89 })).toThrow(/short_overlap_reason/)
  const reason = 'all receivers are ours'
  expect(parse({ overlap_days: 1, short_overlap_reason: reason })).toMatchObject({
    overlapDays: 1,
    shortOverlapReason: reason,
  })
})

test.each(['', '[]', 'null', '{"purposes":', `{"overlap_days":90,${JSON.stringify(members).slice(1)}`])(
  'what is not one strict JSON object is refused: %j',
  (text) => {
    expect(() => parsePolicy(Buffer.from(text))).toThrow()
  },
)

test('a policy file that cannot be is refused by its path', async () => {
  const other = fileURLToPath(new URL('../../package.json', import.meta.url))
  await expect(readPolicy(other)).rejects.toThrow(other)
})
