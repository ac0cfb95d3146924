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
  /** Attempts made so far. */
  readonly attempts: number
  /** Names this claim, and no other: what it may still record depends on that. */
  readonly claim: string
  /** What to send. Undefined where the claim came from the database and has yet to look it up. */
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

/** What statements about a delivery say of it. */
export const subjectOf = ({ id, tenantId, messageId, endpointId }: ClaimedDelivery) => ({
  sub: id,
  tenant: tenantId,
  message: messageId,
  endpoint: endpointId,
})
