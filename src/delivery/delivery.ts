import type { Id } from '../message/id.ts'
import type { Endpoint } from '../tenant/records.ts'

/** One message owed to one endpoint, claimed by this process and so with everything in hand to attempt it. */
export interface ClaimedDelivery {
  readonly id: Id<'dlv'>
  readonly tenantId: string
  readonly messageId: string
  readonly endpointId: string
  /** Attempts made so far. */
  readonly attempts: number
  /** Until then no other process claims it. */
  readonly leaseEndsAt: Date
  /** What to send, and where. Undefined where the claim came from the database and has yet to look it up. */
  readonly cargo: Cargo | undefined
}

/** The bytes to forward, the receipt of their acceptance, and where and how to send them. */
export interface Cargo {
  readonly endpoint: Endpoint
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
  /** Its statement's place in the log. */
  readonly leaf_index: number
}
