import { type DataKeys, deploymentVault } from '../keyring/data-keys.ts'
import type { Clock } from '../ports/clock.ts'
import { type Database, int8Array, type Tx } from '../ports/database.ts'
import { statementContext } from './statement.ts'

/** Which statements are asked for. What is undefined matches all. */
export interface AuditFilter {
  readonly kind?: string | undefined
  readonly actor?: string | undefined
  /** Stated at or after. */
  readonly from?: Date | undefined
  /** Stated before. */
  readonly to?: Date | undefined
  /** Of these leaves only. */
  readonly leaves?: readonly number[] | undefined
}

export interface AuditPage {
  /** Oldest first. */
  readonly items: readonly AuditItem[]
  /** The leaf behind which to go on; undefined where this page reached the end of the log as it was then. */
  readonly next: number | undefined
}

export interface AuditItem {
  readonly leafIndex: number
  /** 32 bytes, as in the log. */
  readonly entry: Uint8Array
  /** The very bytes that `entry` is the SHA-256 of. */
  readonly statement: Uint8Array
}

/** Rows looked at for one page, however few of them match: a filter that matches nothing must not read for minutes. */
const mostScanned = 10_000

/**
 * Statements stand in the order of their batches, and carry the clock of the process that stated them. Where time is
 * looked up by halving, as in {@link firstSince}, this is how far the clocks of a deployment may be apart.
 */
const clocksApartMs = 3_600_000

/** Reads statements back, opened: those of a tenant, or those that belong to the deployment and no tenant. */
export class AuditLog {
  readonly #database: Database
  readonly #dataKeys: DataKeys
  readonly #clock: Clock

  constructor(database: Database, dataKeys: DataKeys, clock: Clock) {
    this.#database = database
    this.#dataKeys = dataKeys
    this.#clock = clock
  }

  /** The statements behind leaf `after` (−1: from the first), at most `limit`. `tenantId` null: the deployment's. */
  async page(tenantId: string | null, filter: AuditFilter, after: number, limit: number): Promise<AuditPage> {
    const now = this.#clock.now()
    const { rows, next } =
      tenantId === null
        ? await scan(this.#database, ofDeployment, null, filter, now, after, limit)
        : await this.#database.readAs(tenantId, (tx) => scan(tx, ofTenant, tenantId, filter, now, after, limit))
    const dataKey = await this.#dataKeys.get(this.#database, tenantId ?? deploymentVault)
    const context = statementContext(tenantId)
    return { items: rows.map(({ sealed, ...row }) => ({ ...row, statement: dataKey.open(sealed, context) })), next }
  }
}

interface Row {
  leafIndex: number
  entry: Uint8Array
  sealed: Uint8Array
}

async function scan(
  tx: Tx,
  texts: Texts,
  tenantId: string | null,
  { kind, actor, from, to, leaves }: AuditFilter,
  now: Date,
  after: number,
  limit: number,
): Promise<{ rows: Row[]; next: number | undefined }> {
  const matching = [kind ?? null, actor ?? null, from ?? null, to ?? null, limit + 1, now]
  const page = (rows: Row[], otherwise: number | undefined) =>
    rows.length > limit ? { rows: rows.slice(0, limit), next: rows[limit - 1]?.leafIndex } : { rows, next: otherwise }
  if (leaves !== undefined) {
    return page(await tx.query<Row>(texts.selectAt, [tenantId, after, int8Array(leaves), ...matching]), undefined)
  }
  const start = from ? (await firstSince(tx, texts, tenantId, from.getTime() - clocksApartMs, after + 1)) - 1 : after
  const end = to ? await firstSince(tx, texts, tenantId, to.getTime() + clocksApartMs, start + 1) : beyondAll
  const [bound] = await tx.query<{ leafIndex: number }>(texts.selectBound, [tenantId, start, end, mostScanned - 1])
  const last = bound?.leafIndex ?? end
  return page(await tx.query<Row>(texts.selectMatching, [tenantId, start, last, ...matching]), bound?.leafIndex)
}

const beyondAll = Number.MAX_SAFE_INTEGER

/** The first leaf, not before `least`, that was stated at `atMs` or later, or one behind all. By halving: some 30 rows. */
async function firstSince(tx: Tx, texts: Texts, tenantId: string | null, atMs: number, least: number): Promise<number> {
  const [newest] = await tx.query<{ leafIndex: number }>(texts.selectNewest, [tenantId])
  let below = least
  let above = (newest?.leafIndex ?? -1) + 1
  while (below < above) {
    const middle = Math.floor((below + above) / 2)
    const [row] = await tx.query<{ leafIndex: number; statedAt: Date }>(texts.selectNext, [tenantId, middle])
    if (row === undefined || row.leafIndex >= above) above = middle
    else if (row.statedAt.getTime() >= atMs) above = middle
    else below = row.leafIndex + 1
  }
  return Math.max(below, least)
}

const textsFor = (owner: string) => ({
  selectMatching: `
    select leaf_index as "leafIndex", entry, sealed from statements
     where ${owner} and leaf_index > $2 and leaf_index <= $3
       and ($4::text is null or kind = $4) and ($5::text is null or actor = $5)
       and ($6::timestamptz is null or stated_at >= $6) and ($7::timestamptz is null or stated_at < $7) and expires_at > $9
     order by leaf_index limit $8`,
  selectAt: `
    select leaf_index as "leafIndex", entry, sealed from statements
     where ${owner} and leaf_index > $2 and leaf_index = any($3::bigint[])
       and ($4::text is null or kind = $4) and ($5::text is null or actor = $5)
       and ($6::timestamptz is null or stated_at >= $6) and ($7::timestamptz is null or stated_at < $7) and expires_at > $9
     order by leaf_index limit $8`,
  // Where looking for one page ends, if there is that much.
  selectBound: `
    select leaf_index as "leafIndex" from statements
     where ${owner} and leaf_index > $2 and leaf_index <= $3
     order by leaf_index offset $4 limit 1`,
  selectNext: `
    select leaf_index as "leafIndex", stated_at as "statedAt" from statements
     where ${owner} and leaf_index >= $2
     order by leaf_index limit 1`,
  selectNewest: `
    select leaf_index as "leafIndex" from statements where ${owner} order by leaf_index desc limit 1`,
})
type Texts = ReturnType<typeof textsFor>

const ofTenant = textsFor('tenant_id = $1')
const ofDeployment = textsFor('tenant_id is null and $1::text is null')
