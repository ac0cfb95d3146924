import { deepStrictEqual } from 'node:assert/strict'
import { createHash, hash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import canonicalize from 'canonicalize'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type CanonicalPayload, canonicalizePayload, canonicalJson } from '../../src/message/canonical.ts'
import { type JsonValue, parseJson } from '../../src/message/json.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { serializeSlowly } from './rfc8785.ts'
import { spelledJson } from './spelled-json.ts'

const bytesOf = (text: string): Uint8Array => new TextEncoder().encode(text)
const textOf = (bytes: Uint8Array): string => new TextDecoder('utf-8', { fatal: true }).decode(bytes)

describe('canonical bytes', () => {
  test('are what a serializer written from RFC 8785 makes of the value, however the payload spelled it', () => {
    fc.assert(
      fc.property(spelledJson(), ({ value, text }) => {
        expect(textOf(canonicalizePayload(parseJson(bytesOf(text))))).toBe(serializeSlowly(value))
      }),
      { numRuns: 2000 },
    )
  })

  test('are accepted by our parser, read as the same value, and canonicalize to themselves', () => {
    fc.assert(
      fc.property(spelledJson(), ({ text }) => {
        const value = parseJson(bytesOf(text))
        const canonical = canonicalizePayload(value)
        const again = parseJson(canonical)
        deepStrictEqual(again, withoutMinusZero(value))
        deepStrictEqual(canonicalizePayload(again), canonical)
      }),
      { numRuns: 2000 },
    )
  })

  test('of an object with any number of names, in any order, have them in order', () => {
    const name = fc.oneof(fc.string({ unit: 'binary', maxLength: 3 }), fc.nat(300).map(String), fc.string())
    fc.assert(
      fc.property(fc.uniqueArray(name, { maxLength: 150, size: 'max' }), (names) => {
        const value = Object.fromEntries(names.map((name, index) => [name, index]))
        expect(textOf(canonicalizePayload(value))).toBe(serializeSlowly(value))
      }),
      { numRuns: 200 },
    )
  })

  /** RFC 8785 writes minus zero as `0`: the one thing canonical bytes forget. */
  function withoutMinusZero(value: JsonValue): JsonValue {
    if (Array.isArray(value)) return value.map(withoutMinusZero)
    if (value === null || typeof value !== 'object') return value === 0 ? 0 : value
    return Object.fromEntries(Object.entries(value).map(([name, member]) => [name, withoutMinusZero(member)]))
  }

  test.each<[payload: string, canonical: string]>([
    ['{"b":1, "a":2}', '{"a":2,"b":1}'],
    ['{"10":0,"9":0,"":0}', '{"":0,"10":0,"9":0}'],
    ['{"\ufb33":0,"😀":0}', '{"😀":0,"\ufb33":0}'], // by UTF-16 code unit, not by code point
    ['{"__proto__":{"a":1},"constructor":2,"toJSON":3}', '{"__proto__":{"a":1},"constructor":2,"toJSON":3}'],
    ['["\\u001F\\u007f\\/\\u20ac\\u000a\\b"]', '["\\u001f\x7f/€\\n\\b"]'],
    ['[-0,-0.0,100.0,1E2,1e30,1e-7,0.000001]', '[0,0,100,100,1e+30,1e-7,0.000001]'],
    ['[9007199254740991,-9007199254740991.0]', '[9007199254740991,-9007199254740991]'],
    ['["\uffff\\ufdd0"]', '["\uffff\ufdd0"]'], // noncharacters are data
    ['{"\u00e9":1,"e\u0301":2}', '{"e\u0301":2,"\u00e9":1}'], // and nothing is normalized
  ])('of %s are %s', (payload, canonical) => {
    expect(textOf(canonicalizePayload(parseJson(bytesOf(payload))))).toBe(canonical)
  })

  test('have a type of their own, which raw bytes do not have', () => {
    const received = bytesOf('{}')
    // @ts-expect-error: only canonicalizePayload makes a CanonicalPayload
    const forged: CanonicalPayload = received
    const made: CanonicalPayload = canonicalizePayload(parseJson(received))
    expect(textOf(made)).toBe(textOf(forged))
  })
})

