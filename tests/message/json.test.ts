import { deepStrictEqual } from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type ErrorCode, RelayError } from '../../src/errors.ts'
import { type JsonObject, type JsonValue, parseJson, parsePayload } from '../../src/message/json.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { type Spelled, spelledContainer, spelledJson } from './spelled-json.ts'

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)
const parseText = (text: string): JsonValue => parseJson(bytesOf(text))

/** What `parse` refuses with. Anything but a RelayError is a bug of the parser, and passes through. */
function refusalOf(parse: () => unknown): RelayError | undefined {
  try {
    parse()
  } catch (error) {
    if (error instanceof RelayError) return error
    throw error
  }
  return undefined
}

describe('a generated document', () => {
  test('parses to the value it was spelled from, however it is spelled', () => {
    fc.assert(
      fc.property(spelledJson(), ({ value, text }) => deepStrictEqual(parseText(text), value)),
      { numRuns: 3000 },
    )
  })

  test('parses the same from a view into a larger buffer, which stays untouched', () => {
    fc.assert(
      fc.property(spelledJson(), fc.nat(9), ({ value, text }, start) => {
        const whole = bytesOf(`${'['.repeat(start)}${text}]`)
        const before = whole.slice()
        deepStrictEqual(parseJson(whole.subarray(start, -1)), value)
        deepStrictEqual(whole, before)
      }),
    )
  })

  test('with bytes damaged at random is refused with a code, or is what a fatal decoder and JSON.parse accept too', () => {
    const damage = fc.array(
      fc.record({
        at: fc.nat(),
        cut: fc.nat(2),
        bytes: fc.oneof(
          fc.uint8Array({ maxLength: 3 }),
          fc.constantFrom(...'{}[],:"\\-0.eE+ 1tu').map((character) => bytesOf(character)),
        ),
      }),
      { minLength: 1, maxLength: 3 },
    )
    const seen = { accepted: 0, refused: 0 }
    fc.assert(
      fc.property(spelledContainer(), damage, ({ text }, damages) => {
        let bytes = bytesOf(text)
        for (const { at, cut, bytes: inserted } of damages) {
          const place = at % (bytes.length + 1)
          bytes = Uint8Array.from([...bytes.slice(0, place), ...inserted, ...bytes.slice(place + cut)])
        }
        const refusal = refusalOf(() => parseJson(bytes))
        const reference = parseWithThePlatform(bytes)
        if (refusal === undefined) {
          seen.accepted++
          expect(reference).toBeDefined()
          // The platform's names are right where nothing is escaped (nodejs/node#63785).
          if (!reference?.text.includes('\\')) deepStrictEqual(parseJson(bytes), reference?.value)
        } else {
          seen.refused++
          expect(refusal.details.offset).toBeGreaterThanOrEqual(0)
          expect(refusal.details.offset).toBeLessThanOrEqual(bytes.length)
          if (reference !== undefined) expect(iJsonCodes).toContain(refusal.code)
        }
      }),
      { numRuns: 5000 },
    )
    expect(Math.min(seen.accepted, seen.refused)).toBeGreaterThan(200)
  })

  /** What we refuse although RFC 8259 allows it: I-JSON (RFC 7493 section 2) and the depth. */
  const iJsonCodes: ErrorCode[] = [
    'payload_duplicate_name',
    'payload_lone_surrogate',
    'payload_unsafe_integer',
    'payload_number_overflow',
    'payload_number_underflow',
    'payload_too_deep',
  ]

  function parseWithThePlatform(bytes: Uint8Array): Spelled | undefined {
    try {
      const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
      return { text, value: JSON.parse(text) }
    } catch {
      return undefined
    }
  }
})

