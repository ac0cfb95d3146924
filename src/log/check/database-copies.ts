import type { KeyObject } from 'node:crypto'
import { receiptHeader, verifyJws } from '../../keyring/jws.ts'
import type { DataKey } from '../../keyring/vault.ts'
import { type JsonObject, parseJson } from '../../message/json.ts'
import { type Tx, textArray } from '../../ports/database.ts'
import { entryOf, statementContext } from '../statement.ts'
import { findFullBundle, findFullTile, type StatementRow, statementsBetween, tileRoots } from '../store.ts'
import { hashLeaf, tileWidth } from '../tree.ts'
import type { Tell } from './finding.ts'
import { splitHashes, tellOfTile } from './object-copies.ts'
import type { Copy, CopyKeeper, Stretch, TilesByAddress } from './rebuild.ts'

export interface DatabaseParts {
  /** One snapshot. */
  readonly tx: Tx
  /** The data key of a tenant (null: the deployment's own), or undefined if it is destroyed or cannot be had. */
  readonly findDataKey: (tenantId: string | null) => Promise<DataKey | undefined>
  readonly findPublicKey: (kid: string) => KeyObject | undefined
  readonly treeSize: number
}

/** The log as the database holds it, below its head. */
export class DatabaseCopies implements CopyKeeper {
  readonly #parts: DatabaseParts
  readonly #dropped: Dropped
  /** Statements whose data key could not be had: their entries were checked, their text was not. */
  unopened = 0
  /** Messages found by their statements. */
  messages = 0

  private constructor(parts: DatabaseParts, dropped: Dropped) {
    this.#parts = parts
    this.#dropped = dropped
  }

  static async open(parts: DatabaseParts): Promise<DatabaseCopies> {
    return new DatabaseCopies(parts, await findDropped(parts))
  }

