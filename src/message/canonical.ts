import canonicalize from 'canonicalize'
import type { JsonValue } from './json.ts'

declare const exact: unique symbol

/** The RFC 8785 bytes of a payload: hashed, stored and forwarded exactly so. Only {@link canonicalizePayload} makes one. */
export type CanonicalPayload = Uint8Array & { readonly [exact]: 'payload' }

/** Canonicalizes what the strict parser returned. Parsing the result and canonicalizing again changes no byte. */
export function canonicalizePayload(value: JsonValue): CanonicalPayload {
  return canonicalJson(value) as CanonicalPayload
}

const utf8 = new TextEncoder()

/**
 * The RFC 8785 bytes of a value of our own. As in `JSON.stringify`, a member that is `undefined` is left out and a
 * `toJSON` method is obeyed, so pass plain data. Throws on what JSON cannot say: NaN, infinity, a lone surrogate, a
 * cycle, a function.
 */
export function canonicalJson(value: JsonValue | object): Uint8Array {
  const text = canonicalize(value)
  if (text === undefined) throw new TypeError(`expected a value that JSON can express, got a ${typeof value}`)
  return utf8.encode(text)
}