describe('member names', () => {
  // The two texts of nodejs/node#63785: once V8 has seen the first, its JSON.parse names the second's member am\u00.
  const unlucky = String.raw`{"id":"x","am\\u00":0}`
  const victim = String.raw`{"id":"evt_1","am\u006funt":100}`

  test('of one text do not depend on a text parsed before it', async ({ annotate }) => {
    JSON.parse(unlucky)
    const platform = Object.keys(JSON.parse(victim)).join(' ')
    await annotate(`JSON.parse of Node ${process.version} reads the members "${platform}", which are "id amount"`)

    expect(Object.keys(parseText(unlucky) as JsonObject)).toEqual(['id', 'am\\u00'])
    expect(Object.keys(parseText(victim) as JsonObject)).toEqual(['id', 'amount'])
  })

  test.each(['__proto__', 'constructor', 'hasOwnProperty', 'toJSON', 'toString', ''])(
    'may be %j, a plain member like any other',
    (name) => {
      const object = parseText(`{"${name}":{"x":1}}`) as JsonObject
      expect(Object.getOwnPropertyDescriptor(object, name)).toEqual({
        value: { x: 1 },
        writable: true,
        enumerable: true,
        configurable: true,
      })
      expect(Object.getPrototypeOf(object)).toBe(Object.prototype)
      expect(object).not.toHaveProperty('x')
      expect(Object.getOwnPropertyNames(Object.prototype)).not.toContain('x')
    },
  )

  test('in composed and decomposed form are two names', () => {
    expect(Object.keys(parseText('{"\u00e9":1,"e\u0301":2}') as JsonObject)).toHaveLength(2)
  })
})

