import { byteaArray, int8Array, type Transaction, type Tx, textArray, timestamptzArray } from '../ports/database.ts'

/** The row that holds the head of the log, as the batch that locked it found it. */
export interface HeadRow {
  issuer: string
  origin: string
  treeSize: number
  rootHash: Uint8Array
  /** Signed note over (origin, treeSize, rootHash). */
  checkpoint: string
  configuration: number
}

const headColumns = `issuer, origin, tree_size as "treeSize", root_hash as "rootHash", checkpoint, configuration`

export async function findHead(tx: Tx): Promise<HeadRow | undefined> {
  const [head] = await tx.query<HeadRow>(`select ${headColumns} from log`)
  return head
}

/** Locks the head until the transaction ends. Batches of all processes queue here, in order. */
export async function lockHead(tx: Tx): Promise<HeadRow> {
  const [head] = await tx.query<HeadRow>(`select ${headColumns} from log for update`)
  if (head === undefined) throw new Error('the database holds no log')
  return head
}

const insertLog = `
  insert into log (issuer, origin, tree_size, root_hash, checkpoint) values ($1, $2, $3, $4, $5)`

export const insertHead = (tx: Tx, head: Omit<HeadRow, 'configuration'>): Promise<unknown> =>
  tx.query(insertLog, [head.issuer, head.origin, head.treeSize, head.rootHash, head.checkpoint])

// Its own statement, since each sees what was committed when it begins: what follows sees what this one waited for.
const waitForHead = `select from log for update`

/** Has the transaction wait until the batch before it, which holds the head, is committed or came to nothing. */
export const followHead = (tx: Transaction): void => tx.send(waitForHead)

// Compares and swaps. If the head is not where we think, nothing is divided by nothing: PostgreSQL refuses that, and with
// it the whole transaction, without our having to wait and look.
const moveHead = `
  with moved as (
    update log set tree_size = $4, root_hash = $5, checkpoint = $6
     where tree_size = $1 and root_hash = $2 and configuration = $3
    returning 1)
  select 1 / count(*) from moved`

export function advanceHead(
  tx: Transaction,
  from: Pick<HeadRow, 'treeSize' | 'rootHash' | 'configuration'>,
  to: { treeSize: number; rootHash: Uint8Array; checkpoint: string },
): void {
  tx.send(moveHead, [from.treeSize, from.rootHash, from.configuration, to.treeSize, to.rootHash, to.checkpoint])
}

/** Whether this is how PostgreSQL refuses {@link advanceHead} (SQLSTATE division_by_zero; nothing else of ours divides). */
export const headMoved = (error: unknown): boolean =>
  error instanceof Error && 'code' in error && error.code === '22012'

const countChange = `update log set configuration = configuration + 1 returning configuration`

/** Counts an administrative change; every cache older than the count returned reads again. */
export async function advanceConfiguration(tx: Tx): Promise<number> {
  const [row] = await tx.query<{ configuration: number }>(countChange)
  if (row === undefined) throw new Error('the database holds no log')
  return row.configuration
}

export interface StatementRow {
  leafIndex: number
  tenantId: string | null
  statedAt: Date
  kind: string
  actor: string | null
  entry: Uint8Array
  sealed: Uint8Array
  kid: string | null
  signature: Uint8Array | null
  /** The row is dropped with the month of this instant. */
  expiresAt: Date
}

const insertRows = `
  insert into statements (leaf_index, tenant_id, stated_at, kind, actor, entry, sealed, kid, signature, expires_at)
  select * from unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::bytea[], $7::bytea[],
                       $8::text[], $9::bytea[], $10::timestamptz[])`

export const insertStatements = (tx: Transaction, rows: readonly StatementRow[]): void =>
  tx.send(insertRows, [
    int8Array(rows.map((row) => row.leafIndex)),
    textArray(rows.map((row) => row.tenantId)),
    timestamptzArray(rows.map((row) => row.statedAt)),
    textArray(rows.map((row) => row.kind)),
    textArray(rows.map((row) => row.actor)),
    byteaArray(rows.map((row) => row.entry)),
    byteaArray(rows.map((row) => row.sealed)),
    textArray(rows.map((row) => row.kid)),
    byteaArray(rows.map((row) => row.signature)),
    timestamptzArray(rows.map((row) => row.expiresAt)),
  ])

const selectStatement = `
  select leaf_index as "leafIndex", tenant_id as "tenantId", stated_at as "statedAt", kind, actor, entry, sealed, kid,
         signature, expires_at as "expiresAt"
    from statements
   where leaf_index = $1`

export async function findStatement(tx: Tx, leafIndex: number): Promise<StatementRow | undefined> {
  const [row] = await tx.query<StatementRow>(selectStatement, [leafIndex])
  return row
}

// One statement, so one snapshot: another process may be appending.
const selectBeyond = `
  select exists (select from statements where leaf_index >= (select tree_size from log)) as "beyond"`

/** Whether there are rows where no batch of ours can have put them. */
export async function hasLeavesBeyondHead(tx: Tx): Promise<boolean> {
  const [row] = await tx.query<{ beyond: boolean }>(selectBeyond)
  return row?.beyond === true
}

const insertTile = `insert into tiles (level, tile_index, hashes, root_hash) values ($1, $2, $3, $4)`

