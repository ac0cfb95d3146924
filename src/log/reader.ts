import { type DataKeys, deploymentVault } from '../keyring/data-keys.ts'
import type { Tx } from '../ports/database.ts'
import type { Checkpoint } from './checkpoint.ts'
import { statementContext } from './statement.ts'
import {
  entriesBetween,
  findFullBundle,
  findFullTile,
  findHead,
  type HeadRow,
  type StatementRow,
  tileRoots,
} from './store.ts'
import { tilesForConsistency, tilesForInclusion } from './tile.ts'
import type { TileCache } from './tile-cache.ts'
import { hashLeaf, proveConsistency, proveInclusion, TreeEdge, verifyConsistency } from './tree.ts'

const tileWidth = 256

/** Reads the right edge of the tree of `treeSize`: at most 255 hashes per tile level, however large the log is. */
export async function loadEdge(tx: Tx, treeSize: number): Promise<TreeEdge> {
  const partials: Uint8Array[][] = []
  for (let level = 0, count = treeSize; count > 0; level++, count = Math.floor(count / tileWidth)) {
    partials.push(await hashesAt(tx, level, Math.floor(count / tileWidth) * tileWidth, count))
  }
  return TreeEdge.load(treeSize, partials)
}

/** Hashes of tile level `level` from index `from` to before `to`, which lie within one tile. */
async function hashesAt(tx: Tx, level: number, from: number, to: number): Promise<Uint8Array[]> {
  if (from === to) return []
  if (level > 0) return tileRoots(tx, level - 1, from, to)
  return (await entriesBetween(tx, from, to)).map(hashLeaf)
}

/** The first `width` hashes of a tile as C2SP tlog-tiles serves them, or undefined where the log has not got so far. */
export async function findTile(tx: Tx, level: number, index: number, width: number): Promise<Uint8Array | undefined> {
  const full = await findFullTile(tx, level, index)
  if (full !== undefined) return full.subarray(0, width * 32)
  if (width === tileWidth) return undefined
  const hashes = await hashesAt(tx, level, index * tileWidth, index * tileWidth + width)
  return hashes.length === width ? Buffer.concat(hashes) : undefined
}

/** The first `width` entries of a bundle, or undefined where the log has not got so far. */
export async function findEntries(tx: Tx, index: number, width: number): Promise<Uint8Array[] | undefined> {
  const full = await findFullBundle(tx, index)
  if (full !== undefined) return full.slice(0, width)
  const entries = await entriesBetween(tx, index * tileWidth, index * tileWidth + width)
  return entries.length === width ? entries : undefined
}

/** The inclusion proof of a leaf in the newest checkpoint. Throws if the log is not that large. */
export async function proveNow(
  tx: Tx,
  tiles: TileCache,
  leafIndex: number,
): Promise<{ head: HeadRow; proof: Uint8Array[] }> {
  const head = await findHead(tx)
  if (head === undefined || leafIndex >= head.treeSize) throw new Error(`leaf ${leafIndex} is not in the log`)
  return { head, proof: await proveAt(tx, tiles, leafIndex, head.treeSize) }
}

/** The inclusion proof of a leaf in the tree of `treeSize`, which the log has reached. */
export async function proveAt(tx: Tx, tiles: TileCache, leafIndex: number, treeSize: number): Promise<Uint8Array[]> {
  // No lock: the log only grows, so everything below a head that was read is there and stays as it is.
  const node = await tiles.nodes(tx, tilesForInclusion(leafIndex, treeSize))
  return proveInclusion(leafIndex, treeSize, node)
}

/** Whether the tree at `to`, which the database holds, extends the tree at `from`. */
export async function consistent(
  tx: Tx,
  tiles: TileCache,
  from: Pick<Checkpoint, 'treeSize' | 'rootHash'>,
  to: Pick<Checkpoint, 'treeSize' | 'rootHash'>,
): Promise<boolean> {
  // A tree of size 0 says nothing about a later one (RFC 9162 §2.1.4 has no proof for it).
  if (from.treeSize === 0) return true
  const proof = await proveGrowth(tx, tiles, from.treeSize, to.treeSize)
  const [fromSize, toSize, fromRoot, toRoot] = [from.treeSize, to.treeSize, from.rootHash, to.rootHash]
  return verifyConsistency({ fromSize, toSize, fromRoot, toRoot, proof })
}

/** The root of the log when it had `treeSize` leaves, at least 1. Throws if it never had that many. */
export async function rootAt(tx: Tx, treeSize: number): Promise<Uint8Array> {
  const partials: Uint8Array[][] = []
  for (let level = 0, count = treeSize; count > 0; level++, count = Math.floor(count / tileWidth)) {
    const width = count % tileWidth
    const tile = width > 0 ? await findTile(tx, level, Math.floor(count / tileWidth), width) : new Uint8Array(0)
    if (tile === undefined) throw new Error(`the log never had ${treeSize} leaves`)
    partials.push(Array.from({ length: width }, (_, i) => tile.subarray(i * 32, i * 32 + 32)))
  }
  return TreeEdge.load(treeSize, partials).rootHash
}

/** The entry at `leafIndex`. Throws if the log is not that large. */
export async function entryAt(tx: Tx, leafIndex: number): Promise<Uint8Array> {
  const entries = await findEntries(tx, Math.floor(leafIndex / tileWidth), (leafIndex % tileWidth) + 1)
  const entry = entries?.[leafIndex % tileWidth]
  if (entry === undefined) throw new Error(`leaf ${leafIndex} is not in the log`)
  return entry
}

/** The consistency proof from `fromSize` to `toSize`, both in the log; empty from the empty tree. */
export async function proveGrowth(tx: Tx, tiles: TileCache, fromSize: number, toSize: number): Promise<Uint8Array[]> {
  if (fromSize === 0) return []
  const node = await tiles.nodes(tx, tilesForConsistency(fromSize, toSize))
  return proveConsistency(fromSize, toSize, node)
}

/** The very bytes that were committed. Rejects if they do not open with their tenant's data key. */
export async function openStatement(
  tx: Tx,
  dataKeys: DataKeys,
  row: Pick<StatementRow, 'tenantId' | 'sealed'>,
): Promise<Uint8Array> {
  const dataKey = await dataKeys.get(tx, row.tenantId ?? deploymentVault)
  return dataKey.open(row.sealed, statementContext(row.tenantId))
}