describe('a refusal names its code, the byte offset and the pointer', () => {
  /** ▲ stands before the byte that `offset` must name, and is not part of the payload. */
  const refusals: [code: ErrorCode, marked: string, pointer: string | undefined][] = [
    ['payload_empty', '▲', undefined],
    ['payload_empty', ' \t\r\n▲', undefined],
    ['payload_byte_order_mark', '▲\ufeff{}', undefined],
    ['payload_byte_order_mark', '▲\ufeff', undefined],
    ['payload_invalid_json', '{}▲\ufeff', ''],
    ['payload_invalid_json', '▲\u00a0{}', ''],
    ['payload_invalid_json', '{"é漢😀":▲}', '/é漢😀'],
    ['payload_invalid_json', '["é漢😀",▲]', '/1'],
    ['payload_invalid_json', '["é漢😀" ▲"a"]', ''],
    ['payload_invalid_json', '{"é":[0,{"a/b~c":tru▲x}]}', '/é/1/a~1b~0c'],
    ['payload_invalid_json', '{"a":0▲;"b":1}', ''],
    ['payload_invalid_json', '{"a"▲=0}', '/a'],
    ['payload_invalid_json', '{"a":0,▲}', ''],
    ['payload_invalid_json', "{▲'a':0}", ''],
    ['payload_invalid_json', '{}▲{}', ''],
    ['payload_invalid_json', '["é",0▲1]', '/1'],
    ['payload_invalid_json', '["é",-▲]', '/1'],
    ['payload_invalid_json', '[1.▲e5]', '/0'],
    ['payload_invalid_json', '["é▲\n"]', '/0'],
    ['payload_invalid_json', '["é▲\0"]', '/0'],
    ['payload_invalid_json', '["😀\\▲x"]', '/0'],
    ['payload_invalid_json', '["😀\\u00▲g0"]', '/0'],
    ['payload_invalid_json', '["\\u12▲ 4"]', '/0'],
    ['payload_invalid_json', '["\\ud83d\\u▲"]', '/0'],
    ['payload_invalid_json', '{"a\\▲q":0}', ''],
    ['payload_duplicate_name', '{"é":0,▲"é":0}', '/é'],
    ['payload_duplicate_name', '{"a":0,"b":1, ▲"\\u0061":0}', '/a'],
    ['payload_duplicate_name', '[{"~/":[],▲"~\\/"', '/0/~0~1'],
    ['payload_duplicate_name', '{"__proto__":0,▲"__proto__":0}', '/__proto__'],
    ['payload_duplicate_name', '{"":0,▲"":0}', '/'],
    ['payload_duplicate_name', '{"0":0,"1":1,▲"0":0}', '/0'],
    ['payload_duplicate_name', '{"o":{"a":{"a":0,▲"a":0}}}', '/o/a/a'],
    ['payload_lone_surrogate', '{"é":"x▲\\ud800"}', '/é'],
    ['payload_lone_surrogate', '["😀▲\\udc00"]', '/0'],
    ['payload_lone_surrogate', '["▲\\uDE00\\uD83D"]', '/0'],
    ['payload_lone_surrogate', '["\\ud83d\\ude00▲\\ud83d\\n"]', '/0'],
    ['payload_lone_surrogate', '["▲\\ud83d\\ud83d\\ude00"]', '/0'],
    ['payload_lone_surrogate', '["▲\\udc00\\udc00"]', '/0'],
    ['payload_lone_surrogate', '["▲\\ud83d😀"]', '/0'],
    ['payload_lone_surrogate', '[{"é▲\\udfff":0}]', '/0'],
    ['payload_unsafe_integer', '{"é":▲9007199254740992}', '/é'],
    ['payload_unsafe_integer', '[▲-9007199254740992]', '/0'],
    ['payload_unsafe_integer', '[▲9007199254740993]', '/0'],
    ['payload_unsafe_integer', '[▲9007199254740993.0]', '/0'],
    ['payload_unsafe_integer', '[▲9007199254740991.5]', '/0'],
    ['payload_unsafe_integer', '[▲1e20]', '/0'],
    ['payload_unsafe_integer', '[▲-99999999999999999999]', '/0'],
    ['payload_unsafe_integer', `[▲1${'0'.repeat(21)}]`, '/0'],
    ['payload_unsafe_integer', `[▲1${'0'.repeat(400)}]`, '/0'],
    ['payload_number_overflow', '{"é":▲1e309}', '/é'],
    ['payload_number_overflow', '[0,▲-1.7976931348623159e308]', '/1'],
    ['payload_number_overflow', `[▲1${'0'.repeat(400)}.0]`, '/0'],
    ['payload_number_underflow', '{"é":▲1e-400}', '/é'],
    ['payload_number_underflow', '[▲-2e-324]', '/0'],
    ['payload_number_underflow', `[▲0.${'0'.repeat(400)}1]`, '/0'],
    ['payload_too_deep', `${'['.repeat(64)}▲[`, '/0'.repeat(64)],
    ['payload_too_deep', `${'{"é":'.repeat(64)}▲{}`, '/é'.repeat(64)],
    ['payload_too_deep', `[0,${'{"a":['.repeat(31)}[▲[`, `/1${'/a/0'.repeat(31)}/0`],
  ]

  test.each(refusals)('%s: %s', (code, marked, pointer) => {
    const offset = bytesOf(marked.slice(0, marked.indexOf('▲'))).length
    const refusal = refusalOf(() => parseText(marked.replace('▲', '')))
    expect(refusal?.code).toBe(code)
    expect({ offset: refusal?.details.offset, pointer: refusal?.details.pointer }).toEqual({ offset, pointer })
  })

  test.each<[what: string, before: string, bytes: number[]]>([
    ['a lone continuation byte', '["é', [0x80, 0x22, 0x5d]],
    ['a byte that UTF-8 never uses', '{"漢":"', [0xff, 0x22, 0x7d]],
    ['an overlong form', '["', [0xc0, 0xaf, 0x22, 0x5d]],
    ['an overlong form of three bytes', '["', [0xe0, 0x9f, 0xbf, 0x22, 0x5d]],
    ['an overlong form of four bytes', '["', [0xf0, 0x8f, 0xbf, 0xbf, 0x22, 0x5d]],
    ['a surrogate', '["\ud7ff\ue000', [0xed, 0xa0, 0x80, 0x22, 0x5d]],
    ['a code point beyond U+10FFFF', '["\u{10ffff}', [0xf4, 0x90, 0x80, 0x80, 0x22, 0x5d]],
    ['a character cut short by another', '["\ufffd', [0xef, 0xbf, 0x22, 0x5d]],
    ['a character cut short by the end', '["😀', [0xf0, 0x9f, 0x98]],
    ['UTF-16 with its mark', '', [0xff, 0xfe, 0x7b, 0x00, 0x7d, 0x00]],
    ['an offence after a worse one', '[,,"', [0xff]],
  ])('payload_invalid_utf8: %s', (_what, before, bytes) => {
    const start = bytesOf(before)
    const refusal = refusalOf(() => parseJson(Uint8Array.from([...start, ...bytes])))
    expect(refusal?.code).toBe('payload_invalid_utf8')
    expect(refusal?.details).toEqual({ offset: start.length })
  })

  test('and a text cut short anywhere is refused at its end', () => {
    const text = '{"né\\u006d":[true,false,null,-12.5e+3,"漢\\n",{}]}'
    const characters = Array.from(text)
    for (let kept = 1; kept < characters.length; kept++) {
      const bytes = bytesOf(characters.slice(0, kept).join(''))
      const refusal = refusalOf(() => parseJson(bytes))
      expect([kept, refusal?.code, refusal?.details.offset]).toEqual([kept, 'payload_invalid_json', bytes.length])
    }
    expect(parseText(text)).toBeDefined()
  })

  test('and shows no more than one character of the payload in its sentence', () => {
    for (const text of [
      '{QZQZQZ}',
      '["QZ" QZQZ]',
      '{"QZ" QZ}',
      '[QZ',
      '["\\QZQZ"]',
      '["\\uQZQZ"]',
      '[tQZQ]',
      '[1.QZ]',
      '{}QZ',
    ]) {
      const refusal = refusalOf(() => parseText(text))
      expect(refusal?.details.detail).toBeDefined()
      expect(refusal?.message).not.toContain('QZ')
    }
  })

  test('and leaves out a pointer that would repeat a payload full of names', () => {
    const pointerBelow = (name: string) => refusalOf(() => parseText(`{"${name}":x}`))?.details.pointer
    expect(pointerBelow('n'.repeat(1023))).toBe(`/${'n'.repeat(1023)}`)
    expect(pointerBelow('n'.repeat(1024))).toBeUndefined()
  })
})

