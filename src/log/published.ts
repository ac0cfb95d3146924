/**
 * What the log keeps outside the database, in the object store:
 *
 *     checkpoints/0000000000012345    each checkpoint that was published, by its size; never replaced
 *     checkpoints/latest              a copy of the newest
 *     log/tile/…                      full tiles and entry bundles (c2sp.org/tlog-tiles); never replaced
 *     log/checkpoint, log/vkey        with partial tiles: the log as files, for whoever serves this prefix over HTTP
 *
 * Whatever a numbered checkpoint needs of full tiles was there before it, and it before `latest`. So `latest` tells how
 * far publication got, and after a crash the numbers behind it tell the rest.
 */
import type { ObjectStore } from '../ports/object-store.ts'
import { type LogTrust, openCheckpoint, type VerifiedCheckpoint } from './checkpoint.ts'
import { type TileLevel, tilePath } from './tile.ts'

export const latestKey = 'checkpoints/latest'
export const mirrorKey = 'log/checkpoint'
export const vkeyKey = 'log/vkey'

const numbered = 'checkpoints/'
const sizeDigits = 16 // 2^53−1 has as many

export const checkpointKey = (treeSize: number): string => `${numbered}${String(treeSize).padStart(sizeDigits, '0')}`

export const tileKey = (level: TileLevel, index: number, width?: number): string =>
  `log/${tilePath(level, index, width)}`

/** A checkpoint as it was published, opened. */
export interface Published extends VerifiedCheckpoint {
  readonly note: Uint8Array
}

/** What stands in the object store is not what this log published. */
export class PublishedUnreadable extends Error {
  override readonly name = 'PublishedUnreadable'
}

/** The published checkpoint of this key. Rejects with PublishedUnreadable if that is not a checkpoint of this log. */
export async function findPublished(store: ObjectStore, key: string, trust: LogTrust): Promise<Published | undefined> {
  const note = await store.find(key)
  if (note === undefined) return undefined
  try {
    return { ...openCheckpoint(note, trust), note }
  } catch (cause) {
    throw new PublishedUnreadable(`The checkpoint in the object store (${key}) is not one of this log.`, { cause })
  }
}

/**
 * The newest checkpoint that was published, or undefined if none was. `latest` alone would not do: a process may have
 * died before it wrote that, or a slower one have written over it.
 */
export async function newestPublished(store: ObjectStore, trust: LogTrust): Promise<Published | undefined> {
  const latest = await findPublished(store, latestKey, trust)
  const treeSize = await newestSize(store, latest?.treeSize)
  return treeSize === latest?.treeSize ? latest : findPublished(store, checkpointKey(treeSize ?? 0), trust)
}

/** The size of the newest numbered checkpoint, or `atLeast` if none is larger. By bisection: one request tells that nothing
 *  is newer, and a few dozen find the newest of millions without any hint. */
export async function newestSize(store: ObjectStore, atLeast?: number): Promise<number | undefined> {
  let known = atLeast ?? -1
  let reach = 0 // doubles as long as something is found
  for (let none = Number.MAX_SAFE_INTEGER; known < none; ) {
    const behind = known + Math.min(reach, Math.floor((none - known) / 2))
    const next = await firstBehind(store, behind)
    if (next === undefined) none = behind
    else [known, reach] = [next, 2 * reach + 1]
  }
  return known < 0 ? undefined : known
}

/** The sizes of the checkpoints published, smallest first. */
export async function* publishedSizes(store: ObjectStore, behind = -1): AsyncIterable<number> {
  for await (const key of store.list(numbered, behind < 0 ? undefined : checkpointKey(behind))) {
    const [, digits] = /^checkpoints\/(\d{16})$/.exec(key) ?? []
    if (digits !== undefined) yield Number(digits)
  }
}

async function firstBehind(store: ObjectStore, treeSize: number): Promise<number | undefined> {
  for await (const size of publishedSizes(store, treeSize)) return size
  return undefined
}
