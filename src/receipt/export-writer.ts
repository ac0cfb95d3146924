import { setImmediate as breathe } from 'node:timers/promises'
import type { DataKeys } from '../keyring/data-keys.ts'
import { loadEdge } from '../log/reader.ts'
import { statementContext } from '../log/statement.ts'
import { findFullTile } from '../log/store.ts'
import { extendDigest } from '../log/tenant-digest.ts'
import { tileNode } from '../log/tile.ts'
import { proveInclusion, tileWidth } from '../log/tree.ts'
import type { Database } from '../ports/database.ts'
import { type ExportHeader, emptyChain, extendChain } from './export-format.ts'

/** What an export will hold: fixed when it begins, so that whoever goes on with it writes the same. Plain JSON. */
export interface ExportPlan {
  readonly header: ExportHeader
  /** Of the header's checkpoint. */
  readonly treeSize: number
  /** The `tenant.head` that closes it. */
  readonly head: {
    readonly leafIndex: number
    readonly upto: number
    readonly digest: string
    readonly statement: string
  }
  /** How many leaves it has, the head not counted. */
  readonly leaves: number
}

/** How far it is written. Plain JSON: 32 bytes of digest and 32 of chain are all that going on needs to know of before. */
export interface ExportProgress {
  /** The next leaf index to look at. */
  readonly next: number
  /** The last leaf written; null before the first. */
  readonly last: number | null
  readonly lines: number
  readonly shown: number
  readonly withheld: number
  readonly digest: string
  readonly chain: string
  /** The head is written, and only the manifest lacks. */
  readonly ended: boolean
}

export const firstProgress = ({ header: { basis } }: ExportPlan): ExportProgress => ({
  ...{ next: basis.upto, last: null, lines: 0, shown: 0, withheld: 0, ended: false },
  ...{ digest: basis.digest, chain: base64url(emptyChain) },
})

/** Leaves in one part: what is held in memory, with their tiles. */
const partLeaves = 4096

/** Where a tile of 256 leaves holds fewer of the tenant than this, each of them brings its own path of 256 bytes. */
const leastForTile = 24

/** Statements opened and hashed before others get their turn on this thread. */
const leavesPerTurn = 64

/**
 * Writes the lines that come after `progress`, about {@link partLeaves} leaves of them. A leaf that has been committed
 * never changes, so reading page by page sees the same as one long transaction, which would hold up the database.
 */
export async function writePart(
  plan: ExportPlan,
  progress: ExportProgress,
  { database, dataKeys }: { database: Database; dataKeys: DataKeys },
): Promise<{ text: Buffer; progress: ExportProgress }> {
  const { header, head } = plan
  const { tenant } = header
  const dataKey = await dataKeys.get(database, tenant)
  const lines = new Lines(progress)
  const tiles = new Tiles(database, plan.treeSize, lines)
  if (progress.lines === 0) {
    lines.add(header)
    await tiles.writeEdge()
  }
  const { rows, next } = await readPage(database, tenant, progress.next, head.upto)
  let { last, shown, withheld } = progress
  let digest: Uint8Array = Buffer.from(progress.digest, 'base64url')
  const isShown = visibility(header)
  for (const [at, row] of rows.entries()) {
    const { leafIndex, entry, sealed, kid, signature } = row
    const dense = inSameTile(rows, at) >= leastForTile
    const path = await tiles.lead(last, leafIndex, dense)
    const place = { index: leafIndex, ...(last !== null && { prev: last }) }
    if (isShown(row)) {
      const statement = base64url(dataKey.open(sealed, statementContext(tenant)))
      const signed = kid !== null && signature !== null && { kid, signature: base64url(signature) }
      lines.add({ ...place, statement, ...signed, ...path })
      shown += 1
    } else {
      lines.add({ ...place, entry: base64url(entry), ...path })
      withheld += 1
    }
    digest = extendDigest(digest, leafIndex, entry)
    last = leafIndex
    if (at % leavesPerTurn === 0) await breathe()
  }
  const ended = next >= head.upto
  if (ended) {
    if (base64url(digest) !== head.digest || shown + withheld !== plan.leaves) throw new LeavesMissing()
    const path = await tiles.lead(last, head.leafIndex, false)
    lines.add({ index: head.leafIndex, ...(last !== null && { prev: last }), head: head.statement, ...path })
  }
  const counted = { lines: lines.count, shown, withheld }
  const digests = { digest: base64url(digest), chain: base64url(lines.chain) }
  return { text: lines.text, progress: { next, last, ...counted, ...digests, ended } }
}

/** The log no longer holds the leaves that the tenant's head counts: some have expired, or the database was changed. */
export class LeavesMissing extends Error {
  override readonly name = 'LeavesMissing'
}

/** The basis is always shown: it says what was counted before. */
function visibility({ range, kinds, basis }: ExportHeader): (row: Pick<LeafRow, 'leafIndex' | 'kind'>) => boolean {
  const wanted = kinds && new Set(kinds)
  return ({ leafIndex, kind }) =>
    leafIndex === basis.index ||
    (leafIndex >= range.from && leafIndex < range.to && (wanted === undefined || wanted.has(kind)))
}