describe('numbers', () => {
  test.each<[text: string, value: number]>([
    ['-0', -0],
    ['-0.0e-999', -0],
    ['0e999', 0],
    ['9007199254740991', Number.MAX_SAFE_INTEGER],
    ['-9007199254740991', Number.MIN_SAFE_INTEGER],
    ['9007199254740991.0', Number.MAX_SAFE_INTEGER],
    ['90071992547409910e-1', Number.MAX_SAFE_INTEGER],
    ['0.10000000000000001', 0.1],
    ['333333333.33333329', 333333333.3333333],
    ['1E30', 1e30],
    ['1e21', 1e21],
    ['1.7976931348623157e308', Number.MAX_VALUE],
    ['5e-324', Number.MIN_VALUE],
    ['3e-324', Number.MIN_VALUE],
  ])('%s is accepted, as the double it names', (text, value) => {
    expect(parseText(`[${text}]`)).toEqual([value])
  })
})

describe('limits', () => {
  test('64 containers within containers are accepted, side by side without end', () => {
    const deepest = `${'['.repeat(63)}{}${']'.repeat(63)}`
    expect(refusalOf(() => parseText(deepest))).toBeUndefined()
    expect(parseText(`[${'[],{},'.repeat(1000)}0]`)).toHaveLength(2001)
  })

  test('the depth is the caller’s to set', () => {
    expect(parseJson(bytesOf('[[]]'), { maxDepth: 2 })).toEqual([[]])
    expect(refusalOf(() => parseJson(bytesOf('[[]]'), { maxDepth: 1 }))?.details).toEqual({ offset: 1, pointer: '/0' })
    expect(refusalOf(() => parsePayload(bytesOf('[[]]'), { maxDepth: 1 }))?.code).toBe('payload_too_deep')
    expect(parseJson(bytesOf('1'), { maxDepth: 0 })).toBe(1)
  })

  const object = (name: (index: number) => string | number) =>
    `{${Array.from({ length: 100_000 }, (_, index) => `"${name(index)}":0`).join(',')}}`

  // About a megabyte each, and parsed in less than a fifth of a second: a step that is quadratic would take minutes.
  test.each<[what: string, text: () => string]>([
    ['100,000 names', () => object((index) => `name ${index}`)],
    ['100,000 names that look like indices', () => object((index) => index * 40_961)],
    ['100,000 names that look like falling indices', () => object((index) => 4_294_967_294 - index * 1024)],
    ['100,000 escaped names', () => object((index) => `\\u0061${index}`)],
    ['500,000 escapes', () => `["${'\\n'.repeat(500_000)}"]`],
    ['80,000 escaped pairs', () => `["${'\\ud83d\\ude00'.repeat(80_000)}"]`],
    ['a million digits', () => `[0.${'1'.repeat(1_000_000)}]`],
    ['a million spaces', () => `[${' '.repeat(1_000_000)}]`],
    ['300,000 arrays', () => `[${'[],'.repeat(300_000)}0]`],
  ])('%s take linear time', { timeout: 10_000 }, (_what, text) => {
    expect(refusalOf(() => parseText(text()))).toBeUndefined()
  })

  test.each<[what: string, text: () => string, code: ErrorCode]>([
    ['250,000 brackets', () => '['.repeat(250_000), 'payload_too_deep'],
    ['a million zeros and then a one', () => `[0.${'0'.repeat(1_000_000)}1]`, 'payload_number_underflow'],
    ['a million nines', () => `[${'9'.repeat(1_000_000)}]`, 'payload_unsafe_integer'],
    ['a million spaces and nothing else', () => ' '.repeat(1_000_000), 'payload_empty'],
    ['half a million characters without a closing quote', () => `["${'é'.repeat(500_000)}`, 'payload_invalid_json'],
  ])('%s are refused in linear time', { timeout: 10_000 }, (_what, text, code) => {
    expect(refusalOf(() => parseText(text()))?.code).toBe(code)
  })

  test('a bad byte after a megabyte of characters is found in linear time', { timeout: 10_000 }, () => {
    const bytes = Uint8Array.from([...bytesOf('é'.repeat(500_000)), 0xff])
    expect(refusalOf(() => parseJson(bytes))?.details.offset).toBe(1_000_000)
  })
})

