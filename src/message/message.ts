import { RelayError } from '../errors.ts'
import { type CanonicalPayload, canonicalizePayload } from './canonical.ts'
import { sha256 } from './digest.ts'
import type { Id } from './id.ts'
import { parsePayload } from './json.ts'

/** One POST, parsed: acceptable, and not accepted yet. */
export interface Message {
  readonly id: Id<'msg'>
  readonly tenantId: string
  readonly sourceId: string
  /** The holder of the API key, as statements name it. */
  readonly actor: string
  /** The call that brought it. */
  readonly request: Request
  readonly acceptedAt: Date
  readonly payload: CanonicalPayload
  /** SHA-256 of `payload`. */
  readonly sha256: Uint8Array
  /** SHA-256 of the bytes as received: "you changed my payload" is the first dispute. */
  readonly receivedSha256: Uint8Array
  /** SHA-256 of the Idempotency-Key, or null without one. */
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
  /** The body as received. */
  readonly raw: Uint8Array
  readonly idempotencyKey: string | undefined
}

/** Bytes → message, or refused with a `payload_…` code or `idempotency_key_invalid`. */
export function parseMessage({ raw, idempotencyKey, ...arrival }: Arrival, now: Date): Message {
  if (idempotencyKey !== undefined && !/^[\x21-\x7e]{1,255}$/.test(idempotencyKey)) {
    throw new RelayError('idempotency_key_invalid')
  }
  const payload = canonicalizePayload(parsePayload(raw))
  return {
    ...arrival,
    acceptedAt: now,
    payload,
    sha256: sha256(payload),
    receivedSha256: sha256(raw),
    idempotencyHash: idempotencyKey === undefined ? null : sha256(Buffer.from(idempotencyKey, 'latin1')),
  }
}
