import fc from 'fast-check'
import type { JsonObject, JsonValue } from '../../src/message/json.ts'

/** A value, and one of the many ways to spell it in JSON: the value is the oracle for whoever parses the text. */
export interface Spelled<T extends JsonValue = JsonValue> {
  value: T
  text: string
}

/** Documents that RFC 8259 and I-JSON both allow, with random white space, escapes and number forms. */
export const spelledJson = (): fc.Arbitrary<Spelled> =>
  fc.letrec<{ value: Spelled; array: Spelled; object: Spelled }>((tie) => ({
    value: fc.oneof(
      { maxDepth: 5 },
      fc.constantFrom<Spelled>(
        { value: null, text: 'null' },
        { value: true, text: 'true' },
        { value: false, text: 'false' },
      ),
      spelledNumber,
      spelledString,
      tie('array'),
      tie('object'),
    ),
    array: fc.tuple(space, fc.array(spaced(tie('value')), { maxLength: 5 })).map(([inside, elements]) => ({
      value: elements.map(({ value }) => value),
      text: `[${inside}${elements.map(({ text }) => text).join(',')}]`,
    })),
    object: fc.tuple(space, members(spaced(spelledString), spaced(tie('value')))).map(([inside, all]) => ({
      value: Object.fromEntries(all.map(([name, member]) => [name.value, member.value])) as JsonObject,
      text: `{${inside}${all.map(([name, member]) => `${name.text}:${member.text}`).join(',')}}`,
    })),
  })).value

/** The same, with an array or an object at the top. */
export const spelledContainer = (): fc.Arbitrary<Spelled> =>
  fc.array(spaced(spelledJson()), { maxLength: 4 }).map((elements) => ({
    value: elements.map(({ value }) => value),
    text: `[${elements.map(({ text }) => text).join(',')}]`,
  }))

const members = (name: fc.Arbitrary<Spelled<string>>, value: fc.Arbitrary<Spelled>) =>
  fc.uniqueArray(fc.tuple(name, value), { maxLength: 5, selector: ([{ value }]) => value })

const space = fc.string({ unit: fc.constantFrom(' ', '\t', '\n', '\r'), maxLength: 2 })

const spaced = <T extends JsonValue>(spelled: fc.Arbitrary<Spelled<T>>): fc.Arbitrary<Spelled<T>> =>
  fc.tuple(space, spelled, space).map(([before, { value, text }, after]) => ({ value, text: before + text + after }))

const shortEscapes = new Map([
  ['"', '\\"'],
  ['\\', '\\\\'],
  ['/', '\\/'],
  ['\b', '\\b'],
  ['\f', '\\f'],
  ['\n', '\\n'],
  ['\r', '\\r'],
  ['\t', '\\t'],
])

const awkward = [
  '__proto__',
  'constructor',
  'toJSON',
  'hasOwnProperty',
  '',
  '0',
  '9',
  '10',
  '-1',
  '4294967295',
  'a',
  'é',
]

const character = fc.oneof(
  fc.constantFrom(...shortEscapes.keys(), '\0', '\x1f', '\x7f', 'u', '\u2028', '\ud7ff', '\ue000', '\uffff', '😀'),
  fc.string({ unit: 'binary', minLength: 1, maxLength: 1 }), // any code point but surrogates
)

const spelledString: fc.Arbitrary<Spelled<string>> = fc
  .oneof(fc.constantFrom(...awkward), fc.string({ unit: character, maxLength: 8 }))
  .chain((value) =>
    fc.tuple(...Array.from(value, spellings)).map((spelled) => ({ value, text: `"${spelled.join('')}"` })),
  )

function spellings(one: string): fc.Arbitrary<string> {
  const short = shortEscapes.get(one)
  const units = one.split('').map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
  const escaped = fc.constantFrom(units.join(''), units.map((unit) => `\\u${unit.slice(2).toUpperCase()}`).join(''))
  const isRaw = one >= ' ' && one !== '"' && one !== '\\'
  return fc.oneof(escaped, ...(short ? [fc.constant(short)] : []), ...(isRaw ? [fc.constant(one)] : []))
}

/** Every double but those that RFC 8785 would write as an integer beyond ±(2^53−1). */
const double = fc.oneof(
  fc.integer(),
  fc.maxSafeInteger(),
  fc.constantFrom(
    0,
    -0,
    2 ** 53 - 1,
    -(2 ** 53 - 1),
    1e21,
    1e30,
    5e-324,
    2.2250738585072014e-308,
    -Number.MAX_VALUE,
    1e-7,
  ),
  fc
    .double({ noNaN: true, noDefaultInfinity: true })
    .filter((value) => Math.abs(value) < 2 ** 53 || Math.abs(value) >= 1e21),
)

const spelledNumber: fc.Arbitrary<Spelled<number>> = fc
  .record({
    value: double,
    e: fc.constantFrom('e', 'E'),
    plus: fc.constantFrom('', '+'),
    zeros: fc.constantFrom('', '0', '00'),
    form: fc.constantFrom('shortest', 'exponent', 'shifted', 'long'),
    precision: fc.integer({ min: 17, max: 40 }),
  })
  .map(({ value, e, plus, zeros, form, precision }) => {
    const sign = value < 0 || Object.is(value, -0) ? '-' : ''
    const magnitude = Math.abs(value)
    const [mantissa = '', exponent = ''] = magnitude.toExponential().split('e')
    const power = (tens: number) => `${e}${tens < 0 ? '-' : plus}${zeros}${Math.abs(tens)}`
    const texts = {
      shortest: String(magnitude),
      exponent: mantissa + power(Number(exponent)),
      shifted: mantissa.replace('.', '') + power(Number(exponent) - Math.max(0, mantissa.length - 2)),
      long: withoutIntegerLiteral(magnitude.toPrecision(precision)),
    }
    return { value, text: sign + texts[form as keyof typeof texts] }
  })

/** A long text may end before its decimal point, and 10^26 spelled with 27 digits is refused as an integer. */
const withoutIntegerLiteral = (text: string): string => (/^\d+$/.test(text) ? `${text}.0` : text)
