import fc from 'fast-check'
import { expect, test } from 'vitest'
import { IdMaker, idsFrom, idTime, isId } from '../../src/message/id.ts'

const crockford = '0123456789abcdefghjkmnpqrstvwxyz'
const instant = fc.oneof(fc.nat({ max: 2 ** 48 - 1 }), fc.nat(5)).map((ms) => new Date(ms))

/** The 128 bits of a ULID, digit by digit. */
const bitsOf = (id: string): bigint =>
  [...id.slice(id.indexOf('_') + 1)].reduce((bits, digit) => bits * 32n + BigInt(crockford.indexOf(digit)), 0n)

test('identifiers have their form, tell when they were made, and sort in the order they were made', () => {
  fc.assert(
    fc.property(fc.array(instant, { minLength: 2, maxLength: 20 }), (instants) => {
      const ids = new IdMaker()
      const made = instants.map((at) => ids.make('msg', at))
      let latest = 0
      for (const [index, id] of made.entries()) {
        latest = Math.max(latest, instants[index]?.getTime() ?? 0)
        expect(isId('msg', id)).toBe(true)
        expect(idTime(id).getTime()).toBe(latest) // a clock that steps back does not break the order
        expect(id > idsFrom('msg', new Date(latest))).toBe(true)
      }
      expect(made.toSorted()).toEqual(made)
    }),
  )
})

test('within a millisecond their last 80 bits count up, through every carry', () => {
  const ids = new IdMaker()
  const at = new Date(1_790_000_000_000)
  const first = bitsOf(ids.make('dlv', at))
  for (let count = 1n; count <= 70_000n; count++) {
    if (bitsOf(ids.make('dlv', at)) !== first + count) expect.fail(`not ${count} above the first`)
  }
})

test('in a new millisecond 79 bits are drawn anew, each of which may be set', () => {
  const ids = new IdMaker()
  let ever = 0n
  const drawn = new Set<bigint>()
  for (let ms = 1; ms <= 2000; ms++) {
    const tail = bitsOf(ids.make('req', new Date(ms))) & ((1n << 80n) - 1n)
    ever |= tail
    drawn.add(tail)
  }
  expect(drawn.size).toBe(2000)
  expect(ever).toBe((1n << 79n) - 1n)
})
