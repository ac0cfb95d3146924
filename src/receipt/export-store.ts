import type { Transaction, Tx } from '../ports/database.ts'
import type { ExportPlan, ExportProgress } from './export-writer.ts'

/** What was asked for. The times are RFC 3339: statements made at `from` or later, and before `to`. */
export interface ExportWish {
  readonly from?: string
  readonly to?: string
  readonly kinds?: readonly string[]
  readonly compression: 'zstd' | 'gzip'
}

export interface ExportRow {
  readonly id: string
  readonly tenantId: string
  readonly wish: ExportWish
  readonly requestedAt: Date
  readonly state: 'pending' | 'running' | 'done' | 'failed'
  readonly plan: ExportPlan | null
  readonly progress: ExportProgress | null
  /** What is written of the file, in order; `bytes` are those of the file. */
  readonly parts: readonly ExportPart[]
  readonly sha256: Uint8Array | null
  readonly finishedAt: Date | null
  readonly reason: string | null
  readonly failures: number
}

export interface ExportPart {
  readonly key: string
  readonly bytes: number
}

const columns = `
  id, tenant_id as "tenantId", wish, requested_at as "requestedAt", state, plan, progress, parts, sha256,
  finished_at as "finishedAt", reason, failures`

const insert = `insert into exports (id, tenant_id, wish, requested_at, state) values ($1, $2, $3::jsonb, $4, 'pending')`

export const insertExport = (tx: Transaction, row: Pick<ExportRow, 'id' | 'tenantId' | 'wish' | 'requestedAt'>): void =>
  tx.send(insert, [row.id, row.tenantId, JSON.stringify(row.wish), row.requestedAt])

const selectOne = `select ${columns} from exports where tenant_id = $1 and id = $2`

export async function findExport(tx: Tx, tenantId: string, id: string): Promise<ExportRow | undefined> {
  const [row] = await tx.query<ExportRow>(selectOne, [tenantId, id])
  return row
}

const selectPage = `select ${columns} from exports where tenant_id = $1 and id > $2 order by id limit $3`

export const listExports = (tx: Tx, tenantId: string, after: string, limit: number): Promise<ExportRow[]> =>
  tx.query(selectPage, [tenantId, after, limit])

const countAll = `select count(*)::integer as count from exports where tenant_id = $1`

export async function countExports(tx: Tx, tenantId: string): Promise<number> {
  const [row] = await tx.query<{ count: number }>(countAll, [tenantId])
  return row?.count ?? 0
}

const remove = `delete from exports where id = $1`

export const deleteExport = (tx: Transaction, id: string): void => tx.send(remove, [id])

const claim = `
  update exports set state = 'running', holder = $1, leased_until = $3
   where id = (select id from exports
                where state in ('pending', 'running') and (leased_until is null or leased_until <= $2)
                order by id limit 1 for update skip locked)
  returning ${columns}`

/** The oldest export that is due and that nobody holds; `holder` has it until `until`, unless it saves before. */
export async function claimExport(tx: Tx, holder: string, now: Date, until: Date): Promise<ExportRow | undefined> {
  const [row] = await tx.query<ExportRow>(claim, [holder, now, until])
  return row
}

const save = `
  update exports set plan = $4::jsonb, progress = $5::jsonb, parts = parts || $6::jsonb, leased_until = $3
   where id = $1 and holder = $2 and state = 'running'
  returning id`

/** Records what is written, and holds on. False if another process has it by now, or if it was deleted. */
export async function saveExport(
  tx: Tx,
  row: Pick<ExportRow, 'id'>,
  holder: string,
  until: Date,
  { plan, progress, parts }: { plan: ExportPlan; progress: ExportProgress; parts: readonly ExportPart[] },
): Promise<boolean> {
  const texts = [plan, progress, parts].map((value) => JSON.stringify(value))
  return (await tx.query(save, [row.id, holder, until, ...texts])).length === 1
}

const release = `update exports set failures = failures + $4, leased_until = $3 where id = $1 and holder = $2`

/** Lets go: whoever asks after `until` may go on with it. */
export const releaseExport = (tx: Tx, id: string, holder: string, until: Date, failures: 0 | 1): Promise<unknown> =>
  tx.query(release, [id, holder, until, failures])

const finish = `
  update exports set state = case when $4::bytea is null then 'failed' else 'done' end, finished_at = $3, sha256 = $4,
                     reason = $5, holder = null, leased_until = null
   where id = $1 and holder = $2 and state = 'running'
  returning id`

/** False as in {@link saveExport}. */
export async function finishExport(
  tx: Tx,
  id: string,
  holder: string,
  now: Date,
  outcome: { readonly sha256: Uint8Array } | { readonly reason: string },
): Promise<boolean> {
  const [sha256, reason] = 'sha256' in outcome ? [outcome.sha256, null] : [null, outcome.reason]
  return (await tx.query(finish, [id, holder, now, sha256, reason])).length === 1
}

const selectFirstSince = `
  select leaf_index as "leafIndex", stated_at as "statedAt"
    from statements
   where tenant_id = $1 and leaf_index >= $2
   order by leaf_index limit 1`

const countBetween = `
  select count(*)::integer as count from statements where tenant_id = $1 and leaf_index >= $2 and leaf_index < $3`

export async function countLeaves(tx: Tx, tenantId: string, from: number, to: number): Promise<number> {
  const [row] = await tx.query<{ count: number }>(countBetween, [tenantId, from, to])
  return row?.count ?? 0
}

/** The index from which on the tenant's leaves below `treeSize` were stated in the second of `at` or later, which is as
 *  exactly as statements tell. Leaves stand in the order of their times, but for what the clocks of processes differ. */
export async function leafAt(tx: Tx, tenantId: string, at: Date, treeSize: number): Promise<number> {
  const second = new Date(Math.floor(at.getTime() / 1000) * 1000)
  let [low, high] = [0, treeSize]
  while (low < high) {
    const middle = Math.floor((low + high) / 2)
    const [row] = await tx.query<{ leafIndex: number; statedAt: Date }>(selectFirstSince, [tenantId, middle])
    if (row !== undefined && row.leafIndex < high && row.statedAt < second) low = row.leafIndex + 1
    else high = middle
  }
  return low
}