interface LeafRow {
  readonly leafIndex: number
  readonly kind: string
  readonly entry: Uint8Array
  readonly sealed: Uint8Array
  readonly kid: string | null
  readonly signature: Uint8Array | null
}

const selectLeaves = `
  select leaf_index as "leafIndex", kind, entry, sealed, kid, signature
    from statements
   where tenant_id = $1 and leaf_index >= $2 and leaf_index < $3
   order by leaf_index limit $4`

/** The next leaves, up to the end of a tile: how many of them a tile holds decides how they are proved. */
async function readPage(database: Database, tenantId: string, from: number, upto: number) {
  const rows = await database.readAs(tenantId, (tx) =>
    tx.query<LeafRow>(selectLeaves, [tenantId, from, upto, partLeaves]),
  )
  const last = rows.at(-1)
  if (rows.length < partLeaves || last === undefined) return { rows, next: upto }
  const next = last.leafIndex - (last.leafIndex % tileWidth)
  return { rows: rows.filter(({ leafIndex }) => leafIndex < next), next }
}

/** How many rows stand under the same tile as the one at `at`; counted no further than it matters. */
function inSameTile(rows: readonly LeafRow[], at: number): number {
  const tileOf = (row: LeafRow | undefined) => row && Math.floor(row.leafIndex / tileWidth)
  const tile = tileOf(rows[at])
  let first = at
  let last = at
  while (at - first < leastForTile && tileOf(rows[first - 1]) === tile) first -= 1
  while (last - first < leastForTile && tileOf(rows[last + 1]) === tile) last += 1
  return last - first + 1
}

/** Writes each tile before the first leaf that needs it, the upper ones first. */
class Tiles {
  readonly #database: Database
  readonly #treeSize: number
  readonly #lines: Lines
  readonly #heights: number[] = []
  /** The tile of level 0 that was read last, for the next paths. */
  #read: { index: number; hashes: Uint8Array } | undefined

  constructor(database: Database, treeSize: number, lines: Lines) {
    this.#database = database
    this.#treeSize = treeSize
    this.#lines = lines
    for (let level = 0; tileWidth ** (level + 1) <= treeSize; level++) this.#heights.unshift(level)
  }

  async writeEdge(): Promise<void> {
    const { partials } = await loadEdge(this.#database, this.#treeSize)
    for (const [level, hashes] of [...partials.entries()].reverse()) {
      const index = Math.floor(this.#treeSize / tileWidth ** (level + 1))
      const tile = `${level}/${index}.p/${hashes.length}`
      if (hashes.length > 0) this.#lines.add({ tile, hashes: base64url(Buffer.concat(hashes)) })
    }
  }

  /** Leads from the edge down to a leaf, where the way to `last`, the leaf before, did not lead already. Resolves with
   *  the path that the leaf brings itself, if it does. */
  async lead(last: number | null, leafIndex: number, dense: boolean): Promise<{ path?: string }> {
    for (const level of this.#heights) {
      const leaves = tileWidth ** (level + 1)
      const index = Math.floor(leafIndex / leaves)
      if ((index + 1) * leaves > this.#treeSize) continue // at the edge
      if (level === 0 && !dense) return { path: base64url(await this.#pathTo(leafIndex, index)) }
      if (last !== null && Math.floor(last / leaves) === index) continue
      this.#lines.add({ tile: `${level}/${index}`, hashes: base64url(await this.#tile(level, index)) })
    }
    return {}
  }

  async #pathTo(leafIndex: number, index: number): Promise<Uint8Array> {
    if (this.#read?.index !== index) this.#read = { index, hashes: await this.#tile(0, index) }
    const { hashes } = this.#read
    return Buffer.concat(
      proveInclusion(
        leafIndex % tileWidth,
        tileWidth,
        tileNode(() => hashes),
      ),
    )
  }

  async #tile(level: number, index: number): Promise<Uint8Array> {
    const hashes = await findFullTile(this.#database, level, index)
    if (hashes === undefined) throw new Error(`tile ${level}/${index} is missing from the log`)
    return hashes
  }
}

/** Lines of JSON, and the chain over them. */
class Lines {
  readonly #written: Uint8Array[] = []
  chain: Uint8Array
  count: number

  constructor({ chain, lines }: Pick<ExportProgress, 'chain' | 'lines'>) {
    this.chain = Buffer.from(chain, 'base64url')
    this.count = lines
  }

  add(line: object): void {
    const bytes = Buffer.from(JSON.stringify(line))
    this.#written.push(bytes, newline)
    this.chain = extendChain(this.chain, bytes)
    this.count += 1
  }

  get text(): Buffer {
    return Buffer.concat(this.#written)
  }
}

const newline = Uint8Array.of(0x0a)

const base64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')
