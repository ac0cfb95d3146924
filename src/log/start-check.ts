import { OperatorError } from '../errors.ts'
import type { Tx } from '../ports/database.ts'
import type { ObjectStore } from '../ports/object-store.ts'
import { type LogTrust, openCheckpoint } from './checkpoint.ts'
import { NoteError } from './note.ts'
import { newestPublished, type Published, PublishedUnreadable } from './published.ts'
import { consistent, loadEdge } from './reader.ts'
import { findHead, type HeadRow, hasLeavesBeyondHead } from './store.ts'
import { TileCache } from './tile-cache.ts'
import type { TreeEdge } from './tree.ts'

/** The log in the database is not the one that was published. Starting would fork it. */
export class LogForked extends OperatorError {
  override readonly name = 'LogForked'
}

/**
 * Before anything is appended: the head in the database is what its rows hash to, its log key signed it, and it extends
 * the newest checkpoint published outside of the database (DESIGN.md rule 4). Throws LogForked if not, with the way out;
 * OperatorError if the object store does not answer, for then nobody knows. Resolves with both.
 */
export async function checkBeforeAppending(
  tx: Tx,
  store: ObjectStore,
  trust: LogTrust,
): Promise<{ head: HeadRow; published: Published | undefined }> {
  // In this order: another process may publish meanwhile, but nothing that its database does not hold.
  const published = await readPublished(store, trust)
  const head = await findHead(tx)
  if (head === undefined) throw new Error('the database holds no log')
  const edge = await checkHead(tx, head, trust)
  if (published === undefined) return { head, published }
  if (published.treeSize > head.treeSize) {
    const sizes = `${published.treeSize} leaves were published and the database holds ${head.treeSize}`
    throw new LogForked(`The log in the database is behind what it published: ${sizes}. ${restored}`)
  }
  const tiles = new TileCache(() => edge)
  if (!(await consistent(tx, tiles, published, head))) {
    throw new LogForked(
      `The log in the database contradicts its checkpoint at ${published.treeSize} leaves. ${restored}`,
    )
  }
  return { head, published }
}

async function readPublished(store: ObjectStore, trust: LogTrust): Promise<Published | undefined> {
  try {
    return await newestPublished(store, trust)
  } catch (cause) {
    if (cause instanceof PublishedUnreadable) throw new LogForked(`${cause.message} ${unreadable}`, { cause })
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new OperatorError(
      `The object store cannot be read, so nobody knows what this log has published, and going on could fork it. ` +
        `Nothing was changed. Start again once the store answers. (${reason})`,
      { cause },
    )
  }
}

/** What sunlight's LoadLog asks of a log: the row, the note that signs it, and the leaves at the right edge agree. */
async function checkHead(tx: Tx, head: HeadRow, trust: LogTrust): Promise<TreeEdge> {
  if (await hasLeavesBeyondHead(tx)) {
    throw new LogForked(`There are statements behind the head of the log, where the next would go. ${altered}`)
  }
  try {
    const signed = openCheckpoint(head.checkpoint, trust)
    const edge = await loadEdge(tx, head.treeSize)
    const roots = [signed.rootHash, edge.rootHash]
    if (signed.treeSize === head.treeSize && roots.every((root) => Buffer.compare(root, head.rootHash) === 0))
      return edge
  } catch (cause) {
    if (!(cause instanceof NoteError || cause instanceof RangeError)) throw cause
    throw new LogForked(`The head of the log at ${head.treeSize} leaves does not hold. ${altered}`, { cause })
  }
  throw new LogForked(`The head of the log is not what its leaves hash to at ${head.treeSize}. ${altered}`)
}

const find = '`countersign log check` names the first leaf that is wrong, and which copy of it.'

const newLog =
  'If no such database is left, this log has ended: start another under a new PUBLIC_URL and an empty database, state in ' +
  'its first message which checkpoint the old one ended with, and keep the old object store and database as evidence; ' +
  'every receipt issued still verifies. Never delete what was published to get past this: whoever holds a receipt or a ' +
  'checkpoint can show that the log forked.'

const restored = [
  'Nothing was changed, and nothing is accepted.',
  'Most likely the database was restored from a backup, failed over to a replica that lagged, or replaced.',
  `To recover: 1. Stop every relay of this log. 2. ${find} 3. Bring back the newest database: promote the other replica,`,
  'or replay the archived WAL to its very end, and start again.',
  `4. ${newLog}`,
].join(' ')

const altered = [
  'Nothing was changed, and nothing is accepted. Rows of the log were altered or lost, or its key was.',
  `To recover: 1. Stop every relay of this log and keep a copy of the database as it is. 2. ${find}`,
  '3. Restore the database to a moment before the change and replay the archived WAL to its very end, without the change;',
  `start again. 4. ${newLog}`,
].join(' ')

const unreadable = [
  'Nothing was changed, and nothing is accepted. Either the store is that of another log: check OBJECT_STORE, S3_BUCKET',
  'and DATA_DIR. Or the object was damaged: copy the newest of checkpoints/<size> over it and start again.',
  `If those do not verify either: ${find}`,
].join(' ')
