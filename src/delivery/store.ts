import type { StoredMessage } from '../message/store.ts'
import { int8Array, type Transaction, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { ClaimedRow } from './claim-store.ts'
import type { AttemptRecord } from './delivery.ts'

export interface NewDelivery {
  id: string
  tenantId: string
  messageId: string
  endpointId: string
  /** When its message expires. */
  expiresAt: Date
  nextAttemptAt: Date
  /** The process that attempts it; null if it goes into its endpoint's backlog. */
  claim: string | null
}

/** How many deliveries the messages of a batch are owed: the reconciler looks for as many. */
export interface OwedBatch {
  firstLeaf: number
  lastLeaf: number
  deliveries: number
  owedAt: Date
}

// One statement for both: a batch must not pay for its own bookkeeping with a statement more.
const insertRows = `
  with owed as (insert into owed_deliveries (first_leaf, last_leaf, deliveries, owed_at) values ($8, $9, $10, $11))
  insert into deliveries (id, tenant_id, message_id, endpoint_id, expires_at, next_attempt_at, claim, waits_for)
  select *, case when claim is null then 'endpoint' end
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[])
      as owed_now (id, tenant_id, message_id, endpoint_id, expires_at, next_attempt_at, claim)`

export const insertDeliveries = (tx: Transaction, rows: readonly NewDelivery[], batch: OwedBatch): void =>
  tx.send(insertRows, [
    textArray(rows.map((row) => row.id)),
    textArray(rows.map((row) => row.tenantId)),
    textArray(rows.map((row) => row.messageId)),
    textArray(rows.map((row) => row.endpointId)),
    timestamptzArray(rows.map((row) => row.expiresAt)),
    timestamptzArray(rows.map((row) => row.nextAttemptAt)),
    textArray(rows.map((row) => row.claim)),
    batch.firstLeaf,
    batch.lastLeaf,
    batch.deliveries,
    batch.owedAt,
  ])

export interface OrderedDelivery extends Omit<NewDelivery, 'claim'> {
  orderKey: string
  /** The leaf of its message. */
  position: number
}

// The lock of the head makes batches one after the other, those that settle deliveries included: so whoever finds no
// older one here is the first, and nobody can settle the older one unseen.
const insertOrderedRows = `
  insert into deliveries (id, tenant_id, message_id, endpoint_id, expires_at, next_attempt_at, order_key, position, waits_for)
  select owed.*,
         case when lag(id) over (partition by endpoint_id, order_key order by position, id) is null
               and not exists (select from deliveries older
                                where older.endpoint_id = owed.endpoint_id and older.order_key = owed.order_key)
              then 'endpoint' else 'turn' end
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::bigint[])
      as owed (id, tenant_id, message_id, endpoint_id, expires_at, next_attempt_at, order_key, position)`

/** For endpoints that keep an order: the oldest of each key goes into the backlog, the others wait for their turn. */
export const insertOrdered = (tx: Transaction, rows: readonly OrderedDelivery[]): void =>
  tx.send(insertOrderedRows, [
    textArray(rows.map((row) => row.id)),
    textArray(rows.map((row) => row.tenantId)),
    textArray(rows.map((row) => row.messageId)),
    textArray(rows.map((row) => row.endpointId)),
    timestamptzArray(rows.map((row) => row.expiresAt)),
    timestamptzArray(rows.map((row) => row.nextAttemptAt)),
    textArray(rows.map((row) => row.orderKey)),
    int8Array(rows.map((row) => row.position)),
  ])

export interface RecordedAttempt {
  id: string
  claim: string
  record: AttemptRecord
  /** When it falls due again; null once delivered. */
  nextAttemptAt: Date | null
}

/** Records attempts: what was delivered is settled, the rest falls due again. The month that settled rows go into is there:
 *  it was made when the message was accepted, and stays while anything is owed that expires in it. */
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
  textArray(rows.map((row) => row.claim)),
  int8Array(rows.map((row) => row.record.number - 1)),
  textArray(rows.map((row) => JSON.stringify(row.record))),
]

