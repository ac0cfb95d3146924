import type { JsonValue } from '../message/json.ts'

/** A statement, signed, with the proof that it is in the log: flattened JWS JSON (RFC 7515 §7.2.2). */
export type Receipt = MessageReceipt | SubjectReceipt

/** That a message was accepted. */
export type MessageReceipt = SignedProof & {
  /** `msg_…`, a convenience: the statement's `sub` is what is signed, and verification compares the two. */
  readonly message: string
}

/** Of any other statement: an attempt, a key, an administrative act. */
export type SubjectReceipt = SignedProof & {
  /** Its `sub`, a convenience likewise. */
  readonly subject: string
}

interface SignedProof {
  /** base64url of `{"alg":"EdDSA","kid":…,"typ":"receipt+jwt"}`. */
  readonly protected: string
  /** base64url of the statement. */
  readonly payload: string
  readonly signature: string
  /** Unprotected: the proof of inclusion speaks for itself. */
  readonly header: { readonly 'tlog-proof': string }
}

export const receiptMediaType = 'application/vnd.countersign.receipt+json'

/** What a receipt is about, as it says itself. */
export const aboutOf = (receipt: Receipt): string => ('message' in receipt ? receipt.message : receipt.subject)

/** `protected.payload.signature`: a JWT that any JOSE library verifies against the JWKS. */
export const compactReceipt = (receipt: Pick<Receipt, 'protected' | 'payload' | 'signature'>): string =>
  `${receipt.protected}.${receipt.payload}.${receipt.signature}`

const members = ['header', 'message', 'payload', 'protected', 'signature', 'subject']

/** The receipt in a parsed document, or a sentence that says what it lacks. Nothing is verified yet. */
export function readReceipt(value: JsonValue): Receipt | string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'a receipt is a JSON object'
  const extra = Object.keys(value).find((name) => !members.includes(name))
  if (extra !== undefined) return 'it has a member that no receipt has'
  if ('message' in value === 'subject' in value) return 'it names not one thing, a message or another subject'
  for (const name of ['message' in value ? 'message' : 'subject', 'protected', 'payload', 'signature']) {
    if (typeof value[name] !== 'string') return `its member "${name}" is not a string`
  }
  const unprotected = value.header
  if (typeof unprotected !== 'object' || unprotected === null || Array.isArray(unprotected)) {
    return 'its member "header" is not an object'
  }
  if (typeof unprotected['tlog-proof'] !== 'string' || Object.keys(unprotected).length !== 1) {
    return 'its header does not hold "tlog-proof" alone'
  }
  return value as unknown as Receipt
}
