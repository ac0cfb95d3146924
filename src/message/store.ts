import { byteaArray, int8Array, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { Admission, Effect } from '../ports/effect.ts'
import type { Message } from './message.ts'

/** A message with its payload sealed: what the table holds. */
export interface SealedMessage {
  readonly message: Message
  readonly sealed: Uint8Array
}

/** What a sealed payload is bound to. */
export const payloadContext = (tenantId: string, messageId: string): Uint8Array =>
  Buffer.from(`payload\0${tenantId}\0${messageId}`)

const insertMessages = `
  insert into messages (id, tenant_id, source_id, leaf_index, accepted_at, idempotency_hash, content_type, payload)
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::bytea[], $7::text[], $8::bytea[])`

const selectUsedKeys = `
  select m.id, m.source_id as "sourceId", m.idempotency_hash as "idempotencyHash"
    from unnest($1::text[], $2::bytea[]) as asked (source_id, idempotency_hash)
    join messages m using (source_id, idempotency_hash)`

/** The message's own row. An Idempotency-Key that its source used before supersedes the message. */
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
      textArray(messages.map((message) => message.contentType)),
      byteaArray(rows.map(({ row }) => row.sealed)),
    ])
    return undefined
  },

  doubt: ({ message }) => message.idempotencyHash !== null,

  // The lock of the head makes this check and the insert one step, for every process.
  async admit(tx, rows) {
    const keyed = rows.filter(({ message }) => message.idempotencyHash !== null)
    const used = await tx.query<{ id: string; sourceId: string; idempotencyHash: Uint8Array }>(selectUsedKeys, [
      textArray(keyed.map(({ message }) => message.sourceId)),
      byteaArray(keyed.map(({ message }) => message.idempotencyHash)),
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
  /** Of exact bytes; null for canonical JSON. */
  readonly contentType: string | null
  /** Sealed payload, bound to {@link payloadContext}. */
  readonly payload: Uint8Array
}

const selectMessage = `
  select id, tenant_id as "tenantId", source_id as "sourceId", leaf_index as "leafIndex",
         accepted_at as "acceptedAt", content_type as "contentType", payload
    from messages
   where id = $1`

export async function findMessage(tx: Tx, id: string): Promise<StoredMessage | undefined> {
  const [row] = await tx.query<StoredMessage>(selectMessage, [id])
  return row
}
