import type { Tx } from '../ports/database.ts'
import { entryAt, proveAt, proveGrowth, rootAt } from './reader.ts'
import { findEntry, findHead, type HeadRow } from './store.ts'
import type { TileCache } from './tile-cache.ts'
import { hashLeaf, verifyConsistency, verifyInclusion } from './tree.ts'

/** That an entry is in the log of this size. */
export interface InclusionProof {
  readonly leafIndex: number
  readonly treeSize: number
  readonly entry: Uint8Array
  readonly rootHash: Uint8Array
  /** 32 bytes each, the leaf's sibling first (RFC 6962 §2.1.1). */
  readonly proof: readonly Uint8Array[]
  /** The signed checkpoint of `treeSize`; the log keeps the newest only. */
  readonly checkpoint: string | undefined
}

/** That the log of the one size begins with the log of the other. */
export interface ConsistencyProof {
  readonly fromSize: number
  readonly toSize: number
  readonly fromRoot: Uint8Array
  readonly toRoot: Uint8Array
  /** RFC 6962 §2.1.2. */
  readonly proof: readonly Uint8Array[]
  /** The signed checkpoint of `toSize`, if that is the newest. */
  readonly checkpoint: string | undefined
}

/** Proves a leaf in the log of `size`, by default the newest. Undefined where the log has not got so far. */
export async function findInclusion(
  tx: Tx,
  tiles: TileCache,
  leafIndex: number,
  size?: number,
): Promise<InclusionProof | undefined> {
  const { head, treeSize } = await headAt(tx, size)
  if (treeSize > head.treeSize || leafIndex >= treeSize) return undefined
  const proof = await proveAt(tx, tiles, leafIndex, treeSize)
  const entry = await entryAt(tx, leafIndex)
  const rootHash = await rootOf(tx, head, treeSize)
  if (!verifyInclusion({ leafHash: hashLeaf(entry), leafIndex, treeSize, proof, rootHash })) {
    throw new Error(`leaf ${leafIndex} cannot be proven in the log of ${treeSize}`)
  }
  return { leafIndex, treeSize, entry, rootHash, proof, checkpoint: checkpointOf(head, treeSize) }
}

/** Proves that the log of `toSize`, by default the newest, extends that of `fromSize`, at least 1. Undefined as above. */
export async function findConsistency(
  tx: Tx,
  tiles: TileCache,
  fromSize: number,
  size?: number,
): Promise<ConsistencyProof | undefined> {
  const { head, treeSize: toSize } = await headAt(tx, size)
  if (toSize > head.treeSize || fromSize > toSize) return undefined
  const proof = await proveGrowth(tx, tiles, fromSize, toSize)
  const [fromRoot, toRoot] = [await rootOf(tx, head, fromSize), await rootOf(tx, head, toSize)]
  if (!verifyConsistency({ fromSize, toSize, fromRoot, toRoot, proof })) {
    throw new Error(`the log of ${toSize} cannot be proven to extend that of ${fromSize}`)
  }
  return { fromSize, toSize, fromRoot, toRoot, proof, checkpoint: checkpointOf(head, toSize) }
}

/** Bundles of 256 entries that are searched for an entry: the newest 65,536 leaves, 2 MiB. */
const bundlesSearched = 256

/**
 * Where an entry stands, if among the newest leaves. Entries are random, and the log is written at its end alone: an
 * index of them would be written all over, with every message. Who has an older one knows its index from its receipt.
 */
export async function findLeaf(tx: Tx, entry: Uint8Array): Promise<number | undefined> {
  const { head } = await headAt(tx, undefined)
  return findEntry(tx, entry, head.treeSize, bundlesSearched)
}

async function headAt(tx: Tx, size: number | undefined): Promise<{ head: HeadRow; treeSize: number }> {
  const head = await findHead(tx)
  if (head === undefined) throw new Error('the database holds no log')
  return { head, treeSize: size ?? head.treeSize }
}

const rootOf = async (tx: Tx, head: HeadRow, treeSize: number): Promise<Uint8Array> =>
  treeSize === head.treeSize ? head.rootHash : rootAt(tx, treeSize)

const checkpointOf = (head: HeadRow, treeSize: number): string | undefined =>
  treeSize === head.treeSize ? head.checkpoint : undefined