  async read({ tileIndex, width }: Stretch, tell: Tell): Promise<readonly Copy[]> {
    const { tx } = this.#parts
    const first = tileIndex * tileWidth
    const found = await statementsBetween(tx, first, first + width)
    const rows = new Map(found.map((row) => [row.leafIndex, row]))
    for (const { leafIndex } of found.filter((row) => rows.get(row.leafIndex) !== row)) {
      tell({ word: 'statement_surplus', leafIndex, detail: `the database has more than one statement ${leafIndex}` })
    }
    const stretch = Array.from({ length: width }, (_, i) => rows.get(first + i))
    for (const [i, row] of stretch.entries()) {
      if (row !== undefined || first + i <= this.#dropped.statements) continue
      tell({ word: 'statement_missing', leafIndex: first + i, detail: `the database has no statement ${first + i}` })
    }
    const opened = await this.#open(stretch, tell)
    await this.#findMessages(opened, tell)
    const [bundle, tile] = width === tileWidth ? await this.#fullTile(tileIndex, tell) : []
    const nothing = Array.from({ length: width }, () => undefined)
    return [
      {
        name: 'the statement in the database',
        word: 'entry_mismatch',
        leafHashes: opened.map((statement) => statement && hashLeaf(entryOf(statement.bytes))),
      },
      {
        name: 'the entry in the database',
        word: 'entry_mismatch',
        leafHashes: stretch.map((row) => row && hashLeaf(row.entry)),
      },
      { name: 'the entry bundle in the database', word: 'entry_mismatch', leafHashes: bundle ?? nothing },
      { name: 'the tile in the database', word: 'tile_mismatch', leafHashes: tile ?? nothing },
    ]
  }

  async checkTiles(tiles: TilesByAddress, tell: Tell): Promise<void> {
    for (const [address, candidates] of tiles) {
      const [{ level, index } = { level: 0, index: 0 }] = candidates
      const name = `tile ${address} in the database`
      const kept = level === 0 ? undefined : await findFullTile(this.#parts.tx, level, index)
      if (level > 0) tellOfTile(tell, { level, index, name }, kept, candidates) // those of level 0 were read as a copy
      const [root] = await tileRoots(this.#parts.tx, level, index, index + 1)
      if (root === undefined || candidates.some(({ rootHash }) => Buffer.compare(rootHash, root) === 0)) continue
      tell({ word: 'tile_mismatch', detail: `${name} is filed under another root than its leaves have` })
    }
  }

  async #fullTile(index: number, tell: Tell): Promise<readonly (Uint8Array[] | undefined)[]> {
    const { tx } = this.#parts
    const [entries, hashes] = [await findFullBundle(tx, index), await findFullTile(tx, 0, index)]
    const missing = (word: 'bundle_missing' | 'tile_missing', what: string): void =>
      tell({ word, leafIndex: index * tileWidth, detail: `the database has no ${what} ${index}` })
    if (entries === undefined) missing('bundle_missing', 'entry bundle')
    if (hashes === undefined) missing('tile_missing', 'tile of level 0 and index')
    return [entries?.map(hashLeaf), hashes && splitHashes(hashes)]
  }

  /** Opens each statement whose data key is there, and holds its row against it. */
  async #open(stretch: readonly (StatementRow | undefined)[], tell: Tell): Promise<(Opened | undefined)[]> {
    const opened: (Opened | undefined)[] = []
    for (const row of stretch) {
      const dataKey = row && (await this.#parts.findDataKey(row.tenantId))
      if (row !== undefined && dataKey === undefined) this.unopened += 1
      opened.push(row && dataKey && (await this.#openOne(row, dataKey, tell)))
    }
    return opened
  }

  async #openOne(row: StatementRow, dataKey: DataKey, tell: Tell): Promise<Opened | undefined> {
    const { leafIndex } = row
    let statement: Opened
    try {
      const bytes = dataKey.open(row.sealed, statementContext(row.tenantId))
      statement = { leafIndex, bytes, stated: parseJson(bytes) as JsonObject }
    } catch {
      const detail = `statement ${leafIndex} in the database does not open with its tenant's data key`
      tell({ word: 'statement_unreadable', leafIndex, detail })
      return undefined
    }
    const { kind, tenant: subject = null, actor = null, iat } = statement.stated
    // What had still to be said of a tenant that was erased is filed under the deployment.
    const isErased = row.tenantId === null && (await this.#parts.findDataKey(subject as string | null)) === undefined
    const tenant = isErased ? null : subject
    const filed = [row.kind, row.tenantId, row.actor, Math.floor(row.statedAt.getTime() / 1000)]
    if ([kind, tenant, actor, iat].some((value, i) => value !== filed[i])) {
      const detail = `statement ${leafIndex} in the database is filed under another kind, tenant, actor or time than it states`
      tell({ word: 'filing_mismatch', leafIndex, detail })
    }
    if (row.kid !== null && !this.#isSigned(row.kid, row.signature, statement.bytes)) {
      const detail = `the signature of statement ${leafIndex} in the database does not verify with key ${row.kid}`
      tell({ word: 'signature_invalid', leafIndex, detail })
    }
    return statement
  }

  #isSigned(kid: string, signature: Uint8Array | null, statement: Uint8Array): boolean {
    const key = this.#parts.findPublicKey(kid)
    const payload = Buffer.from(statement).toString('base64url')
    return key !== undefined && signature !== null && verifyJws(receiptHeader(kid), payload, signature, key)
  }

  /** Each message that was accepted is there, and points at its leaf. */
  async #findMessages(opened: readonly (Opened | undefined)[], tell: Tell): Promise<void> {
    const accepted = opened.filter((statement) => statement?.stated.kind === 'message.accepted') as Opened[]
    if (accepted.length === 0) return
    const ids = textArray(accepted.map(({ stated }) => String(stated.sub)))
    const rows = await this.#parts.tx.query<{ id: string; leafIndex: number }>(selectMessages, [ids])
    const leafOf = new Map(rows.map(({ id, leafIndex }) => [id, leafIndex]))
    for (const { leafIndex, stated } of accepted) {
      const id = String(stated.sub)
      const found = leafOf.get(id)
      if (found !== undefined) this.messages += 1
      if (found === leafIndex) continue
      if (found !== undefined) {
        const detail = `the row of ${id} points at leaf ${found}; leaf ${leafIndex} states it`
        tell({ word: 'message_misplaced', leafIndex, detail })
      } else if (leafIndex > this.#dropped.messages) {
        tell({ word: 'message_missing', leafIndex, detail: `leaf ${leafIndex} states ${id}, which has no row` })
      }
    }
  }

  /** Rows that no leaf of the log stands for: behind its head, or pointing nowhere. */
  async checkSurplus(tell: Tell): Promise<void> {
    const { tx, treeSize } = this.#parts
    const [surplus] = await tx.query<{ leafIndex: number }>(selectSurplus, [treeSize])
    if (surplus !== undefined) {
      const detail = `the database has a statement ${surplus.leafIndex}, and its head ${treeSize} leaves`
      tell({ word: 'statement_surplus', leafIndex: surplus.leafIndex, detail })
    }
    let messages = 0
    for await (const { id, leafIndex, kind } of pages<PlacedMessage>(tx, selectPlaces)) {
      messages += 1
      if (kind === 'message.accepted' || leafIndex <= this.#dropped.statements) continue
      const detail = `the row of ${id} points at leaf ${leafIndex}, which accepts no message`
      tell({ word: 'message_misplaced', leafIndex, detail })
    }
    // With statements that do not open, it is not known which messages they state.
    if (this.unopened === 0 && messages > this.messages) {
      const detail = `${messages} messages have rows, and ${this.messages} were stated`
      tell({ word: 'message_misplaced', detail })
    }
    for await (const { id, messageId } of pages<{ id: string; messageId: string }>(tx, selectOrphans)) {
      tell({ word: 'delivery_orphaned', detail: `delivery ${id} is of ${messageId}, which is no message` })
    }
  }
}

/** The newest leaves of which rows were dropped because their time was over; −1 where none were. Whatever is older may be
 *  missing: its entry stays, in its bundle. */
interface Dropped {
  statements: number
  messages: number
}

const selectRuns = `
  select sealed from statements where tenant_id is null and kind = 'retention.applied' and leaf_index < $1`

/** By what the retention runs state that are still kept. Of those that are not, the later ones state that they expired. */
async function findDropped({ tx, findDataKey, treeSize }: DatabaseParts): Promise<Dropped> {
  const dropped = { statements: -1, messages: -1 }
  const dataKey = await findDataKey(null)
  if (dataKey === undefined) return dropped
  for (const { sealed } of await tx.query<{ sealed: Uint8Array }>(selectRuns, [treeSize])) {
    const { sub, last_leaf: last } = openRun(dataKey, sealed)
    if (sub !== 'statements' && sub !== 'messages') continue
    if (typeof last === 'number') dropped[sub] = Math.max(dropped[sub], last)
  }
  return dropped
}

/** One that does not open excuses nothing, and is told of when its turn comes. */
function openRun(dataKey: DataKey, sealed: Uint8Array): JsonObject {
  try {
    return parseJson(dataKey.open(sealed, statementContext(null))) as JsonObject
  } catch {
    return {}
  }
}

interface Opened {
  readonly leafIndex: number
  readonly bytes: Uint8Array
  readonly stated: JsonObject
}

interface PlacedMessage {
  id: string
  leafIndex: number
  kind: string | null
}

const selectMessages = `select id, leaf_index as "leafIndex" from messages where id = any($1::text[])`

const selectSurplus = `select leaf_index as "leafIndex" from statements where leaf_index >= $1 order by leaf_index limit 1`

const selectPlaces = `
  select m.id, m.leaf_index as "leafIndex", s.kind
    from (select id, leaf_index from messages where id > $1 order by id limit 5000) m
    left join statements s on s.leaf_index = m.leaf_index
   order by m.id`

const selectOrphans = `
  select d.id, d.message_id as "messageId"
    from (select id, message_id from deliveries where id > $1 order by id limit 5000) d
   where not exists (select from messages m where m.id = d.message_id)
   order by d.id`

/** The rows of a statement that takes the last id seen and returns the next rows, in the order of their ids. */
async function* pages<Row extends { id: string }>(tx: Tx, text: string): AsyncIterable<Row> {
  for (let after = ''; ; ) {
    const rows = await tx.query<Row>(text, [after])
    yield* rows
    const last = rows.at(-1)
    if (last === undefined) return
    after = last.id
  }
}
