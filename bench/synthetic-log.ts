/**
 * Makes a log large without anybody stating anything. The relay of that log must be stopped.
 *
 *     entries -> the relay's own TreeEdge -> full tiles and bundles, batch by batch -> the tail and the signed head
 *
 * What comes out is the log as the relay would have written it, root and signature included, but for the statements below
 * full tiles: appending, proving and starting never read those, and 10 million of them are 5 GB.
 */
import { hash } from 'node:crypto'
import { join } from 'node:path'
import pino from 'pino'
import { openDatabase } from '../src/adapters/database.ts'
import { openLocalKeyWrapper } from '../src/adapters/key-wrapper-local.ts'
import { Keyring } from '../src/keyring/keyring.ts'
import { checkpointSigner } from '../src/log/genesis.ts'
import { loadEdge } from '../src/log/reader.ts'
import { leastRetention, statementExpiry } from '../src/log/retention.ts'
import { advanceHead, entriesBetween, findHead, type HeadRow, insertStatements } from '../src/log/store.ts'
import { type FullTile, hashLeaf, tileWidth } from '../src/log/tree.ts'
import { systemClock } from '../src/ports/clock.ts'
import { byteaArray, type Database, int8Array, type Transaction } from '../src/ports/database.ts'
import type { FreshDatabase } from './testbed.ts'

/** 64 tiles: the hashes of a batch are collected while they are young, which takes a third less time than 256 tiles. */
const batchLeaves = 64 * tileWidth
/** Leaves from one line of progress to the next. */
const progressLeaves = 2_000_000

/** Extends the log by synthetic leaves to `treeSize` of them. Resolves with its new checkpoint. */
export async function extendLog(
  { url, session, dataDir }: FreshDatabase,
  treeSize: number,
  say: (sentence: string) => void,
): Promise<string> {
  const logger = pino({ level: 'silent' })
  const database = openDatabase({ connection: { connectionString: url }, poolSize: 1, logger })
  let checkpoint: string
  try {
    const head = await findHead(database)
    if (head === undefined) throw new Error('the database holds no log')
    const { edge, tail } = await appendLeaves(database, head.treeSize, treeSize, say)

    const wrapper = await openLocalKeyWrapper(join(dataDir, 'wrapping-key'))
    const keyring = await Keyring.open(database, { wrapper, issuer: head.issuer, clock: systemClock, logger })
    const next = { treeSize, rootHash: edge.rootHash }
    checkpoint = checkpointSigner(keyring, head.origin)({ origin: head.origin, ...next })
    await database.transaction(async (tx) => moveHead(tx, head, { ...next, checkpoint }, tail))
  } finally {
    await database.close()
  }
  // What autovacuum and the checkpointer would do about it sooner or later must not fall into what is measured.
  await session.query('vacuum (freeze, analyze)')
  await session.query('checkpoint')
  return checkpoint
}

/** Writes the full tiles and bundles of the leaves from `fromSize` on. Returns the entries behind the last full tile. */
async function appendLeaves(database: Database, fromSize: number, treeSize: number, say: (sentence: string) => void) {
  let edge = await loadEdge(database, fromSize)
  let tail = await entriesBetween(database, fromSize - (fromSize % tileWidth), fromSize)
  while (edge.treeSize < treeSize) {
    const first = edge.treeSize
    const fresh = Array.from({ length: Math.min(batchLeaves, treeSize - first) }, (_, i) => entryAt(first + i))
    const growth = edge.append(fresh.map(hashLeaf))
    const entries = [...tail, ...fresh]
    tail = entries.splice(entries.length - (growth.edge.treeSize % tileWidth))
    await database.transaction(async (tx) => insertFullTiles(tx, growth.fullTiles, Buffer.concat(entries)))
    edge = growth.edge
    if (Math.floor(edge.treeSize / progressLeaves) > Math.floor(first / progressLeaves)) {
      say(`  ${edge.treeSize.toLocaleString('en-US')} leaves`)
    }
  }
  return { edge, tail }
}

/** SHA-256 of the leaf's index, in decimal: as good as that of a statement. */
const entryAt = (leafIndex: number): Uint8Array => hash('sha256', String(leafIndex), 'buffer')

const insertTiles = `
  insert into tiles (level, tile_index, hashes, root_hash)
  select * from unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[])`

const insertBundles = `
  insert into entry_bundles (tile_index, entries)
  select * from unnest($1::bigint[], $2::bytea[])`

/** `entries` are those below the tiles of level 0, in a row. */
function insertFullTiles(tx: Transaction, tiles: readonly FullTile[], entries: Buffer): void {
  tx.send(insertTiles, [
    int8Array(tiles.map((tile) => tile.level)),
    int8Array(tiles.map((tile) => tile.index)),
    byteaArray(tiles.map((tile) => tile.hashes)),
    byteaArray(tiles.map((tile) => tile.rootHash)),
  ])
  const indices = tiles.filter((tile) => tile.level === 0).map((tile) => tile.index)
  const bundleBytes = tileWidth * 32
  const bundles = indices.map((_, i) => entries.subarray(i * bundleBytes, (i + 1) * bundleBytes))
  tx.send(insertBundles, [int8Array(indices), byteaArray(bundles)])
}

/** The relay reads the entries behind the last full tile from their statements; these say nothing that anyone opens. */
function moveHead(
  tx: Transaction,
  from: HeadRow,
  to: { treeSize: number; rootHash: Uint8Array; checkpoint: string },
  tail: readonly Uint8Array[],
): void {
  advanceHead(tx, from, to)
  const rows = tail.map((entry, i) => ({ leafIndex: to.treeSize - tail.length + i, entry }))
  const filing = { tenantId: null, statedAt: new Date(), kind: 'synthetic', actor: null }
  const expiresAt = statementExpiry(filing.statedAt, leastRetention)
  const unstated = { ...filing, sealed: Buffer.alloc(400), kid: null, signature: null, expiresAt }
  insertStatements(
    tx,
    rows.filter(({ leafIndex }) => leafIndex >= from.treeSize).map((row) => ({ ...row, ...unstated })),
  )
}