// In both, the claim and the number fence: whoever's lease ran out meanwhile must not undo what the next claimant did.
const settleDelivered = `
  with delivered as (
    delete from deliveries d
     using unnest($1::text[], $2::text[], $3::bigint[], $4::text[]) as done (id, claim, attempts, record)
     where d.id = done.id and d.claim = done.claim and jsonb_array_length(d.attempts) = done.attempts
    returning d.id, d.tenant_id, d.message_id, d.endpoint_id, d.expires_at, d.replay, d.attempts || done.record::jsonb)
  insert into settled_deliveries (id, tenant_id, message_id, endpoint_id, expires_at, replay, attempts, state)
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
    returning d.id, d.tenant_id, d.message_id, d.endpoint_id, d.expires_at, d.replay, d.attempts, given_up.leaf_index)
  insert into settled_deliveries (id, tenant_id, message_id, endpoint_id, expires_at, replay, attempts, abandoned_leaf, state)
  select *, 'abandoned' from abandoned`

/** Each with the leaf of the statement that it was given up. */
export const abandonDeliveries = (tx: Transaction, rows: readonly { id: string; leafIndex: number }[]): void =>
  tx.send(settleAbandoned, [textArray(rows.map((row) => row.id)), int8Array(rows.map((row) => row.leafIndex))])

/** A delivery that will never be made. */
export type HopelessDelivery = Omit<ClaimedRow, 'replay'>

const selectOfErased = `
  select d.id, d.tenant_id as "tenantId", d.message_id as "messageId", d.endpoint_id as "endpointId",
         d.order_key as "orderKey", jsonb_array_length(d.attempts) as attempts
    from deliveries d join tenants t on t.id = d.tenant_id
   where t.erased_at > $1
   limit $2`

/** What is owed by tenants that were erased after `since`. Looks at all deliveries where there is such a tenant. */
export const pendingOfErased = (tx: Tx, since: Date, limit: number): Promise<HopelessDelivery[]> =>
  tx.query(selectOfErased, [since, limit])

// No payload is kept for less than 30 days, so only what is older is looked at.
const selectOfExpired = `
  select d.id, d.tenant_id as "tenantId", d.message_id as "messageId", d.endpoint_id as "endpointId",
         d.order_key as "orderKey", jsonb_array_length(d.attempts) as attempts
    from deliveries d
    join messages m on m.id = d.message_id
    left join payloads p on p.leaf_index = m.leaf_index
   where d.message_id < message_id_at($1::timestamptz - interval '30 days')
     and (p.expires_at is null or p.expires_at <= $1)
   order by d.message_id limit $2`

/** What is owed and cannot be sent, because its payload has expired. */
export const pendingOfExpired = (tx: Tx, now: Date, limit: number): Promise<HopelessDelivery[]> =>
  tx.query(selectOfExpired, [now, limit])

/** The place in an order that a settled delivery leaves to the next. */
export interface Turn {
  endpointId: string
  orderKey: string
}

const promoteNext = `
  update deliveries set waits_for = 'endpoint'
   where waits_for = 'turn'
     and id in (select (select next.id from deliveries next
                         where next.endpoint_id = done.endpoint_id and next.order_key = done.order_key
                         order by next.position, next.id limit 1)
                  from unnest($1::text[], $2::text[]) as done (endpoint_id, order_key))`

/** After a delivery that kept an order is settled: the next of its key goes into the backlog. */
export const passTurns = (tx: Transaction, turns: readonly Turn[]): void =>
  tx.send(promoteNext, [textArray(turns.map((turn) => turn.endpointId)), textArray(turns.map((turn) => turn.orderKey))])

export type DeliveryState = 'pending' | 'delivered' | 'abandoned'

export interface DeliveryRow {
  id: string
  tenantId: string
  messageId: string
  endpointId: string
  state: DeliveryState
  /** Null once it is settled. */
  nextAttemptAt: Date | null
  /** What it was replayed by: a replay, or the delivery that it repeats. */
  replay: string | null
  attempts: AttemptRecord[]
}

