import { RelayError } from '../errors.ts'
import { type CanonicalPayload, canonicalizePayload } from './canonical.ts'
import { sha256, sha256Text } from './digest.ts'
import { type ExactPayload, takeExactly } from './exact.ts'
import type { Id } from './id.ts'
import { type JsonObject, type JsonValue, parsePayload } from './json.ts'

/** What a source makes of a body. `jcs`: JSON, parsed strictly and written canonically (RFC 8785). `none`: bytes of any
 *  media type, exactly as they came. */
export type Canonicalization = 'jcs' | 'none'

/** The bytes that are hashed, stored and forwarded, and their media type: null stands for canonical JSON. `value` is what
 *  JSON says, for filters: it was parsed to be accepted, and is not parsed again. Exact bytes are not looked into. */
export type Content =
  | { readonly payload: CanonicalPayload; readonly contentType: null; readonly value: JsonValue }
  | { readonly payload: ExactPayload; readonly contentType: string; readonly value: undefined }

/** One POST, parsed: acceptable, and not accepted yet. */
export type Message = Content & {
  readonly id: Id<'msg'>
  readonly tenantId: string
  readonly sourceId: string
  /** Who posted, as statements name them: the holder of an API key, or the source whose scheme vouches for the post. */
  readonly actor: string
  /** The call that brought it; undefined for a message of our own. */
  readonly request: Request | undefined
  /** The source's scheme, where it is not an API key that vouches. */
  readonly authentication: string | undefined
  readonly acceptedAt: Date
  /** SHA-256 of `payload`. */
  readonly sha256: Uint8Array
  /** SHA-256 of the bytes as received, base64url: "you changed my payload" is the first dispute. */
  readonly receivedSha256: string
  /** SHA-256 of the Idempotency-Key, or what stands in for it; null without one. */
  readonly idempotencyHash: Uint8Array | null
}

/** One call of the API: its id, which the caller is told, and the address it came from. */
export interface Request {
  readonly id: Id<'req'>
  readonly address: string
}

export interface Arrival {
  readonly id: Id<'msg'>
  readonly tenantId: string
  readonly sourceId: string
  readonly actor: string
  readonly request: Request
  readonly authentication: string | undefined
  readonly canonicalization: Canonicalization
  /** The body as received. */
  readonly raw: Uint8Array
  readonly contentType: string | undefined
  readonly idempotencyKey: string | undefined
  /** SHA-256 that only the same signed request has again. It counts before the Idempotency-Key, which nobody signed. */
  readonly signedIdentity: Uint8Array | undefined
}

/** Bytes → message, or refused with a `payload_…` code, `media_type_unsupported` or `idempotency_key_invalid`. */
export function parseMessage(arrival: Arrival, now: Date): Message {
  const { raw, canonicalization, contentType, idempotencyKey, signedIdentity } = arrival
  const idempotencyHash = signedIdentity ?? hashKey(idempotencyKey)
  const content = canonicalization === 'jcs' ? canonicalContent(raw, contentType) : takeExactly(raw, contentType)
  const digest = sha256(content.payload)
  return {
    ...content,
    id: arrival.id,
    tenantId: arrival.tenantId,
    sourceId: arrival.sourceId,
    actor: arrival.actor,
    request: arrival.request,
    authentication: arrival.authentication,
    acceptedAt: now,
    sha256: digest,
    receivedSha256: content.contentType === null ? sha256Text(raw) : digest.toString('base64url'),
    idempotencyHash,
  }
}

function canonicalContent(raw: Uint8Array, contentType = ''): Content {
  if (raw.length > 0 && !jsonMediaType.test(contentType)) throw new RelayError('media_type_unsupported')
  const value = parsePayload(raw)
  return { payload: canonicalizePayload(value), contentType: null, value }
}

/** A Content-Type that promises JSON. */
export const jsonMediaType = /^application\/(?:[\w.-]+\+)?json\s*(?:;|$)/i

function hashKey(idempotencyKey: string | undefined): Uint8Array | null {
  if (idempotencyKey === undefined) return null
  if (!/^[\x21-\x7e]{1,255}$/.test(idempotencyKey)) throw new RelayError('idempotency_key_invalid')
  return sha256(Buffer.from(idempotencyKey, 'latin1'))
}

/** The source of the messages that the relay itself makes. No vendor can post to it: it is no identifier. */
export const ownSource = 'countersign'

/** A message of our own to a tenant. `actor` is who asked for it, or `deployment`. */
export function composeMessage(id: Id<'msg'>, tenantId: string, actor: string, value: JsonObject, now: Date): Message {
  const payload = canonicalizePayload(value)
  const digest = sha256(payload)
  const origin = {
    id,
    tenantId,
    sourceId: ownSource,
    actor,
    request: undefined,
    authentication: undefined,
    acceptedAt: now,
  }
  const content = { payload, contentType: null, value }
  return { ...origin, ...content, sha256: digest, receivedSha256: digest.toString('base64url'), idempotencyHash: null }
}
