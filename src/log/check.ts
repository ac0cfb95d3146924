/**
 * `countersign log check`: whether the log is still what it signed; and if not, which leaf is wrong first, in which copy.
 *
 *     head          the row of the head agrees with the note that signs it
 *     rebuild       every copy of the leaves, from statements to published tiles, against every checkpoint (check/rebuild.ts)
 *     statements    open, state what they are filed under, and their signatures verify
 *     rows          messages and deliveries that point at leaves point at theirs
 *
 * Memory is bounded by a tile of each copy; the time is that of opening, hashing and verifying every statement. Runs beside
 * a live relay, on one snapshot; or on the object store alone, with the database gone.
 */
import type { ObjectStore } from '../ports/object-store.ts'
import { DatabaseCopies, type DatabaseParts } from './check/database-copies.ts'
import { compareFindings, type Finding, type Tell } from './check/finding.ts'
import { ObjectCopies } from './check/object-copies.ts'
import { type CopyKeeper, type NamedCheckpoint, rebuild } from './check/rebuild.ts'
import { type LogTrust, openCheckpoint } from './checkpoint.ts'
import { checkpointKey, latestKey, mirrorKey, publishedSizes } from './published.ts'
import type { HeadRow } from './store.ts'

export interface CheckParts {
  readonly trust: LogTrust
  readonly database: (Omit<DatabaseParts, 'treeSize'> & { readonly head: HeadRow }) | undefined
  readonly published: PublishedParts | undefined
  /** Checkpoints kept elsewhere: signed notes, or receipts' own. */
  readonly kept: readonly { readonly name: string; readonly note: Uint8Array }[]
  readonly onProgress: (leaves: number, of: number) => void
}

export interface PublishedParts {
  readonly store: ObjectStore
  /** Of the newest numbered checkpoint, read before the snapshot of the database was taken: what is published later may be
   *  ahead of that, and rightly. */
  readonly treeSize: number
}

export interface CheckReport {
  /** By first leaf; those of no leaf last. */
  readonly findings: readonly Finding[]
  /** Findings beyond the most that are kept. */
  readonly furtherFindings: number
  readonly leaves: number
  readonly checkpoints: number
  /** Statements that could not be opened, because their data key is destroyed or cannot be had. */
  readonly unopened: number
}

const maxFindings = 1000

export async function checkLog(parts: CheckParts): Promise<CheckReport> {
  const { trust, database, published, onProgress } = parts
  const findings: Finding[] = []
  let further = 0
  const tell: Tell = (finding) => {
    if (findings.length < maxFindings) findings.push(finding)
    else further += 1
  }

  const mirror = published && (await openObject(published.store, mirrorKey, trust, tell))
  const latest = published && (await openObject(published.store, latestKey, trust, tell))
  const head = database && checkHead(database.head, trust, tell)
  const kept = parts.kept.map(({ name, note }) => openNamed(name, note, trust, tell))
  const given = [mirror, latest, head, ...kept].filter((checkpoint) => checkpoint !== undefined)

  const rows = database && (await DatabaseCopies.open({ ...database, treeSize: database.head.treeSize }))
  const objects = published && new ObjectCopies(published.store, published.treeSize, mirror?.treeSize ?? 0)
  const keepers: CopyKeeper[] = [rows, objects].filter((keeper) => keeper !== undefined)
  const treeSize = database?.head.treeSize ?? objects?.treeSize ?? 0
  // With a database: published while we looked. Without: full tiles alone do not lead to the last few.
  const isBeyondReach = ({ name, treeSize: size }: NamedCheckpoint): boolean => {
    if (database === undefined) return size > treeSize && size <= (published?.treeSize ?? 0)
    return name.endsWith(inStore) && size > (published?.treeSize ?? 0)
  }
  let checkpoints = 0
  const withinReach = async function* () {
    const numbered = published ? openNumbered(published, trust, tell) : []
    for await (const checkpoint of inOrder(numbered, given)) {
      if (isBeyondReach(checkpoint)) continue
      checkpoints += 1
      yield checkpoint
    }
  }
  await rebuild(keepers, withinReach(), treeSize, tell, (leaves) => onProgress(leaves, treeSize))
  await rows?.checkSurplus(tell)
  findings.sort(compareFindings)
  return { findings, furtherFindings: further, leaves: treeSize, checkpoints, unopened: rows?.unopened ?? 0 }
}

const inStore = ' in the object store'

/** The row of the head against the note in it. */
function checkHead(head: HeadRow, trust: LogTrust, tell: Tell): NamedCheckpoint | undefined {
  const { treeSize, rootHash } = head
  const found = openNamed('the head of the database', Buffer.from(head.checkpoint), trust, (finding) => {
    tell({ ...finding, word: 'head_mismatch' })
  })
  if (found === undefined) return undefined
  if (found.treeSize !== treeSize || Buffer.compare(found.rootHash, rootHash) !== 0) {
    const detail = `the head of the database says ${treeSize} leaves, and its signed checkpoint another size or root`
    tell({ word: 'head_mismatch', detail })
  }
  return { ...found, isHead: true }
}

function openNamed(name: string, note: Uint8Array, trust: LogTrust, tell: Tell): NamedCheckpoint | undefined {
  try {
    return { ...openCheckpoint(note, trust), name }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    tell({ word: 'checkpoint_unreadable', detail: `${name} is not a checkpoint of ${trust.origin} (${reason})` })
    return undefined
  }
}

async function openObject(
  store: ObjectStore,
  key: string,
  trust: LogTrust,
  tell: Tell,
): Promise<NamedCheckpoint | undefined> {
  const note = await store.find(key)
  return note && openNamed(key + inStore, note, trust, tell)
}

async function* openNumbered(published: PublishedParts, trust: LogTrust, tell: Tell): AsyncIterable<NamedCheckpoint> {
  for await (const size of publishedSizes(published.store)) {
    if (size > published.treeSize) return
    const checkpoint = await openObject(published.store, checkpointKey(size), trust, tell)
    if (checkpoint === undefined) continue
    if (checkpoint.treeSize === size) yield checkpoint
    else tell({ word: 'checkpoint_unreadable', detail: `${checkpoint.name} has ${checkpoint.treeSize} leaves` })
  }
}

/** Both by size; `numbered` comes in that order, and may be long. */
async function* inOrder(
  numbered: AsyncIterable<NamedCheckpoint> | Iterable<NamedCheckpoint>,
  given: readonly NamedCheckpoint[],
): AsyncIterable<NamedCheckpoint> {
  const waiting = [...given].sort((one, other) => one.treeSize - other.treeSize)
  for await (const checkpoint of numbered) {
    while (waiting[0] !== undefined && waiting[0].treeSize < checkpoint.treeSize)
      yield waiting.shift() as NamedCheckpoint
    yield checkpoint
  }
  yield* waiting
}