describe('our own values', () => {
  test('lose the members that are undefined', () => {
    expect(textOf(canonicalJson({ v: 1, tenant: undefined, kind: 'log.created' }))).toBe('{"kind":"log.created","v":1}')
  })

  test('become what the library makes of them, or are refused like there', () => {
    const string = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('\\ud800', '"1":', '\ud800', '\udfff\ud83d'))
    const value = fc.object({
      key: fc.oneof(string, fc.constantFrom('__proto__', 'toJSON', '007', '-1', '10', '9', '4294967295')),
      values: [
        string,
        fc.double(),
        fc.integer(),
        fc.constantFrom(null, undefined, true, -0),
        fc.date({ noInvalidDate: true }),
      ],
      maxDepth: 4,
    })
    const seen = { written: 0, refused: 0 }
    fc.assert(
      fc.property(value, (value) => {
        const expected = attempt(() => canonicalize(value))
        seen[expected === undefined ? 'refused' : 'written']++
        expect(attempt(() => textOf(canonicalJson(value)))).toBe(expected)
      }),
      { numRuns: 3000 },
    )
    expect(Math.min(seen.written, seen.refused)).toBeGreaterThan(200)
  })

  function attempt(write: () => string | undefined): string | undefined {
    try {
      return write()
    } catch {
      return undefined
    }
  }

  const cycle: object[] = []
  cycle.push(cycle)

  test.each<[what: string, value: object]>([
    ['NaN', [Number.NaN]],
    ['infinity', [Number.POSITIVE_INFINITY]],
    ['a lone surrogate', ['\ud800']],
    ['a lone surrogate in a name', { '\udc00': 0 }],
    ['a bigint', [1n]],
    ['a cycle', cycle],
    ['a function', () => {}],
  ])('are refused with %s', (_what, value) => {
    expect(() => canonicalJson(value)).toThrow()
  })
})

describe.skipIf(!vectorsPresent)('published vectors of RFC 8785', () => {
  const bytesIn = (path: string): Uint8Array => new Uint8Array(readFileSync(vectorPath(`jcs/${path}`)))

  test('inputs become their outputs, which do not change again', () => {
    const names = readdirSync(vectorPath('jcs/input')).map((file) => file.replace('.json', ''))
    expect(names.sort()).toEqual(['arrays', 'french', 'structures', 'unicode', 'values', 'weird'])
    for (const name of names) {
      const output = bytesIn(`output/${name}.json`)
      const hexadecimal = textOf(bytesIn(`outhex/${name}.txt`)).replaceAll(/\s/g, '')
      for (const source of [bytesIn(`input/${name}.json`), output]) {
        const canonical = canonicalizePayload(parseJson(source))
        expect(textOf(canonical), name).toBe(textOf(output))
        expect(Buffer.from(canonical).toString('hex'), name).toBe(hexadecimal)
      }
    }
  })

  test('a million numbers have the published checksums', () => {
    const page = textOf(bytesIn('numbers.md'))
    const checksums = new Map(
      Array.from(page.matchAll(/^\| ([\d,]+) \| [\d,]+ \| `([0-9a-f]{64})` \|$/gm), ([, lines = '', sha256 = '']) => [
        Number(lines.replaceAll(',', '')),
        sha256,
      ]),
    )
    const listed = page.slice(page.indexOf('## Static values')).match(/\b[0-9a-f]{16}\b/g) ?? []
    expect(listed).toHaveLength(168)

    const digest = createHash('sha256')
    const checked: number[] = []
    let lines = 0
    for (const bits of bitsOfNumbers(listed)) {
      const value = doubleOf(bits)
      const canonical = canonicalJson(value)
      digest
        .update(`${bits.toString(16)},`)
        .update(canonical)
        .update('\n')
      const expected = checksums.get(++lines)
      if (expected !== undefined) {
        expect(digest.copy().digest('hex'), `${lines} lines`).toBe(expected)
        checked.push(lines)
      }
      // What we would take from a vendor reads back as the same double.
      const isReadable = Math.abs(value) <= Number.MAX_SAFE_INTEGER || Math.abs(value) >= 1e21
      if (lines <= 100_000 && isReadable) deepStrictEqual(parseJson(canonical), value === 0 ? 0 : value)
      if (lines === 1_000_000) break
    }
    expect(checked).toEqual([1_000, 10_000, 100_000, 1_000_000])
  })

  const word = new DataView(new ArrayBuffer(8))

  function doubleOf(bits: bigint): number {
    word.setBigUint64(0, bits)
    return word.getFloat64(0)
  }

  /** The sequence of numbers.md: the listed values, 2,000 serial ones, then whatever a chain of SHA-256 yields. */
  function* bitsOfNumbers(listed: string[]): Generator<bigint, never> {
    for (const bits of listed) yield BigInt(`0x${bits}`)
    for (let serial = 0n; serial < 2000n; serial++) yield 0x0010000000000000n + serial
    for (let block = Buffer.alloc(32); ; ) {
      block = hash('sha256', block, 'buffer')
      for (let at = 0; at < 32; at += 8) {
        const value = block.readDoubleLE(at)
        if (value !== 0 && Number.isFinite(value)) yield block.readBigUInt64LE(at)
      }
    }
  }
})