// The database has the 256 entries already, most of them from earlier batches: it puts the bundle together itself.
const insertBundle = `
  insert into entry_bundles (tile_index, entries)
  select $1::bigint, string_agg(entry, ''::bytea order by leaf_index)
    from statements
   where leaf_index between $1::bigint * 256 and $1::bigint * 256 + 255`

export function insertFullTile(
  tx: Transaction,
  tile: { level: number; index: number; hashes: Uint8Array; rootHash: Uint8Array },
): void {
  tx.send(insertTile, [tile.level, tile.index, tile.hashes, tile.rootHash])
  if (tile.level === 0) tx.send(insertBundle, [tile.index])
}

const selectTile = `select hashes from tiles where level = $1 and tile_index = $2`

export async function findFullTile(tx: Tx, level: number, index: number): Promise<Uint8Array | undefined> {
  const [row] = await tx.query<{ hashes: Uint8Array }>(selectTile, [level, index])
  return row?.hashes
}

const selectTileRoots = `
  select root_hash as "rootHash" from tiles
   where level = $1 and tile_index >= $2 and tile_index < $3
   order by tile_index`

/** The root hashes of full tiles, which are the hashes of the tile level above. */
export async function tileRoots(tx: Tx, level: number, from: number, to: number): Promise<Uint8Array[]> {
  const rows = await tx.query<{ rootHash: Uint8Array }>(selectTileRoots, [level, from, to])
  return rows.map((row) => row.rootHash)
}

const selectEntries = `
  select entry from statements where leaf_index >= $1 and leaf_index < $2 order by leaf_index`

/** Entries that are not in a full bundle yet, or at most 256 others. */
export async function entriesBetween(tx: Tx, from: number, to: number): Promise<Uint8Array[]> {
  const rows = await tx.query<{ entry: Uint8Array }>(selectEntries, [from, to])
  return rows.map((row) => row.entry)
}

const selectEntry = `
  select tile_index * 256 + (position($1::bytea in entries) - 1) / 32 as "leafIndex"
    from (select tile_index, entries from entry_bundles order by tile_index desc limit $3) as newest
   where position($1::bytea in entries) % 32 = 1
   union all
  select leaf_index from statements where leaf_index >= $2 and entry = $1`

/** Where `entry` stands: in one of the newest `bundles`, or behind them. */
export async function findEntry(
  tx: Tx,
  entry: Uint8Array,
  treeSize: number,
  bundles: number,
): Promise<number | undefined> {
  const [row] = await tx.query<{ leafIndex: number }>(selectEntry, [entry, treeSize - (treeSize % 256), bundles])
  return row?.leafIndex
}

const selectBundle = `select entries from entry_bundles where tile_index = $1`

/** The 256 entries of a full bundle, 32 bytes each. */
export async function findFullBundle(tx: Tx, index: number): Promise<Uint8Array[] | undefined> {
  const [row] = await tx.query<{ entries: Uint8Array }>(selectBundle, [index])
  if (row === undefined) return undefined
  return Array.from({ length: 256 }, (_, i) => row.entries.subarray(i * 32, i * 32 + 32))
}

const selectStatements = `
  select leaf_index as "leafIndex", tenant_id as "tenantId", stated_at as "statedAt", kind, actor, entry, sealed, kid,
         signature
    from statements
   where leaf_index >= $1 and leaf_index < $2
   order by leaf_index`

/** At most a few hundred: each is read whole. */
export const statementsBetween = (tx: Tx, from: number, to: number): Promise<StatementRow[]> =>
  tx.query(selectStatements, [from, to])

/** A checkpoint as published: the note carries the signatures of the log, and of this many witnesses. */
export interface PublishedRow {
  treeSize: number
  rootHash: Uint8Array
  cosignatures: number
  note: string
}

// Of two processes that asked at the same time, the one that got more cosignatures is right.
const insertPublished = `
  insert into cosigned_checkpoints (tree_size, root_hash, cosignatures, note) values ($1, $2, $3, $4)
  on conflict (tree_size) do update
     set cosignatures = excluded.cosignatures, note = excluded.note
   where cosigned_checkpoints.cosignatures <= excluded.cosignatures`

// An older one is needed only as long as it has more cosignatures than any newer one.
const deleteOutdone = `
  delete from cosigned_checkpoints older
   using cosigned_checkpoints newer
   where newer.tree_size > older.tree_size and newer.cosignatures >= older.cosignatures`

export async function recordPublished(tx: Tx, row: PublishedRow): Promise<void> {
  await tx.query(insertPublished, [row.treeSize, row.rootHash, row.cosignatures, row.note])
  await tx.query(deleteOutdone)
}

const selectPublished = `
  select tree_size as "treeSize", root_hash as "rootHash", cosignatures, note
    from cosigned_checkpoints
   where tree_size >= $1 and cosignatures >= $2
   order by tree_size desc limit 1`

/** The newest of at least `leastSize` leaves that at least `leastCosignatures` witnesses cosigned. */
export async function findPublished(
  tx: Tx,
  leastSize: number,
  leastCosignatures: number,
): Promise<PublishedRow | undefined> {
  const [row] = await tx.query<PublishedRow>(selectPublished, [leastSize, leastCosignatures])
  return row
}