const pendingColumns = `
  id, tenant_id as "tenantId", message_id as "messageId", endpoint_id as "endpointId", replay, attempts,
  'pending' as state, next_attempt_at as "nextAttemptAt"`

const settledColumns = `
  id, tenant_id as "tenantId", message_id as "messageId", endpoint_id as "endpointId", replay, attempts,
  state, null::timestamptz as "nextAttemptAt"`

const selectByMessage = `
  select ${pendingColumns} from deliveries where message_id = $1
   union all
  select ${settledColumns} from settled_deliveries where message_id = $1 and expires_at = $2
   order by id`

/** They expire with their message, which says in what month to look. */
export const deliveriesOf = (tx: Tx, { id, expiresAt }: StoredMessage): Promise<DeliveryRow[]> =>
  tx.query(selectByMessage, [id, expiresAt])

const selectOne = `
  select ${pendingColumns} from deliveries where id = $1
   union all
  select ${settledColumns} from settled_deliveries where id = $1 and expires_at > $2`

/** Undefined if there is none, or it has expired. */
export async function findDelivery(tx: Tx, id: string, now: Date): Promise<DeliveryRow | undefined> {
  const [row] = await tx.query<DeliveryRow>(selectOne, [id, now])
  return row
}

/** Which deliveries of a tenant: of one endpoint, or of all; in pages, oldest first. */
export interface DeliveryFilter {
  readonly tenantId: string
  readonly endpointId: string | null
  readonly state: DeliveryState
  /** The last id of the page before; empty for the first. */
  readonly after: string
  readonly limit: number
}

// From each endpoint one page at most, by its index, deleted ones included: what was owed to them is still told.
const ofEndpoints = `
  from (select id from endpoints where tenant_id = $1 and ($2::text is null or id = $2)) as endpoint`

const listPending = `
  select delivery.* ${ofEndpoints}
   cross join lateral (select ${pendingColumns} from deliveries
                        where endpoint_id = endpoint.id and tenant_id = $1 and id > $3
                        order by id limit $4) as delivery
   order by delivery.id limit $4`

const listSettled = `
  select delivery.* ${ofEndpoints}
   cross join lateral (select ${settledColumns} from settled_deliveries
                        where endpoint_id = endpoint.id and tenant_id = $1 and id > $3 and state = $5 and expires_at > $6
                        order by id limit $4) as delivery
   order by delivery.id limit $4`

/** Those that have not expired. */
export function listDeliveries(tx: Tx, { tenantId, endpointId, state, after, limit }: DeliveryFilter, now: Date) {
  const params = [tenantId, endpointId, after, limit]
  return state === 'pending'
    ? tx.query<DeliveryRow>(listPending, params)
    : tx.query<DeliveryRow>(listSettled, [...params, state, now])
}

const selectLeaves = `
  with owed as (
    select attempts, null::bigint as abandoned_leaf from deliveries where message_id = $1
     union all
    select attempts, abandoned_leaf from settled_deliveries where message_id = $1 and expires_at = $2)
  select (attempt ->> 'leaf_index')::bigint as "leafIndex" from owed, jsonb_array_elements(attempts) as attempt
   union all
  select abandoned_leaf from owed where abandoned_leaf is not null`

/** Where in the log everything stands that was stated about the deliveries of a message. */
export async function leavesOfDeliveries(tx: Tx, { id, expiresAt }: StoredMessage): Promise<number[]> {
  const rows = await tx.query<{ leafIndex: number }>(selectLeaves, [id, expiresAt])
  return rows.map((row) => row.leafIndex)
}

const selectOldest = `
  select next_attempt_at as "dueAt" from deliveries where waits_for is null order by next_attempt_at limit 1`

/** When the delivery that is due first falls due: in the past by how far the workers lag. */
export async function oldestPending(tx: Tx): Promise<Date | undefined> {
  const [row] = await tx.query<{ dueAt: Date }>(selectOldest)
  return row?.dueAt
}
