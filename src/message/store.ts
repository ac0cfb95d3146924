import { byteaArray, int8Array, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { Admission, Effect } from '../ports/effect.ts'
import { idTime, isId } from './id.ts'
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
  insert into messages (id, tenant_id, source_id, leaf_index, accepted_at, content_type, expires_at)
  select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::timestamptz[], $6::text[], $7::timestamptz[])`

const insertPayloads = `
  insert into payloads (leaf_index, sealed, expires_at)
  select * from unnest($1::bigint[], $2::bytea[], $3::timestamptz[])`

const insertKeys = `
  insert into idempotency_keys (source_id, key_hash, message_id, expires_at)
  select * from unnest($1::text[], $2::bytea[], $3::text[], $4::timestamptz[])`

const selectUsedKeys = `
  select k.message_id as id, k.source_id as "sourceId", k.key_hash as "keyHash"
    from unnest($1::text[], $2::bytea[]) as asked (source_id, key_hash)
    join idempotency_keys k using (source_id, key_hash)
   where k.expires_at > $3`

/** How long an Idempotency-Key is remembered. */
export const idempotencyDays = 30

/** From then on a key that was used at `at` is forgotten. */
export const idempotencyExpiry = (at: Date): Date => new Date(at.getTime() + idempotencyDays * 86_400_000)

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
      textArray(messages.map((message) => message.contentType)),
      timestamptzArray(rows.map(({ row }) => row.expiresAt)),
    ])
    tx.send(insertPayloads, [
      int8Array(rows.map((row) => row.leafIndex)),
      byteaArray(rows.map(({ row }) => row.sealed)),
      timestamptzArray(rows.map(({ row }) => row.payloadExpiresAt)),
    ])
    const keyed = messages.filter((message) => message.idempotencyHash !== null)
    if (keyed.length === 0) return undefined
    tx.send(insertKeys, [
      textArray(keyed.map((message) => message.sourceId)),
      byteaArray(keyed.map((message) => message.idempotencyHash)),
      textArray(keyed.map((message) => message.id)),
      timestamptzArray(keyed.map((message) => idempotencyExpiry(message.acceptedAt))),
    ])
    return undefined
  },

  doubt: ({ message }) => message.idempotencyHash !== null,

  // The lock of the head makes this check and the insert one step, for every process.
  async admit(tx, rows) {
    const keyed = rows.filter(({ message }) => message.idempotencyHash !== null)
    if (keyed.length === 0) return rows.map(() => admitted)
    const used = await tx.query<{ id: string; sourceId: string; keyHash: Uint8Array }>(selectUsedKeys, [
      textArray(keyed.map(({ message }) => message.sourceId)),
      byteaArray(keyed.map(({ message }) => message.idempotencyHash)),
      new Date(Math.min(...keyed.map(({ message }) => message.acceptedAt.getTime()))),
    ])
    const before = new Map(used.map((row) => [slot(row.sourceId, row.keyHash), row.id]))
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
  /** Of exact bytes; null for canonical JSON. */
  readonly contentType: string | null
  /** Sealed payload, bound to {@link payloadContext}; null once its month was dropped. */
  readonly payload: Uint8Array | null
  readonly payloadExpiresAt: Date | null
}

// The id tells when the message was made, and that from which month on to look: nothing is kept for less than a year, and
// no payload for less than 30 days. `limit` keeps the planner from joining whole tables while they are young.
const selectMessage = `
  select m.id, m.tenant_id as "tenantId", m.source_id as "sourceId", m.leaf_index as "leafIndex",
         m.accepted_at as "acceptedAt", m.expires_at as "expiresAt", m.content_type as "contentType",
         p.sealed as payload, p.expires_at as "payloadExpiresAt"
    from messages m
    left join lateral (select sealed, expires_at from payloads
                        where leaf_index = m.leaf_index and expires_at >= $2::timestamptz + interval '720 hours'
                        limit 1) p on true
   where m.id = $1 and m.expires_at >= $2::timestamptz + interval '8760 hours'`

export async function findMessage(tx: Tx, id: string): Promise<StoredMessage | undefined> {
  if (!isId('msg', id)) return undefined
  const [row] = await tx.query<StoredMessage>(selectMessage, [id, idTime(id)])
  return row
}
