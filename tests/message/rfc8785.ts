import type { JsonValue } from '../../src/message/json.ts'

/** RFC 8785 §3.2, written from the text, without `JSON.stringify`, `String(number)` or the default sort: the oracle. */
export function serializeSlowly(value: JsonValue): string {
  if (value === null || typeof value === 'boolean') return value === null ? 'null' : value ? 'true' : 'false'
  if (typeof value === 'number') return serializeNumber(value)
  if (typeof value === 'string') return serializeString(value)
  if (Array.isArray(value)) return `[${value.map(serializeSlowly).join(',')}]`
  const members = Object.entries(value).sort(([one], [other]) => compareUnits(one, other))
  return `{${members.map(([name, member]) => `${serializeString(name)}:${serializeSlowly(member)}`).join(',')}}`
}

/** §3.2.2.2: only the quote, the backslash and the control characters are escaped, those in the shortest way. */
function serializeString(string: string): string {
  let text = '"'
  for (const character of string) {
    const code = character.codePointAt(0) ?? 0
    if (character === '"' || character === '\\') text += `\\${character}`
    else if (code >= 0x20) text += character
    else if (code === 0x08) text += '\\b'
    else if (code === 0x09) text += '\\t'
    else if (code === 0x0a) text += '\\n'
    else if (code === 0x0c) text += '\\f'
    else if (code === 0x0d) text += '\\r'
    else text += `\\u00${code < 16 ? '0' : '1'}${'0123456789abcdef'.charAt(code % 16)}`
  }
  return `${text}"`
}

/** §3.2.2.3 with ECMA-262 Number::toString: digits d1…dk and n such that the value is 0.d1…dk × 10^n, k smallest. */
function serializeNumber(value: number): string {
  if (value === 0) return '0'
  if (value < 0) return `-${serializeNumber(-value)}`
  let k = 1
  while (Number(value.toExponential(k - 1)) !== value) k++
  const [mantissa = '', exponent = ''] = value.toExponential(k - 1).split('e')
  const digits = evenIfTied(value, mantissa.replace('.', ''))
  const n = Number(exponent) + 1
  if (k <= n && n <= 21) return digits + '0'.repeat(n - k)
  if (0 < n && n <= 21) return `${digits.slice(0, n)}.${digits.slice(n)}`
  if (-6 < n && n <= 0) return `0.${'0'.repeat(-n)}${digits}`
  const fraction = k === 1 ? '' : `.${digits.slice(1)}`
  return `${digits.slice(0, 1)}${fraction}e${n > 0 ? '+' : '-'}${serializeNumber(Math.abs(n - 1))}`
}

/**
 * Where two numbers of k digits are equally close, ECMA-262 (Number::toString, note 2) and so V8 take the even one, while
 * toExponential takes the larger. A tie is exact: the decimal expansion goes on with a 5 and nothing more.
 */
function evenIfTied(value: number, digits: string): string {
  const exact = value.toExponential(100).replace('.', '').split('e')[0] ?? ''
  const tied = /^50*$/.test(exact.slice(digits.length))
  const isOdd = '13579'.includes(digits.charAt(digits.length - 1))
  return tied && isOdd ? exact.slice(0, digits.length) : digits
}

/** §3.2.3: names in the order of their UTF-16 code units, as unsigned integers, the shorter first. */
function compareUnits(one: string, other: string): number {
  for (let i = 0; i < Math.min(one.length, other.length); i++) {
    const difference = one.charCodeAt(i) - other.charCodeAt(i)
    if (difference !== 0) return difference
  }
  return one.length - other.length
}
