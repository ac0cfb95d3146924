import { int8Array, type Transaction, type Tx, textArray, timestamptzArray } from '../ports/database.ts'
import type { Health } from './breaker.ts'

/** The health of one endpoint as all processes share it. */
export interface HealthRow extends Health {
  endpointId: string
  tenantId: string
  /** How many of the stages of failure.ts the tenant was told of. */
  stage: number
}

const columns = `
  endpoint_id as "endpointId", tenant_id as "tenantId", failures, failing_since as "failingSince",
  last_failed_at as "lastFailedAt", trips, open_until as "openUntil", held_until as "heldUntil", stage`

// By endpoint, as the notices' batch locks them: neither can wait for the other in a circle.
const lockRows = `select ${columns} from endpoint_health where endpoint_id = any($1::text[]) order by endpoint_id for update`

export const lockHealth = (tx: Tx, endpointIds: readonly string[]): Promise<HealthRow[]> =>
  tx.query(lockRows, [textArray(endpointIds)])

const upsertRows = `
  insert into endpoint_health (endpoint_id, tenant_id, failures, failing_since, last_failed_at, trips, open_until, held_until)
  select * from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::bigint[],
                       $7::timestamptz[], $8::timestamptz[]) as ill (endpoint_id) order by endpoint_id
      on conflict (endpoint_id) do update
     set failures = excluded.failures, failing_since = excluded.failing_since, last_failed_at = excluded.last_failed_at,
         trips = excluded.trips, open_until = excluded.open_until, held_until = excluded.held_until,
         stage = case when excluded.failing_since is null then 0 else endpoint_health.stage end,
         changed_at = clock_timestamp()`

export const storeHealth = (tx: Transaction, rows: readonly Omit<HealthRow, 'stage'>[]): void =>
  tx.send(upsertRows, [
    textArray(rows.map((row) => row.endpointId)),
    textArray(rows.map((row) => row.tenantId)),
    int8Array(rows.map((row) => row.failures)),
    timestamptzArray(rows.map((row) => row.failingSince)),
    timestamptzArray(rows.map((row) => row.lastFailedAt)),
    int8Array(rows.map((row) => row.trips)),
    timestamptzArray(rows.map((row) => row.openUntil)),
    timestamptzArray(rows.map((row) => row.heldUntil)),
  ])

// The row of an endpoint that is well stays for a while, so that other processes read that it is.
const recoverRows = `
  update endpoint_health
     set failures = 0, failing_since = null, last_failed_at = null, trips = 0, open_until = null, held_until = null,
         stage = 0, changed_at = clock_timestamp()
   where endpoint_id = any($1::text[])`

export const storeRecovery = (tx: Transaction, endpointIds: readonly string[]): void =>
  tx.send(recoverRows, [textArray(endpointIds)])

const forgetRows = `
  delete from endpoint_health
   where changed_at < clock_timestamp() - interval '1 hour' and failing_since is null and held_until is null`

export const forgetRecovered = (tx: Tx): Promise<unknown> => tx.query(forgetRows)

const selectChanged = `
  select ${columns}, changed_at as "changedAt" from endpoint_health
   where changed_at > $1::timestamptz - interval '10 seconds'`

/** What changed since `since`, and a little more: a transaction may commit after a later one. */
export const changedHealth = (tx: Tx, since: Date): Promise<(HealthRow & { changedAt: Date })[]> =>
  tx.query(selectChanged, [since])

const selectStage = `select endpoint_id as "endpointId", stage from endpoint_health where endpoint_id = any($1::text[])`

export const stagesOf = (tx: Tx, endpointIds: readonly string[]): Promise<{ endpointId: string; stage: number }[]> =>
  tx.query(selectStage, [textArray(endpointIds)])

const advance = `
  update endpoint_health h set stage = told.stage, changed_at = clock_timestamp()
    from unnest($1::text[], $2::bigint[]) as told (endpoint_id, stage)
   where h.endpoint_id = told.endpoint_id`

export const advanceStages = (tx: Transaction, told: readonly { endpointId: string; stage: number }[]): void =>
  tx.send(advance, [textArray(told.map((row) => row.endpointId)), int8Array(told.map((row) => row.stage))])
