import { byteaArray, int8Array, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { Admission, Effect } from '../ports/effect.ts'
import type { Message } from './message.ts'

/** A message with its payload sealed: what the tables hold. */
export interface SealedMessage {
  readonly message: Message
  readonly sealed: Uint8Array
  /** When the payload is not shown any more, and when the message itself is not. */
  readonly payloadExpiresAt: Date
  readonly expiresAt: Date
}

/** What a sealed payload is bound to. */
export const payloadContext = (tenantId: string, messageId: string): Uint8Array =>
  Buffer.from(`payload\0${tenantId}\0${messageId}`)

const insertMessages = `
  insert into messages (id, tenant_id, source_id, leaf_index, accepted_at, idempotency_hash, expires_at)
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::bytea[], $7::timestamptz[])`

const insertPayloads = `
  insert into payloads (leaf_index, sealed, expires_at)
  select * from unnest($1::bigint[], $2::bytea[], $3::timestamptz[])`

// Nothing is kept for less than a year, so the months that are over sooner need not be looked at.
const selectUsedKeys = `
  select m.id, m.source_id as "sourceId", m.idempotency_hash as "idempotencyHash"
    from unnest($1::text[], $2::bytea[]) as asked (source_id, idempotency_hash)
    join messages m using (source_id, idempotency_hash)
   where m.accepted_at > $3 and m.expires_at > $3::timestamptz + interval '365 days'`

/** How long an Idempotency-Key is remembered, at least. */
export const idempotencyDays = 30

/** The message's own rows. An Idempotency-Key that its source used before supersedes the message. */
export const storeMessages: Effect<SealedMessage> = {
  async write(tx, rows) {
    const messages = rows.map(({ row }) => row.message)
    tx.send(insertMessages, [
      textArray(messages.map((message) => message.id)),
      textArray(messages.map((message) => message.tenantId)),
      textArray(messages.map((message) => message.sourceId)),
      int8Array(rows.map((row) => row.leafIndex)),
      timestamptzArray(messages.map((message) => message.acceptedAt)),
      byteaArray(messages.map((message) => message.idempotencyHash)),
      timestamptzArray(rows.map(({ row }) => row.expiresAt)),
    ])
    tx.send(insertPayloads, [
      int8Array(rows.map((row) => row.leafIndex)),
      byteaArray(rows.map(({ row }) => row.sealed)),
      timestamptzArray(rows.map(({ row }) => row.payloadExpiresAt)),
    ])
    return undefined
  },

  doubt: ({ message }) => message.idempotencyHash !== null,

  // The lock of the head makes this check and the insert one step, for every process.
  async admit(tx, rows) {
    const keyed = rows.filter(({ message }) => message.idempotencyHash !== null)
    if (keyed.length === 0) return rows.map(() => admitted)
    const used = await tx.query<{ id: string; sourceId: string; idempotencyHash: Uint8Array }>(selectUsedKeys, [
      textArray(keyed.map(({ message }) => message.sourceId)),
      byteaArray(keyed.map(({ message }) => message.idempotencyHash)),
      new Date(Math.min(...keyed.map(({ message }) => message.acceptedAt.getTime())) - idempotencyDays * 86_400_000),
    ])
    const before = new Map(used.map((row) => [slot(row.sourceId, row.idempotencyHash), row.id]))
    const inThisBatch = new Set<string>()
    return rows.map(({ message: { sourceId, idempotencyHash } }): Admission => {
      if (idempotencyHash === null) return admitted
      const key = slot(sourceId, idempotencyHash)
      const by = before.get(key)
      if (by !== undefined) return { kind: 'superseded', by }
      if (inThisBatch.has(key)) return { kind: 'defer' }
      inThisBatch.add(key)
      return admitted
    })
  },
}

const admitted: Admission = { kind: 'admitted' }

const slot = (sourceId: string, hash: Uint8Array): string => `${sourceId} ${Buffer.from(hash).toString('base64url')}`

export interface StoredMessage {
  readonly id: string
  readonly tenantId: string
  readonly sourceId: string
  readonly leafIndex: number
  readonly acceptedAt: Date
  readonly expiresAt: Date
  /** Sealed canonical payload, bound to {@link payloadContext}; null once its month was dropped. */
  readonly payload: Uint8Array | null
  readonly payloadExpiresAt: Date | null
}

const selectMessage = `
  select m.id, m.tenant_id as "tenantId", m.source_id as "sourceId", m.leaf_index as "leafIndex",
         m.accepted_at as "acceptedAt", m.expires_at as "expiresAt",
         p.sealed as payload, p.expires_at as "payloadExpiresAt"
    from messages m left join payloads p on p.leaf_index = m.leaf_index
   where m.id = $1`

export async function findMessage(tx: Tx, id: string): Promise<StoredMessage | undefined> {
  const [row] = await tx.query<StoredMessage>(selectMessage, [id])
  return row
}
