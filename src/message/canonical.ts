import canonicalize from 'canonicalize'
import { type JsonObject, type JsonValue, setMember } from './json.ts'

declare const exact: unique symbol

/** The RFC 8785 bytes of a payload: hashed, stored and forwarded exactly so. Only {@link canonicalizePayload} makes one. */
export type CanonicalPayload = Uint8Array & { readonly [exact]: 'payload' }

/** Canonicalizes what the strict parser returned. Parsing the result and canonicalizing again changes no byte. */
export function canonicalizePayload(value: JsonValue): CanonicalPayload {
  return canonicalJson(value) as CanonicalPayload
}

/**
 * The RFC 8785 bytes of a value of our own. As in `JSON.stringify`, a member that is `undefined` is left out and a
 * `toJSON` method is obeyed, so pass plain data. Throws on what JSON cannot say: NaN, infinity, a lone surrogate, a
 * cycle, a function.
 *
 * RFC 8785 §3.2.2 takes over how `JSON.stringify` writes strings and numbers, so with members in order the platform
 * writes canonical text. What the platform writes in another way, or fails to refuse, is left to the library.
 */
export function canonicalJson(value: JsonValue | object): Uint8Array {
  const ordered = JSON.stringify(inOrder(value)) as string | undefined
  const text = ordered === undefined || isAstray(ordered) ? canonicalize(value) : ordered
  if (text === undefined) throw new TypeError(`expected a value that JSON can express, got a ${typeof value}`)
  return Buffer.from(text)
}

/** A copy whose members stand in the order of their names' UTF-16 code units (RFC 8785 §3.2.3). */
function inOrder(value: unknown): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new TypeError(`JSON has no ${value}`)
  if (typeof value !== 'object' || value === null) return value
  if ('toJSON' in value && typeof value.toJSON === 'function') return inOrder(value.toJSON())
  if (Array.isArray(value)) return value.map(inOrder)
  const ordered: JsonObject = {}
  for (const name of sorted(Object.keys(value))) {
    setMember(ordered, name, inOrder((value as JsonObject)[name]) as JsonValue)
  }
  return ordered
}

/** Sorts in place. Few names are inserted one by one, at places found by halving: that costs about half of `sort`. */
function sorted(names: string[]): string[] {
  if (names.length > 100) return names.sort()
  for (let at = 1; at < names.length; at++) {
    const name = names[at] as string
    let low = (names[at - 1] as string) < name ? at : 0
    for (let high = at; low < high; ) {
      const middle = (low + high) >>> 1
      if ((names[middle] as string) < name) low = middle + 1
      else high = middle
    }
    for (let place = at; place > low; place--) names[place] = names[place - 1] as string
    names[low] = name
  }
  return names
}

/**
 * Whether `JSON.stringify` may have left RFC 8785: an object lists names that look like array indices first and by
 * value, wherever they were put; and half of a surrogate pair is escaped, not refused.
 */
const isAstray = (text: string): boolean => indexLikeName.test(text) || text.includes('\\ud')

const indexLikeName = /"\d+":/
