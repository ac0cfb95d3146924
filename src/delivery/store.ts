import { int8Array, type Transaction, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { AttemptRecord } from './delivery.ts'

export interface NewDelivery {
  id: string
  tenantId: string
  messageId: string
  endpointId: string
  nextAttemptAt: Date
  /** The process that attempts it, or null to leave it to whoever claims it. */
  claim: string | null
}

const insertRows = `
  insert into deliveries (id, tenant_id, message_id, endpoint_id, next_attempt_at, claim)
  select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[])`

export const insertDeliveries = (tx: Transaction, rows: readonly NewDelivery[]): void =>
  tx.send(insertRows, [
    textArray(rows.map((row) => row.id)),
    textArray(rows.map((row) => row.tenantId)),
    textArray(rows.map((row) => row.messageId)),
    textArray(rows.map((row) => row.endpointId)),
    timestamptzArray(rows.map((row) => row.nextAttemptAt)),
    textArray(rows.map((row) => row.claim)),
  ])

export interface DueDelivery {
  id: string
  tenantId: string
  messageId: string
  endpointId: string
  attempts: number
}

const claimRows = `
  update deliveries set next_attempt_at = $2, claim = $3      -- the lease: an abandoned claim
   where id in (select id from deliveries                     -- falls due again by itself
                 where next_attempt_at <= $1 and endpoint_id <> all($5::text[])
                 order by next_attempt_at limit $4 for update skip locked)
  returning id, tenant_id as "tenantId", message_id as "messageId", endpoint_id as "endpointId",
            jsonb_array_length(attempts) as attempts`

/** Claims what is due, oldest first, except for endpoints that this process has no room for. */
export const claimDue = (
  tx: Tx,
  claim: { now: Date; leaseEndsAt: Date; claimant: string; limit: number; except: readonly string[] },
): Promise<DueDelivery[]> =>
  tx.query(claimRows, [claim.now, claim.leaseEndsAt, claim.claimant, claim.limit, textArray(claim.except)])

export interface RecordedAttempt {
  id: string
  claimant: string
  record: AttemptRecord
  /** When it falls due again; null once delivered. */
  nextAttemptAt: Date | null
}

/** Records attempts: what was delivered is settled, the rest falls due again. */
export function recordAttempts(tx: Transaction, rows: readonly RecordedAttempt[]): void {
  const delivered = rows.filter((row) => row.nextAttemptAt === null)
  const failed = rows.filter((row) => row.nextAttemptAt !== null)
  if (delivered.length > 0) tx.send(settleDelivered, attemptColumns(delivered))
  if (failed.length > 0) {
    tx.send(recordFailed, [...attemptColumns(failed), timestamptzArray(failed.map((row) => row.nextAttemptAt))])
  }
}

const attemptColumns = (rows: readonly RecordedAttempt[]) => [
  textArray(rows.map((row) => row.id)),
  textArray(rows.map((row) => row.claimant)),
  int8Array(rows.map((row) => row.record.number - 1)),
  textArray(rows.map((row) => JSON.stringify(row.record))),
]

// In both, the claim and the number fence: whoever's lease ran out meanwhile must not undo what the next claimant did.
const settleDelivered = `
  with delivered as (
    delete from deliveries d
     using unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) as done (id, claim, attempts, record)
     where d.id = done.id and d.claim = done.claim and jsonb_array_length(d.attempts) = done.attempts
    returning d.id, d.tenant_id, d.message_id, d.endpoint_id, d.attempts || done.record::jsonb)
  insert into settled_deliveries (id, tenant_id, message_id, endpoint_id, attempts, state)
  select *, 'delivered' from delivered`

const recordFailed = `
  update deliveries d
     set next_attempt_at = done.next_attempt_at, claim = null, attempts = d.attempts || done.record::jsonb
    from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::timestamptz[])
      as done (id, claim, attempts, record, next_attempt_at)
   where d.id = done.id and d.claim = done.claim and jsonb_array_length(d.attempts) = done.attempts`

const settleAbandoned = `
  with abandoned as (
    delete from deliveries d
     using unnest($1::text[], $2::bigint[]) as given_up (id, leaf_index)
     where d.id = given_up.id
    returning d.id, d.tenant_id, d.message_id, d.endpoint_id, d.attempts, given_up.leaf_index)
  insert into settled_deliveries (id, tenant_id, message_id, endpoint_id, attempts, abandoned_leaf, state)
  select *, 'abandoned' from abandoned`

/** Each with the leaf of the statement that it was given up. */
export const abandonDeliveries = (tx: Transaction, rows: readonly { id: string; leafIndex: number }[]): void =>
  tx.send(settleAbandoned, [textArray(rows.map((row) => row.id)), int8Array(rows.map((row) => row.leafIndex))])

/** A delivery that will never be made. */
export type HopelessDelivery = DueDelivery

const selectOfErased = `
  select d.id, d.tenant_id as "tenantId", d.message_id as "messageId", d.endpoint_id as "endpointId",
         jsonb_array_length(d.attempts) as attempts
    from deliveries d join tenants t on t.id = d.tenant_id
   where t.erased_at > $1
   limit $2`

/** What is owed by tenants that were erased after `since`. Looks at all deliveries where there is such a tenant. */
export const pendingOfErased = (tx: Tx, since: Date, limit: number): Promise<HopelessDelivery[]> =>
  tx.query(selectOfErased, [since, limit])

// No payload is kept for less than 30 days, so only what is older is looked at.
const selectOfExpired = `
  select d.id, d.tenant_id as "tenantId", d.message_id as "messageId", d.endpoint_id as "endpointId",
         jsonb_array_length(d.attempts) as attempts
    from deliveries d
    join messages m on m.id = d.message_id
    left join payloads p on p.leaf_index = m.leaf_index
   where d.message_id < message_id_at($1::timestamptz - interval '30 days')
     and (p.expires_at is null or p.expires_at <= $1)
   order by d.message_id limit $2`

/** What is owed and cannot be sent, because its payload has expired. */
export const pendingOfExpired = (tx: Tx, now: Date, limit: number): Promise<HopelessDelivery[]> =>
  tx.query(selectOfExpired, [now, limit])

const releaseRows = `
  update deliveries set next_attempt_at = $3, claim = null
   where id = any($1::text[]) and claim = $2`

/** Gives claims back, due at once. */
export const releaseDeliveries = (tx: Tx, ids: readonly string[], claimant: string, now: Date): Promise<unknown> =>
  tx.query(releaseRows, [textArray(ids), claimant, now])

export interface DeliveryRow {
  id: string
  endpointId: string
  state: 'pending' | 'delivered' | 'abandoned'
  nextAttemptAt: Date | null
  attempts: AttemptRecord[]
}

const selectDeliveries = `
  select id, endpoint_id as "endpointId", 'pending' as state, next_attempt_at as "nextAttemptAt", attempts
    from deliveries
   where message_id = $1
   union all
  select id, endpoint_id, state, null, attempts
    from settled_deliveries
   where message_id = $1
   order by id`

export const deliveriesOf = (tx: Tx, messageId: string): Promise<DeliveryRow[]> =>
  tx.query(selectDeliveries, [messageId])

const selectLeaves = `
  with owed as (
    select attempts, null::bigint as abandoned_leaf from deliveries where message_id = $1
     union all
    select attempts, abandoned_leaf from settled_deliveries where message_id = $1)
  select (attempt ->> 'leaf_index')::bigint as "leafIndex" from owed, jsonb_array_elements(attempts) as attempt
   union all
  select abandoned_leaf from owed where abandoned_leaf is not null`

/** Where in the log everything stands that was stated about the deliveries of a message. */
export async function leavesOfDeliveries(tx: Tx, messageId: string): Promise<number[]> {
  const rows = await tx.query<{ leafIndex: number }>(selectLeaves, [messageId])
  return rows.map((row) => row.leafIndex)
}

const selectOldest = `
  select next_attempt_at as "dueAt" from deliveries order by next_attempt_at limit 1`

/** When the delivery that is due first falls due: in the past by how far the workers lag. */
export async function oldestPending(tx: Tx): Promise<Date | undefined> {
  const [row] = await tx.query<{ dueAt: Date }>(selectOldest)
  return row?.dueAt
}
