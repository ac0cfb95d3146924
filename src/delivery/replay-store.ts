import { idsFrom } from '../message/id.ts'
import { int8Array, type Transaction, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { DeliveryState } from './store.ts'

/** Which settled deliveries are to be made again: of messages accepted from `from` to before `to`. */
export interface ReplayRange {
  readonly tenantId: string
  readonly endpointId: string
  /** Null: of all sources. */
  readonly sourceId: string | null
  readonly from: Date
  readonly to: Date
  readonly outcome: 'delivered' | 'abandoned' | 'any'
}

/** A replay as its row says. */
export interface Replay extends ReplayRange {
  readonly id: string
  /** New deliveries a second. */
  readonly rate: number
  readonly state: 'running' | 'finished' | 'cancelled'
  /** Deliveries in the range when it was asked for. */
  readonly found: number
  readonly replayed: number
  /** Of which the payload had expired. */
  readonly skipped: number
  readonly requestedAt: Date
  readonly finishedAt: Date | null
}

/** What a running replay goes on from, and under which claim. */
export interface ClaimedReplay extends Replay {
  readonly claim: string
  /** The last delivery that was replayed or skipped. */
  readonly cursor: string
}

const columns = `
  id, tenant_id as "tenantId", endpoint_id as "endpointId", source_id as "sourceId", accepted_from as "from",
  accepted_to as "to", outcome, rate, state, found, replayed, skipped, requested_at as "requestedAt",
  finished_at as "finishedAt"`

const insertOne = `
  insert into replays (id, tenant_id, endpoint_id, source_id, accepted_from, accepted_to, outcome, rate, found,
                       requested_at, next_at)
  values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)`

export const insertReplay = (tx: Tx, replay: Replay): Promise<unknown> => {
  const { id, tenantId, endpointId, sourceId, from, to, outcome, rate, found, requestedAt } = replay
  return tx.query(insertOne, [id, tenantId, endpointId, sourceId, from, to, outcome, rate, found, requestedAt])
}

const selectOne = `select ${columns} from replays where id = $1 and tenant_id = $2`

export async function findReplay(tx: Tx, tenantId: string, id: string): Promise<Replay | undefined> {
  const [row] = await tx.query<Replay>(selectOne, [id, tenantId])
  return row
}

// Deliveries are made after their message is accepted, so ids bound the search; the message has the exact time.
const settledInRange = `
  from settled_deliveries d
  left join messages m on m.id = d.message_id
  left join payloads p on p.leaf_index = m.leaf_index and p.expires_at > $9
 where d.endpoint_id = $1 and d.tenant_id = $2 and d.state = any($3::text[]) and d.replay is null
   and d.id > $4 and d.id < $5
   and (m.id is null or (m.accepted_at >= $6 and m.accepted_at < $7 and ($8::text is null or m.source_id = $8)))`

const countRows = `select count(p.leaf_index) as found, count(*) - count(p.leaf_index) as gone ${settledInRange}`

/** How many there are, and of how many more the payload has expired. */
export async function countInRange(tx: Tx, range: ReplayRange, now: Date): Promise<{ found: number; gone: number }> {
  const [row] = await tx.query<{ found: number; gone: number }>(countRows, rangeParams(range, '', now))
  return row ?? { found: 0, gone: 0 }
}

const selectPage = `
  select d.id, d.message_id as "messageId", d.expires_at as "expiresAt", p.leaf_index is null as gone ${settledInRange} order by d.id limit $10`

export interface ReplayableDelivery {
  readonly id: string
  readonly messageId: string
  readonly expiresAt: Date
  /** Its payload has expired. */
  readonly gone: boolean
}

export const pageInRange = (
  tx: Tx,
  range: ReplayRange,
  { after, now, limit }: { after: string; now: Date; limit: number },
): Promise<ReplayableDelivery[]> => tx.query(selectPage, [...rangeParams(range, after, now), limit])

const rangeParams = ({ tenantId, endpointId, sourceId, from, to, outcome }: ReplayRange, after: string, now: Date) => {
  const states: DeliveryState[] = outcome === 'any' ? ['delivered', 'abandoned'] : [outcome]
  const first = idsFrom('dlv', from)
  const last = idsFrom('dlv', new Date(to.getTime() + longestAcceptanceMs))
  return [endpointId, tenantId, textArray(states), after > first ? after : first, last, from, to, sourceId, now]
}

/** A message waits no longer than this for the batch that makes its deliveries. */
const longestAcceptanceMs = 10 * 60_000

const claimOne = `
  update replays set next_at = $2, claim = $3                  -- the lease: an abandoned claim falls due again
   where id = (select id from replays where state = 'running' and next_at <= $1
                order by next_at limit 1 for update skip locked)
  returning ${columns}, claim, cursor`

/** The replay that is due first, for nobody else until `leaseEndsAt`. */
export async function claimReplay(
  tx: Tx,
  { now, leaseEndsAt, claim }: { now: Date; leaseEndsAt: Date; claim: string },
): Promise<ClaimedReplay | undefined> {
  const [row] = await tx.query<ClaimedReplay>(claimOne, [now, leaseEndsAt, claim])
  return row
}

const selectNext = `select min(next_at) as "nextAt" from replays where state = 'running'`

export async function nextReplayAt(tx: Tx): Promise<Date | undefined> {
  const [row] = await tx.query<{ nextAt: Date | null }>(selectNext)
  return row?.nextAt ?? undefined
}

const continueAt = `update replays set next_at = $3 where id = $1 and claim = $2 and state = 'running'`

/** Gives a claim back, due at `nextAt`. */
export const releaseReplay = (tx: Tx, { id, claim }: ClaimedReplay, nextAt: Date): Promise<unknown> =>
  tx.query(continueAt, [id, claim, nextAt])

/** Where running replays stand, by id, asked under the lock of the head. */
export interface Standing {
  id: string
  claim: string | null
  cursor: string
}

const selectStandings = `select id, claim, cursor from replays where id = any($1::text[]) and state = 'running'`

export async function standings(tx: Tx, ids: readonly string[]): Promise<Map<string, Standing>> {
  const rows = await tx.query<Standing>(selectStandings, [textArray([...new Set(ids)])])
  return new Map(rows.map((row) => [row.id, row]))
}

/** A delivery made again. */
export interface ReplayedDelivery {
  readonly id: string
  readonly tenantId: string
  readonly messageId: string
  readonly endpointId: string
  /** When its message expires. */
  readonly expiresAt: Date
  /** What its receiver reads in `webhook-replay`. */
  readonly replay: string
}

const insertRows = `
  insert into deliveries (id, tenant_id, message_id, endpoint_id, replay, expires_at, next_attempt_at, waits_for)
  select *, $7::timestamptz, 'endpoint'
    from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[])`

export const insertReplayed = (tx: Transaction, rows: readonly ReplayedDelivery[], now: Date): void =>
  tx.send(insertRows, [
    textArray(rows.map((row) => row.id)),
    textArray(rows.map((row) => row.tenantId)),
    textArray(rows.map((row) => row.messageId)),
    textArray(rows.map((row) => row.endpointId)),
    textArray(rows.map((row) => row.replay)),
    timestamptzArray(rows.map((row) => row.expiresAt)),
    now,
  ])

/** How far a replay came with one row. */
export interface Progress {
  readonly id: string
  readonly cursor: string
  readonly replayed: number
  readonly skipped: number
}

const advanceRows = `
  update replays r set cursor = moved.cursor, replayed = r.replayed + moved.replayed, skipped = r.skipped + moved.skipped
    from (select id, max(cursor) as cursor, sum(replayed) as replayed, sum(skipped) as skipped
            from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) as step (id, cursor, replayed, skipped)
           group by id) as moved
   where r.id = moved.id`

export const advanceReplays = (tx: Transaction, steps: readonly Progress[]): void =>
  tx.send(advanceRows, [
    textArray(steps.map((step) => step.id)),
    textArray(steps.map((step) => step.cursor)),
    int8Array(steps.map((step) => step.replayed)),
    int8Array(steps.map((step) => step.skipped)),
  ])

const endOne = `update replays set state = $2, finished_at = $3 where id = $1 and state = 'running' returning id`

/** False if it has ended already. */
export async function endReplay(tx: Tx, id: string, state: 'finished' | 'cancelled', at: Date): Promise<boolean> {
  return (await tx.query(endOne, [id, state, at])).length === 1
}
