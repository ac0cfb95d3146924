import { Buffer, isUtf8 } from 'node:buffer'
import { type ErrorCode, RelayError } from '../errors.ts'

export type JsonValue = null | boolean | number | string | JsonValue[] | JsonObject
export type JsonObject = { [name: string]: JsonValue }

export interface JsonLimits {
  /** Containers within containers, the outermost counted as 1. The parser recurses, so keep it in the hundreds. */
  maxDepth?: number
}

/**
 * Parses JSON as RFC 8259 and I-JSON (RFC 7493) both allow it: the only door for bytes from outside.
 *
 * `JSON.parse` is no alternative. It forgets what we must refuse (duplicate names, lost digits, lone surrogates), and
 * in Node 23 to 26 it can return another member's name in place of an escaped one (nodejs/node#63785).
 *
 * Throws RelayError with a `payload_…` code, the byte `offset` of the offence in the body as received, and the RFC 6901
 * `pointer` of the value concerned where there is one. Time is linear in the bytes; bounding those is up to the caller.
 */
export function parseJson(bytes: Uint8Array, limits: JsonLimits = {}): JsonValue {
  return new Parser(decodeUtf8(bytes), limits.maxDepth ?? 64).parse()
}

/** Parses a payload: what {@link parseJson} accepts, if its top level is an object or an array. */
export function parsePayload(bytes: Uint8Array, limits: JsonLimits = {}): JsonValue[] | JsonObject {
  const value = parseJson(bytes, limits)
  if (typeof value === 'object' && value !== null) return value
  throw new RelayError('payload_not_container', { offset: bytes.findIndex((byte) => !isSpace(byte)), pointer: '' })
}

const utf8 = new TextDecoder('utf-8', { ignoreBOM: true }) // the mark is refused below, not dropped unseen

function decodeUtf8(bytes: Uint8Array): string {
  if (!isUtf8(bytes)) throw new RelayError('payload_invalid_utf8', { offset: illFormedAt(bytes) })
  const text = utf8.decode(bytes)
  if (text.startsWith('\ufeff')) throw new RelayError('payload_byte_order_mark', { offset: 0 })
  return text
}

/** Offset of the first byte that starts no character, in bytes that are not UTF-8. */
function illFormedAt(bytes: Uint8Array): number {
  const wellFormed = new RegExp(utf8Characters.map(({ source }) => source).join('|'), 'y')
  const octets = Buffer.from(bytes).toString('latin1')
  let offset = 0
  while (wellFormed.test(octets)) offset = wellFormed.lastIndex
  return offset
}

/** RFC 3629 §4, a row for each length, the shortest in runs. Each code unit stands for a byte. */
const utf8Characters = [
  /[^\x80-\xff]+/,
  /[\xc2-\xdf][\x80-\xbf]/,
  /(?:\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]|\xed[\x80-\x9f])[\x80-\xbf]/,
  /(?:\xf0[\x90-\xbf]|[\xf1-\xf3][\x80-\xbf]|\xf4[\x80-\x8f])[\x80-\xbf]{2}/,
]

/**
 * One text, read once from left to right (RFC 8259 §2). `#at` stands on the next code unit; `#path` names the members
 * and indices that lead to the value being read. Offsets and pointers are worked out only when something is refused.
 */
class Parser {
  readonly #text: string
  readonly #maxDepth: number
  readonly #path: (string | number)[] = []
  #at = 0

  constructor(text: string, maxDepth: number) {
    this.#text = text
    this.#maxDepth = maxDepth
  }

