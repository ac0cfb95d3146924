import { RelayError } from '../errors.ts'
import { type CanonicalPayload, canonicalizePayload } from './canonical.ts'
import { sha256 } from './digest.ts'
import type { Id } from './id.ts'
import { type JsonObject, type JsonValue, parsePayload } from './json.ts'

/** One POST, parsed: acceptable, and not accepted yet. */
export interface Message {
  readonly id: Id<'msg'>
  readonly tenantId: string
  readonly sourceId: string
  /** The holder of the API key, as statements name it. */
  readonly actor: string
  readonly acceptedAt: Date
  /** What the payload says, for filters: it was parsed to be accepted, and is not parsed again. */
  readonly value: JsonValue
  readonly payload: CanonicalPayload
  /** SHA-256 of `payload`. */
  readonly sha256: Uint8Array
  /** SHA-256 of the bytes as received: "you changed my payload" is the first dispute. */
  readonly receivedSha256: Uint8Array
  /** SHA-256 of the Idempotency-Key, or null without one. */
  readonly idempotencyHash: Uint8Array | null
}

export interface Arrival {
  readonly id: Id<'msg'>
  readonly tenantId: string
  readonly sourceId: string
  readonly actor: string
  /** The body as received. */
  readonly raw: Uint8Array
  readonly idempotencyKey: string | undefined
}

/** Bytes → message, or refused with a `payload_…` code or `idempotency_key_invalid`. */
export function parseMessage({ raw, idempotencyKey, ...arrival }: Arrival, now: Date): Message {
  if (idempotencyKey !== undefined && !/^[\x21-\x7e]{1,255}$/.test(idempotencyKey)) {
    throw new RelayError('idempotency_key_invalid')
  }
  const value = parsePayload(raw)
  const payload = canonicalizePayload(value)
  return {
    ...arrival,
    acceptedAt: now,
    value,
    payload,
    sha256: sha256(payload),
    receivedSha256: sha256(raw),
    idempotencyHash: idempotencyKey === undefined ? null : sha256(Buffer.from(idempotencyKey, 'latin1')),
  }
}

/** The source of the messages that the relay itself makes. No vendor can post to it: it is no identifier. */
export const ownSource = 'countersign'

/** A message of our own to a tenant. `actor` is who asked for it, or `deployment`. */
export function composeMessage(id: Id<'msg'>, tenantId: string, actor: string, value: JsonObject, now: Date): Message {
  const payload = canonicalizePayload(value)
  const digest = sha256(payload)
  const origin = { id, tenantId, sourceId: ownSource, actor, acceptedAt: now }
  return { ...origin, value, payload, sha256: digest, receivedSha256: digest, idempotencyHash: null }
}
