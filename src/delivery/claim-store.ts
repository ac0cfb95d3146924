import { int8Array, type Transaction, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { NextDrain } from './backlog.ts'

/** What a claim from the database brings. */
export interface ClaimedRow {
  id: string
  tenantId: string
  messageId: string
  endpointId: string
  orderKey: string | null
  attempts: number
}

const claimedColumns = `
  id, tenant_id as "tenantId", message_id as "messageId", endpoint_id as "endpointId", order_key as "orderKey",
  jsonb_array_length(attempts) as attempts`

const claimRows = `
  update deliveries set next_attempt_at = $2, claim = $3      -- the lease: an abandoned claim
   where id in (select id from deliveries                     -- falls due again by itself
                 where waits_for is null and next_attempt_at <= $1
                 order by next_attempt_at limit $4 for update skip locked)
  returning ${claimedColumns}`

/** Claims what is due, oldest first: retries, and what a process that died had claimed. */
export const claimDue = (
  tx: Tx,
  claim: { now: Date; leaseEndsAt: Date; claim: string; limit: number },
): Promise<ClaimedRow[]> => tx.query(claimRows, [claim.now, claim.leaseEndsAt, claim.claim, claim.limit])

/** A claim that this process holds. */
export interface HeldClaim {
  readonly id: string
  readonly claim: string
}

const ids = (held: readonly HeldClaim[]) => textArray(held.map(({ id }) => id))
const claims = (held: readonly HeldClaim[]) => textArray(held.map(({ claim }) => claim))

// Rows that somebody has locked are being recorded, or claimed by whoever found their lease at its end: waiting for them
// could only deadlock. The same goes for the two below.
const renewRows = `
  update deliveries set next_attempt_at = $4
   where id in (select d.id from deliveries d join unnest($1::text[], $2::text[]) as held (id, claim) using (id, claim)
                 where d.next_attempt_at > $3 for update of d skip locked)
  returning id`

/** Prolongs leases that have not ended; resolves with the ids of those it did. */
export async function renewLeases(
  tx: Tx,
  held: readonly HeldClaim[],
  { now, leaseEndsAt }: { now: Date; leaseEndsAt: Date },
): Promise<Set<string>> {
  const rows = await tx.query<{ id: string }>(renewRows, [ids(held), claims(held), now, leaseEndsAt])
  return new Set(rows.map((row) => row.id))
}

const releaseRows = `
  update deliveries set next_attempt_at = $3, claim = null
   where id in (select d.id from deliveries d join unnest($1::text[], $2::text[]) as held (id, claim) using (id, claim)
                   for update of d skip locked)`

/** Gives claims back, due at once. */
export const releaseClaims = (tx: Tx, held: readonly HeldClaim[], now: Date): Promise<unknown> =>
  tx.query(releaseRows, [ids(held), claims(held), now])

// A row that exists is locked even where nothing in it changes: otherwise a process that finds the backlog empty could
// drop it between our delivery and our commit.
const wakeExisting = `
      on conflict (endpoint_id) do update
     set drain_at = greatest(least(endpoint_backlogs.drain_at, excluded.drain_at), endpoint_backlogs.not_before)`

const parkRows = `
  with parked as (
    update deliveries set next_attempt_at = $3, claim = null, waits_for = 'endpoint'
     where id in (select d.id from deliveries d join unnest($1::text[], $2::text[]) as held (id, claim) using (id, claim)
                     for update of d skip locked)
    returning endpoint_id, tenant_id)
  insert into endpoint_backlogs (endpoint_id, tenant_id, drain_at)
  select distinct endpoint_id, tenant_id, $3::timestamptz from parked order by endpoint_id ${wakeExisting}`

/** Puts claims into the backlogs of their endpoints. */
export const parkClaims = (tx: Tx, held: readonly HeldClaim[], now: Date): Promise<unknown> =>
  tx.query(parkRows, [ids(held), claims(held), now])

const upsertBacklogs = `
  insert into endpoint_backlogs (endpoint_id, tenant_id, drain_at)
  select distinct endpoint_id, tenant_id, $3::timestamptz
    from unnest($1::text[], $2::text[]) as filled (endpoint_id, tenant_id) order by endpoint_id ${wakeExisting}`

const notifyOthers = `select pg_notify('countersign_deliveries', '')`

/** The channel on which processes tell each other of backlogs. */
export const deliveriesChannel = 'countersign_deliveries'

/** Says that there is something in the backlogs of these endpoints, to all processes, once it is committed. */
export function wakeBacklogs(
  tx: Transaction,
  endpoints: readonly { endpointId: string; tenantId: string }[],
  now: Date,
): void {
  const columns = [endpoints.map((each) => each.endpointId), endpoints.map((each) => each.tenantId)]
  tx.send(upsertBacklogs, [...columns.map(textArray), now])
  tx.send(notifyOthers)
}

const wakeRow = `
  update endpoint_backlogs set drain_at = least(drain_at, $2), not_before = null where endpoint_id = $1`

/** Has an endpoint's backlog looked at again, by any process, once it is committed: it was resumed, changed or deleted. */
export async function wakeBacklog(tx: Tx, endpointId: string, now: Date): Promise<void> {
  await tx.query(wakeRow, [endpointId, now])
  await tx.query(notifyOthers)
}

export interface Backlog {
  endpointId: string
  tenantId: string
  paidUntil: Date | null
  /** Asked of the database, not of memory: who was just resumed must not be found paused. */
  paused: boolean
}

const lockDueBacklogs = `
  select b.endpoint_id as "endpointId", b.tenant_id as "tenantId", b.paid_until as "paidUntil",
         coalesce(e.paused_at is not null and e.deleted_at is null, false) as paused
    from endpoint_backlogs b left join endpoints e on e.id = b.endpoint_id
   where b.drain_at <= $1
   order by b.drain_at limit $2 for update of b skip locked`

/** The backlogs whose turn it is, until the transaction ends: nobody else takes from them. */
export const lockBacklogs = (tx: Tx, now: Date, limit: number): Promise<Backlog[]> =>
  tx.query(lockDueBacklogs, [now, limit])

const takeRows = `
  update deliveries set next_attempt_at = $3, claim = $4, waits_for = null
   where id in (select taken.id
                  from unnest($1::text[], $2::bigint[]) as allowed (endpoint_id, most)
                 cross join lateral (select d.id from deliveries d
                                      where d.endpoint_id = allowed.endpoint_id and d.waits_for = 'endpoint'
                                      order by d.id limit allowed.most for update skip locked) as taken)
  returning ${claimedColumns}`

/** Claims from each backlog as many as it allows, oldest first. */
export const takeFromBacklogs = (
  tx: Tx,
  allowed: readonly { endpointId: string; most: number }[],
  { leaseEndsAt, claim }: { leaseEndsAt: Date; claim: string },
): Promise<ClaimedRow[]> =>
  tx.query(takeRows, [
    textArray(allowed.map((each) => each.endpointId)),
    int8Array(allowed.map((each) => each.most)),
    leaseEndsAt,
    claim,
  ])

const dropEmpty = `
  delete from endpoint_backlogs b
   where endpoint_id = any($1::text[]) and coalesce(paid_until, $2) <= $2   -- what a rate let through must be remembered
     and not exists (select from deliveries d where d.endpoint_id = b.endpoint_id and d.waits_for = 'endpoint')
  returning endpoint_id as "endpointId"`

/** Drops those that hold nothing, of backlogs that this transaction has locked. */
export async function dropEmptyBacklogs(tx: Tx, endpointIds: readonly string[], now: Date): Promise<Set<string>> {
  const rows = await tx.query<{ endpointId: string }>(dropEmpty, [textArray(endpointIds), now])
  return new Set(rows.map((row) => row.endpointId))
}

const moveBacklogs = `
  update endpoint_backlogs b
     set drain_at = next.drain_at, not_before = next.not_before, paid_until = next.paid_until
    from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[])
      as next (endpoint_id, drain_at, not_before, paid_until)
   where b.endpoint_id = next.endpoint_id`

export const scheduleBacklogs = (tx: Transaction, next: readonly ({ endpointId: string } & NextDrain)[]): void =>
  tx.send(moveBacklogs, [
    textArray(next.map((each) => each.endpointId)),
    timestamptzArray(next.map((each) => each.drainAt)),
    timestamptzArray(next.map((each) => each.notBefore)),
    timestamptzArray(next.map((each) => each.paidUntil)),
  ])