  parse(): JsonValue {
    if (this.#nextToken() === end) throw new RelayError('payload_empty', { offset: this.#at })
    const value = this.#value()
    if (this.#nextToken() !== end) throw this.#expected('the end of the payload')
    return value
  }

  #value(): JsonValue {
    const first = this.#nextToken()
    if (first === quote) return this.#string()
    if (first === openBrace) return this.#object()
    if (first === openBracket) return this.#array()
    if (first === minus || isDigit(first)) return this.#number()
    if (first === lowerT) return this.#literal('true', true)
    if (first === lowerF) return this.#literal('false', false)
    if (first === lowerN) return this.#literal('null', null)
    throw this.#expected('a value')
  }

  #object(): JsonObject {
    const object: JsonObject = {}
    this.#open()
    if (this.#nextToken() === closeBrace) {
      this.#at++
      return object
    }
    do {
      if (this.#nextToken() !== quote) throw this.#expected('a member name')
      const nameAt = this.#at
      const name = this.#string()
      this.#path.push(name)
      if (Object.hasOwn(object, name)) throw this.#refused('payload_duplicate_name', nameAt)
      if (this.#nextToken() !== colon) throw this.#expected('":"')
      this.#at++
      setMember(object, name, this.#value())
      this.#path.pop()
    } while (this.#another(closeBrace, '"," or "}"'))
    return object
  }

  #array(): JsonValue[] {
    const array: JsonValue[] = []
    this.#open()
    if (this.#nextToken() === closeBracket) {
      this.#at++
      return array
    }
    do {
      this.#path.push(array.length)
      array.push(this.#value())
      this.#path.pop()
    } while (this.#another(closeBracket, '"," or "]"'))
    return array
  }

  /** Steps over an opening bracket. The path has a step for each container around it, so its length is their depth. */
  #open(): void {
    if (this.#path.length >= this.#maxDepth) throw this.#refused('payload_too_deep', this.#at)
    this.#at++
  }

  /** Steps over the comma before another member or element, or over the bracket that closes the container. */
  #another(close: number, either: string): boolean {
    const next = this.#nextToken()
    if (next !== comma && next !== close) throw this.#expected(either)
    this.#at++
    return next === comma
  }

  /** RFC 8259 §7. Raw text needs no check for halves of pairs, because it was UTF-8: only escapes can spell them. */
  #string(): string {
    const text = this.#text
    let string = ''
    let from = this.#at + 1
    let at = from
    while (at < text.length) {
      const unit = text.charCodeAt(at)
      if (unit === quote) {
        this.#at = at + 1
        return string + text.slice(from, at)
      }
      if (unit === backslash) {
        this.#at = at
        string += text.slice(from, at) + this.#escape()
        from = at = this.#at
      } else if (unit >= space) at++
      else break
    }
    this.#at = at
    throw this.#expected('a closing quote, or a character not below U+0020')
  }

  #escape(): string {
    const escapeAt = this.#at++
    if (this.#next() !== lowerU) {
      const character = shortEscapes[this.#text.charAt(this.#at)]
      if (character === undefined) throw this.#expected('one of the escapes of RFC 8259 section 7')
      this.#at++
      return character
    }
    const unit = this.#hexadecimal()
    if (unit < 0xd800 || unit > 0xdfff) return String.fromCharCode(unit)
    if (unit < 0xdc00 && this.#text.startsWith('\\u', this.#at)) {
      this.#at++
      const low = this.#hexadecimal()
      if (low >= 0xdc00 && low <= 0xdfff) return String.fromCharCode(unit, low)
    }
    throw this.#refused('payload_lone_surrogate', escapeAt)
  }

  /** Reads `u` and its four digits: one UTF-16 code unit. */
  #hexadecimal(): number {
    let unit = 0
    for (let digits = 0; digits < 4; digits++) {
      this.#at++
      const digit = Number.parseInt(this.#text.charAt(this.#at), 16)
      if (Number.isNaN(digit)) throw this.#expected('a hexadecimal digit')
      unit = unit * 16 + digit
    }
    this.#at++
    return unit
  }

  /**
   * RFC 8259 §6, less what RFC 7493 §2.2 warns of: integers beyond ±(2^53−1), and numbers that would turn into infinity
   * or zero. `1e20` counts as an integer, because RFC 8785 writes it in digits and we must be able to read back our own
   * bytes; `1e21` does not. A decimal of more digits than a double holds is no offence: it names the nearest one.
   */
  #number(): number {
    const numberAt = this.#at
    const negative = this.#next() === minus
    if (negative) this.#at++
    const wholeAt = this.#at
    const whole = this.#digits()
    if (this.#text.charCodeAt(wholeAt) === zero && this.#at > wholeAt + 1) {
      this.#at = wholeAt + 1
      throw this.#expected('no digit after a leading zero')
    }
    let fraction = 0
    let isIntegerLiteral = true
    if (this.#next() === dot) {
      this.#at++
      fraction = this.#digits()
      isIntegerLiteral = false
    }
    if (this.#next() === lowerE || this.#next() === upperE) {
      this.#at++
      if (this.#next() === plus || this.#next() === minus) this.#at++
      this.#digits()
      isIntegerLiteral = false
    }
    const magnitude = isIntegerLiteral ? whole : Math.abs(Number(this.#text.slice(numberAt, this.#at)))
    if (magnitude > Number.MAX_SAFE_INTEGER && (isIntegerLiteral || magnitude < 1e21))
      throw this.#refused('payload_unsafe_integer', numberAt)
    if (magnitude === Number.POSITIVE_INFINITY) throw this.#refused('payload_number_overflow', numberAt)
    if (magnitude === 0 && whole + fraction > 0) throw this.#refused('payload_number_underflow', numberAt)
    return negative ? -magnitude : magnitude
  }

  /** Reads one digit or more. Their value is exact up to 2^53, larger beyond, and zero only if all of them are. */
  #digits(): number {
    if (!isDigit(this.#next())) throw this.#expected('a digit')
    let value = 0
    for (let unit = this.#next(); isDigit(unit); unit = this.#next()) {
      value = value * 10 + (unit - zero)
      this.#at++
    }
    return value
  }

  #literal<T extends JsonValue>(word: string, value: T): T {
    for (const letter of word) {
      if (this.#text.charAt(this.#at) !== letter) throw this.#expected(`"${word}"`)
      this.#at++
    }
    return value
  }

  /** The next code unit, or `end`. Asking a string beyond its end would cost V8 its fast path, hence the comparison. */
  #next(): number {
    return this.#at < this.#text.length ? this.#text.charCodeAt(this.#at) : end
  }

  #nextToken(): number {
    while (isSpace(this.#next())) this.#at++
    return this.#next()
  }

  /** A refusal at `#at`, showing no more than one character of the payload. */
  #expected(what: string): RelayError {
    const character = this.#text.codePointAt(this.#at)
    return this.#refused('payload_invalid_json', this.#at, `expected ${what}, got ${nameOf(character)}`)
  }

  #refused(code: ErrorCode, at: number, detail?: string): RelayError {
    const offset = Buffer.byteLength(this.#text.slice(0, at))
    const pointer = this.#path.map((step) => `/${String(step).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('')
    return new RelayError(code, {
      offset,
      ...(pointer.length <= maxPointerLength && { pointer }),
      ...(detail && { detail }),
    })
  }
}

/** UTF-16 code units. A pointer repeats names of the payload, which may fill all of it; the offset says enough then. */
const maxPointerLength = 1024

/** `object.__proto__ = …` would set the prototype; every other name assigns a member, `constructor` and such included. */
export function setMember(object: JsonObject, name: string, value: JsonValue): void {
  if (name !== '__proto__') object[name] = value
  else Object.defineProperty(object, name, { value, writable: true, enumerable: true, configurable: true })
}

function nameOf(character: number | undefined): string {
  if (character === undefined) return 'the end'
  if (character > space && character < 0x7f) return `"${String.fromCodePoint(character)}"`
  return `U+${character.toString(16).toUpperCase().padStart(4, '0')}`
}

const isDigit = (unit: number): boolean => unit >= zero && unit <= nine
const isSpace = (unit: number): boolean =>
  unit === space || unit === lineFeed || unit === carriageReturn || unit === tab

const shortEscapes: Readonly<Record<string, string>> = {
  '"': '"',
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
}

// Code units, by name.
const end = -1
const tab = 0x09
const lineFeed = 0x0a
const carriageReturn = 0x0d
const space = 0x20
const quote = 0x22
const plus = 0x2b
const comma = 0x2c
const minus = 0x2d
const dot = 0x2e
const zero = 0x30
const nine = 0x39
const colon = 0x3a
const upperE = 0x45
const openBracket = 0x5b
const backslash = 0x5c
const closeBracket = 0x5d
const lowerE = 0x65
const lowerF = 0x66
const lowerN = 0x6e
const lowerT = 0x74
const lowerU = 0x75
const openBrace = 0x7b
const closeBrace = 0x7d
