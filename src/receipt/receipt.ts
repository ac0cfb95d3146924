import type { JsonValue } from '../message/json.ts'

/** Flattened JWS JSON (RFC 7515 §7.2.2) with the proof of inclusion in its unprotected header. */
export interface Receipt {
  /** `msg_…`, a convenience: the statement's `sub` is what is signed, and verification compares the two. */
  readonly message: string
  /** base64url of `{"alg":"EdDSA","kid":…,"typ":"receipt+jwt"}`. */
  readonly protected: string
  /** base64url of the statement. */
  readonly payload: string
  readonly signature: string
  readonly header: { readonly 'tlog-proof': string }
}

export const receiptMediaType = 'application/vnd.countersign.receipt+json'

/** `protected.payload.signature`: a JWT that any JOSE library verifies against the JWKS. */
export const compactReceipt = (receipt: Pick<Receipt, 'protected' | 'payload' | 'signature'>): string =>
  `${receipt.protected}.${receipt.payload}.${receipt.signature}`

const members = ['header', 'message', 'payload', 'protected', 'signature']

/** The receipt in a parsed document, or a sentence that says what it lacks. Nothing is verified yet. */
export function readReceipt(value: JsonValue): Receipt | string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'a receipt is a JSON object'
  const extra = Object.keys(value).find((name) => !members.includes(name))
  if (extra !== undefined) return 'it has a member that no receipt has'
  const { message, protected: header, payload, signature, header: unprotected } = value
  for (const [name, text] of Object.entries({ message, protected: header, payload, signature })) {
    if (typeof text !== 'string') return `its member "${name}" is not a string`
  }
  if (typeof unprotected !== 'object' || unprotected === null || Array.isArray(unprotected)) {
    return 'its member "header" is not an object'
  }
  if (typeof unprotected['tlog-proof'] !== 'string' || Object.keys(unprotected).length !== 1) {
    return 'its header does not hold "tlog-proof" alone'
  }
  return value as unknown as Receipt
}
