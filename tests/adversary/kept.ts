/** What people outside keep of a log, and what they find out with it later. */
import { type LogTrust, openCheckpoint } from '../../src/log/checkpoint.ts'
import { consistent, findEntries, loadEdge, proveAt } from '../../src/log/reader.ts'
import { entryOf } from '../../src/log/statement.ts'
import { findHead } from '../../src/log/store.ts'
import { TileCache } from '../../src/log/tile-cache.ts'
import { parseProof } from '../../src/log/tlog-proof.ts'
import { hashLeaf, tileWidth, verifyInclusion } from '../../src/log/tree.ts'
import type { Tx } from '../../src/ports/database.ts'
import type { Receipt } from '../../src/receipt/receipt.ts'
import { linesOf } from '../support/export.ts'

/** A checkpoint, and entries below it by leaf index. */
export interface Kept {
  readonly checkpoint: string
  readonly entries: ReadonlyMap<number, Uint8Array>
}

/** All that a receipt says of the log. */
export function keptInReceipt({ payload, header }: Receipt): Kept {
  const { leafIndex, checkpoint } = parseProof(header['tlog-proof'])
  return { checkpoint, entries: new Map([[leafIndex, entryOf(Buffer.from(payload, 'base64url'))]]) }
}

/** All that an export says of the log: src/receipt/export-format.ts has the lines. */
export function keptInExport(file: Buffer): Kept {
  const [{ checkpoint }, ...lines] = linesOf(file).map((line) => JSON.parse(line))
  const entries = new Map<number, Uint8Array>()
  for (const { index, entry, statement, head } of lines) {
    if (index === undefined) continue // a tile, or the manifest
    const bytes = (text: string) => Buffer.from(text, 'base64url')
    entries.set(index, entry === undefined ? entryOf(bytes(statement ?? head)) : bytes(entry))
  }
  return { checkpoint, entries }
}

/** Whether somebody who asks for the log as it is served now, leaf by leaf with proofs, finds that it is not the one of
 *  which this was kept. */
export async function contradicts(kept: Kept, database: Tx, trust: LogTrust): Promise<boolean> {
  const then = openCheckpoint(kept.checkpoint, trust)
  try {
    const head = await findHead(database)
    const now = openCheckpoint(head?.checkpoint ?? '', trust)
    const edge = await loadEdge(database, now.treeSize)
    const tiles = new TileCache(() => edge)
    if (now.treeSize < then.treeSize || !(await consistent(database, tiles, then, now))) return true
    let bundle: { readonly index: number; readonly entries: Uint8Array[] | undefined } | undefined
    for (const [leafIndex, entry] of kept.entries) {
      const index = Math.floor(leafIndex / tileWidth)
      const width = Math.min(tileWidth, now.treeSize - index * tileWidth)
      if (bundle?.index !== index) bundle = { index, entries: await findEntries(database, index, width) }
      if (!isSame(bundle.entries?.[leafIndex % tileWidth], entry)) return true
      const proof = await proveAt(database, tiles, leafIndex, now.treeSize)
      if (!verifyInclusion({ leafHash: hashLeaf(entry), leafIndex, proof, ...now })) return true
    }
    return false
  } catch {
    return true // what should be served cannot be
  }
}

/** The first leaf of `older` that is not in `newer`, or is another there; undefined if none is. */
export function firstMissing(older: Kept, newer: Kept): number | undefined {
  for (const [leafIndex, entry] of older.entries) if (!isSame(newer.entries.get(leafIndex), entry)) return leafIndex
  return undefined
}

const isSame = (one: Uint8Array | undefined, other: Uint8Array): boolean =>
  one !== undefined && Buffer.compare(one, other) === 0