describe('a payload', () => {
  test('is an object or an array', () => {
    expect(parsePayload(bytesOf(' {"a":[]} '))).toEqual({ a: [] })
    expect(parsePayload(bytesOf('[]'))).toEqual([])
  })

  test.each(['null', 'true', '0', '"é"', '-1e3'])('is not %s, which is refused where it starts', (text) => {
    const refusal = refusalOf(() => parsePayload(bytesOf(` \r\n\t${text} `)))
    expect(refusal?.code).toBe('payload_not_container')
    expect(refusal?.details).toEqual({ offset: 4, pointer: '' })
    expect(refusalOf(() => parseText(text))).toBeUndefined()
  })

  test('that is malformed is refused as such first', () => {
    expect(refusalOf(() => parsePayload(bytesOf('"a')))?.code).toBe('payload_invalid_json')
    expect(refusalOf(() => parsePayload(bytesOf('1e999')))?.code).toBe('payload_number_overflow')
    expect(refusalOf(() => parsePayload(bytesOf('')))?.code).toBe('payload_empty')
  })
})

describe.skipIf(!vectorsPresent)('JSONTestSuite', () => {
  type Verdicts = Record<string, ErrorCode | 'accepted'>

  const vectorsIn = (folder: string, prefix: string) =>
    readdirSync(vectorPath(folder))
      .filter((file) => file.startsWith(prefix))
      .map((file) => ({ file, bytes: new Uint8Array(readFileSync(join(vectorPath(folder), file))) }))

  const verdicts = (folder: string, prefix: string): Verdicts =>
    Object.fromEntries(
      vectorsIn(folder, prefix).map(({ file, bytes }) => [
        file.replace('.json', ''),
        refusalOf(() => parseJson(bytes))?.code ?? 'accepted',
      ]),
    )

  const allBut = (usual: ErrorCode | 'accepted', all: Verdicts, exceptions: Verdicts): Verdicts => ({
    ...Object.fromEntries(Object.keys(all).map((file) => [file, usual])),
    ...exceptions,
  })

  test('accepts what RFC 8259 must accept, but for duplicate names', () => {
    const all = verdicts('json/test_parsing', 'y_')
    expect(Object.keys(all)).toHaveLength(95)
    expect(all).toEqual(
      allBut('accepted', all, {
        y_object_duplicated_key: 'payload_duplicate_name',
        y_object_duplicated_key_and_value: 'payload_duplicate_name',
      }),
    )
  })

  test('reads the values the platform reads', () => {
    const escapedName = /"[^"]*\\[^"]*"\s*:/
    for (const { file, bytes } of vectorsIn('json/test_parsing', 'y_')) {
      const text = new TextDecoder().decode(bytes)
      if (file.includes('duplicated') || escapedName.test(text)) continue
      deepStrictEqual(parseJson(bytes), JSON.parse(text), file)
    }
  })

  test('refuses what RFC 8259 must refuse', () => {
    const all = verdicts('json/test_parsing', 'n_')
    expect(Object.keys(all)).toHaveLength(188)
    expect(all).toEqual(
      allBut('payload_invalid_json', all, {
        n_array_a_invalid_utf8: 'payload_invalid_utf8',
        n_array_invalid_utf8: 'payload_invalid_utf8',
        'n_number_invalid-utf-8-in-bigger-int': 'payload_invalid_utf8',
        'n_number_invalid-utf-8-in-exponent': 'payload_invalid_utf8',
        'n_number_invalid-utf-8-in-int': 'payload_invalid_utf8',
        n_number_real_with_invalid_utf8_after_e: 'payload_invalid_utf8',
        n_object_lone_continuation_byte_in_key_and_trailing_comma: 'payload_invalid_utf8',
        'n_string_invalid-utf-8-in-escape': 'payload_invalid_utf8',
        n_string_invalid_utf8_after_escape: 'payload_invalid_utf8',
        n_structure_incomplete_UTF8_BOM: 'payload_invalid_utf8',
        'n_structure_lone-invalid-utf-8': 'payload_invalid_utf8',
        n_structure_single_eacute: 'payload_invalid_utf8',
        n_structure_UTF8_BOM_no_data: 'payload_byte_order_mark',
        n_single_space: 'payload_empty',
        n_structure_no_data: 'payload_empty',
        n_string_1_surrogate_then_escape: 'payload_lone_surrogate',
        n_string_incomplete_surrogate_escape_invalid: 'payload_lone_surrogate',
        n_structure_100000_opening_arrays: 'payload_too_deep',
        n_structure_open_array_object: 'payload_too_deep',
      }),
    )
  })

  test('decides what RFC 8259 leaves open', () => {
    expect(verdicts('json/test_parsing', 'i_')).toEqual({
      i_number_double_huge_neg_exp: 'payload_number_underflow',
      i_number_huge_exp: 'payload_number_overflow',
      i_number_neg_int_huge_exp: 'payload_number_overflow',
      i_number_pos_double_huge_exp: 'payload_number_overflow',
      i_number_real_neg_overflow: 'payload_number_overflow',
      i_number_real_pos_overflow: 'payload_number_overflow',
      i_number_real_underflow: 'payload_number_underflow',
      i_number_too_big_neg_int: 'payload_unsafe_integer',
      i_number_too_big_pos_int: 'payload_unsafe_integer',
      i_number_very_big_negative_int: 'payload_unsafe_integer',
      i_object_key_lone_2nd_surrogate: 'payload_lone_surrogate',
      i_string_1st_surrogate_but_2nd_missing: 'payload_lone_surrogate',
      i_string_1st_valid_surrogate_2nd_invalid: 'payload_lone_surrogate',
      'i_string_UTF-16LE_with_BOM': 'payload_invalid_utf8',
      'i_string_UTF-8_invalid_sequence': 'payload_invalid_utf8',
      'i_string_UTF8_surrogate_U+D800': 'payload_invalid_utf8',
      i_string_incomplete_surrogate_and_escape_valid: 'payload_lone_surrogate',
      i_string_incomplete_surrogate_pair: 'payload_lone_surrogate',
      i_string_incomplete_surrogates_escape_valid: 'payload_lone_surrogate',
      i_string_invalid_lonely_surrogate: 'payload_lone_surrogate',
      i_string_invalid_surrogate: 'payload_lone_surrogate',
      'i_string_invalid_utf-8': 'payload_invalid_utf8',
      'i_string_inverted_surrogates_U+1D11E': 'payload_lone_surrogate',
      i_string_iso_latin_1: 'payload_invalid_utf8',
      i_string_lone_second_surrogate: 'payload_lone_surrogate',
      i_string_lone_utf8_continuation_byte: 'payload_invalid_utf8',
      i_string_not_in_unicode_range: 'payload_invalid_utf8',
      i_string_overlong_sequence_2_bytes: 'payload_invalid_utf8',
      i_string_overlong_sequence_6_bytes: 'payload_invalid_utf8',
      i_string_overlong_sequence_6_bytes_null: 'payload_invalid_utf8',
      'i_string_truncated-utf-8': 'payload_invalid_utf8',
      i_string_utf16BE_no_BOM: 'payload_invalid_utf8',
      i_string_utf16LE_no_BOM: 'payload_invalid_utf8',
      i_structure_500_nested_arrays: 'payload_too_deep',
      'i_structure_UTF-8_BOM_empty_object': 'payload_byte_order_mark',
    })
  })

  test('refuses what parsers read differently, and keeps what they must not change', () => {
    expect(verdicts('json/test_transform', '')).toEqual({
      'number_-9223372036854775808': 'payload_unsafe_integer',
      'number_-9223372036854775809': 'payload_unsafe_integer',
      'number_1.0': 'accepted',
      'number_1.000000000000000005': 'accepted',
      number_1000000000000000: 'accepted',
      number_10000000000000000999: 'payload_unsafe_integer',
      'number_1e-999': 'payload_number_underflow',
      number_1e6: 'accepted',
      number_9223372036854775807: 'payload_unsafe_integer',
      number_9223372036854775808: 'payload_unsafe_integer',
      object_key_nfc_nfd: 'accepted',
      object_key_nfd_nfc: 'accepted',
      object_same_key_different_values: 'payload_duplicate_name',
      object_same_key_same_value: 'payload_duplicate_name',
      object_same_key_unclear_values: 'payload_duplicate_name',
      string_1_escaped_invalid_codepoint: 'payload_lone_surrogate',
      string_1_invalid_codepoint: 'payload_invalid_utf8',
      string_2_escaped_invalid_codepoints: 'payload_lone_surrogate',
      string_2_invalid_codepoints: 'payload_invalid_utf8',
      string_3_escaped_invalid_codepoints: 'payload_lone_surrogate',
      string_3_invalid_codepoints: 'payload_invalid_utf8',
      string_with_escaped_NULL: 'accepted',
    })
    const read = (file: string) => parseJson(readFileSync(vectorPath(`json/test_transform/${file}.json`)))
    expect(read('number_1.000000000000000005')).toEqual([1])
    expect(read('number_1000000000000000')).toEqual([1e15])
    expect(read('object_key_nfc_nfd')).toEqual({ '\u00e9': 'NFC', 'e\u0301': 'NFD' })
    expect(read('string_with_escaped_NULL')).toEqual(['A\0B'])
  })
})
