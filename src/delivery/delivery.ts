import type { Id } from '../message/id.ts'
import type { Endpoint } from '../tenant/records.ts'

/** One message owed to one endpoint, claimed by this process. */
export interface ClaimedDelivery {
  readonly id: Id<'dlv'>
  readonly tenantId: string
  readonly messageId: string
  readonly endpointId: string
  /** Deliveries of one endpoint and key go one after the other; null: this one keeps no order. */
  readonly orderKey: string | null
  /** What it was replayed by, and its receiver is told so; null: it is the first for its message. */
  readonly replay: string | null
  /** Attempts made so far. */
  readonly attempts: number
  /** Names this claim, and no other: what it may still record depends on that. */
  readonly claim: string
  /** What to send. Undefined where the claim came from the database and has yet to look it up. */
  readonly cargo: Cargo | undefined
}

/** What to send, and where and how. */
export interface Cargo extends Freight {
  readonly endpoint: Endpoint
}

/** The bytes to forward and the receipt of their acceptance: the same for every endpoint. */
export interface Freight {
  /** The payload: canonical JSON, or the bytes as posted. */
  readonly payload: Uint8Array
  readonly contentType: string
  /** SHA-256 of `payload`. */
  readonly sha256: Uint8Array
  /** Compact JWS. */
  readonly receipt: string
}

/** One HTTP try as the delivery's row keeps it, and as a tenant reads it. */
export interface AttemptRecord {
  /** From 1. */
  readonly number: number
  readonly at: string
  readonly outcome: 'delivered' | 'refused' | 'unreachable'
  readonly status?: number
  readonly reason?: string
  readonly duration_ms: number
  /** Absent where nothing was sent; see `Phases` in client.ts. */
  readonly phases?: RecordedPhases
  /** Absent where no status line came, and where the answer had no body. */
  readonly response?: RecordedResponse
  /** Its statement's place in the log. */
  readonly leaf_index: number
}

/** Whole milliseconds; undefined, and absent from JSON, what an attempt did not come to. */
export interface RecordedPhases {
  readonly dns_ms?: number | undefined
  readonly connect_ms?: number | undefined
  readonly tls_ms?: number | undefined
  readonly first_byte_ms?: number | undefined
  readonly body_ms?: number | undefined
}

/** What came back, as far as it was read. Its first bytes are kept where the attempt failed (answer-store.ts). */
export interface RecordedResponse {
  /** Only where the attempt has none of its own: the answer began, and did not end as one. */
  readonly status?: number
  readonly bytes: number
  /** base64url. */
  readonly sha256: string
  /** Only if it was cut off: by the receiver, the deadline or the cap. */
  readonly incomplete?: true
}

/** What statements about a delivery say of it. */
export const subjectOf = ({ id, tenantId, messageId, endpointId }: ClaimedDelivery) => ({
  sub: id,
  tenant: tenantId,
  message: messageId,
  endpoint: endpointId,
})
