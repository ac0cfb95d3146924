import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { JsonValue } from '../../src/message/json.ts'
import { parseJsonPath, valueAt } from '../../src/message/json-path.ts'

const payload: JsonValue = {
  o: { 'j j': { 'k.k': 3 }, '☺': 'smile', '': 'nameless' },
  a: ['a', 'b', { "'": 'quote' }],
  n: null,
}

test.each([
  ['$', payload],
  ["$.o['j j']", { 'k.k': 3 }],
  ["$.o['j j']['k.k']", 3],
  ['$.o["j j"]["k.k"]', 3],
  ['$.o.☺', 'smile'],
  ["$['o']['\\u263A']", 'smile'],
  ["$.o['']", 'nameless'],
  ['$.a[1]', 'b'],
  ['$.a[-2]', 'b'],
  ["$.a[2]['\\'']", 'quote'],
  ['$ .a\n[0]', 'a'],
  ['$.n', null],
  ['$.a[3]', undefined],
  ['$.a[-4]', undefined],
  ['$.a.length', undefined],
  ['$.o[0]', undefined],
  ['$.n.n', undefined],
  ['$.constructor', undefined],
  ['$.__proto__', undefined],
])('%s leads to %j', (path, value) => {
  expect(valueAt(payload, parseJsonPath(path))).toEqual(value)
})

/** RFC 9535: what it forbids, and what it allows but could select several values. */
test.each([
  ...['', 'a', '.a', '$.', '$a', ' $', '$ ', '$.a ', '$.1', '$.-', '$..a', '$.*', '$[*]', '$[]', '$[a]', '$[0,1]'],
  ...['$[0:1]', '$[?@.a]', '$[01]', '$[-0]', '$[1.0]', '$[ 0]', '$[0 ]', '$[9007199254740992]', "$['a", "$['a']]"],
  ...["$['a'b']", '$["\\\'"]', "$['\\\"']", "$['\\x']", "$['\\u12']", "$['\\uD800']", "$['\\uDC00']", "$['\n']"],
  ...['$.a[0', '$.\u{1f}', '$.a\u0000', '$.\ud800', `$${'.a'.repeat(33)}`, `$.${'a'.repeat(600)}`],
])('%j is refused', (path) => {
  expect(() => parseJsonPath(path)).toThrow(RangeError)
})

describe('a normalized path (RFC 9535 §2.7)', () => {
  const name = fc.string({
    unit: fc.oneof(fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }), fc.constantFrom('"', "'", '\\')),
  })
  const step = fc.oneof(name, fc.integer({ min: 0, max: 50 }))

  test('is read as what it was written for, and leads there', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 6 }), (steps) => {
        const text = `$${steps.map(normalized).join('')}`
        fc.pre(text.length <= 512 && text.isWellFormed())
        expect(parseJsonPath(text)).toEqual(steps)
        expect(valueAt(nest(steps), parseJsonPath(text))).toBe('here')
      }),
    )
  })
})

/** The grammar of §2.7, by hand. */
const normalized = (step: string | number): string =>
  typeof step === 'number' ? `[${step}]` : `['${[...step].map(escaped).join('')}']`

function escaped(character: string): string {
  if (character === "'" || character === '\\') return `\\${character}`
  return character < ' ' ? `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}` : character
}

/** A value in which `steps` lead to 'here'. */
function nest([first, ...rest]: readonly (string | number)[]): JsonValue {
  if (first === undefined) return 'here'
  const inner = nest(rest)
  if (typeof first === 'number') return [...Array<null>(first).fill(null), inner]
  return Object.fromEntries([[first, inner]])
}
