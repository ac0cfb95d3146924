import type { Tx } from '../ports/database.ts'

/** Any constant will do: only one process at a time reconciles. */
const lock = `select pg_try_advisory_xact_lock(4857264075) as "locked"`

export async function lockReconciler(tx: Tx): Promise<boolean> {
  const [row] = await tx.query<{ locked: boolean }>(lock)
  return row?.locked === true
}

export interface OwedRange {
  firstLeaf: number
  lastLeaf: number
  deliveries: number
  oldestOwedAt: Date
}

const selectRange = `
  select min(first_leaf) as "firstLeaf", max(last_leaf) as "lastLeaf", sum(deliveries)::bigint as deliveries,
         min(owed_at) as "oldestOwedAt"
    from (select * from owed_deliveries order by first_leaf limit $1) as oldest
  having count(*) > 0`

/** The oldest batches of which the deliveries have not been looked for, taken together. */
export async function owedRange(tx: Tx, batches: number): Promise<OwedRange | undefined> {
  const [row] = await tx.query<OwedRange>(selectRange, [batches])
  return row
}

// Asked for by one array, along which an index is read, and not one by one: measured, in a third of the time. They expire
// with their messages, so the other months are not looked at.
const countFound = `
  with owing as materialized (
    select array_agg(id) as ids, min(expires_at) as earliest, max(expires_at) as latest
      from messages where leaf_index between $1 and $2)
  select (select count(*) from deliveries where message_id = any ((select ids from owing)::text[]) and replay is null)
       + (select count(*) from settled_deliveries
           where message_id = any ((select ids from owing)::text[]) and replay is null
             and expires_at between (select earliest from owing) and (select latest from owing)) as found`

/** How many deliveries, pending or settled, the messages of these leaves have. */
export async function countDeliveries(tx: Tx, { firstLeaf, lastLeaf }: OwedRange): Promise<number> {
  const [row] = await tx.query<{ found: number }>(countFound, [firstLeaf, lastLeaf])
  return row?.found ?? 0
}

const deleteRange = `delete from owed_deliveries where first_leaf between $1 and $2`

export const forgetOwed = (tx: Tx, { firstLeaf, lastLeaf }: OwedRange): Promise<unknown> =>
  tx.query(deleteRange, [firstLeaf, lastLeaf])

// From one endpoint to the next by the index, whatever the length of their backlogs.
const insertMissingBacklogs = `
  with recursive waiting (endpoint_id) as (
    (select endpoint_id from deliveries where waits_for = 'endpoint' order by endpoint_id limit 1)
    union all
    select (select d.endpoint_id from deliveries d
             where d.waits_for = 'endpoint' and d.endpoint_id > waiting.endpoint_id order by d.endpoint_id limit 1)
      from waiting where waiting.endpoint_id is not null)
  insert into endpoint_backlogs (endpoint_id, tenant_id, drain_at)
  select w.endpoint_id, (select d.tenant_id from deliveries d where d.endpoint_id = w.endpoint_id and d.waits_for = 'endpoint' limit 1), $1
    from waiting w
   where w.endpoint_id is not null and not exists (select from endpoint_backlogs b where b.endpoint_id = w.endpoint_id)
      on conflict (endpoint_id) do nothing
  returning endpoint_id as "endpointId"`

/** Makes the rows that backlogs lack; resolves with their endpoints. There should be none. */
export const repairBacklogs = (tx: Tx, now: Date): Promise<{ endpointId: string }[]> =>
  tx.query(insertMissingBacklogs, [now])

// Likewise from one order to the next: of each, only the first is looked at.
const promoteStuck = `
  with recursive orders (endpoint_id, order_key) as (
    (select endpoint_id, order_key from deliveries where order_key is not null order by endpoint_id, order_key limit 1)
    union all
    select next.endpoint_id, next.order_key
      from orders cross join lateral (
             select d.endpoint_id, d.order_key from deliveries d
              where d.order_key is not null and (d.endpoint_id, d.order_key) > (orders.endpoint_id, orders.order_key)
              order by d.endpoint_id, d.order_key limit 1) as next)
  update deliveries set waits_for = 'endpoint'
   where waits_for = 'turn'
     and id in (select (select d.id from deliveries d
                         where d.endpoint_id = orders.endpoint_id and d.order_key = orders.order_key
                         order by d.position, d.id limit 1) from orders)
  returning endpoint_id as "endpointId", tenant_id as "tenantId"`

/** Gives their turn to deliveries that are first in their order and wait for one. There should be none. */
export const repairTurns = (tx: Tx): Promise<{ endpointId: string; tenantId: string }[]> => tx.query(promoteStuck)
