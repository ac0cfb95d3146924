import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { FsObjectStore } from '../../src/adapters/object-store-fs.ts'
import { DataKeys, deploymentVault } from '../../src/keyring/data-keys.ts'
import { type CheckpointSigner, type LogTrust, openCheckpoint } from '../../src/log/checkpoint.ts'
import { checkpointSigner } from '../../src/log/genesis.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { checkpointKey, latestKey, mirrorKey, tileKey } from '../../src/log/published.ts'
import { consistent, proveNow } from '../../src/log/reader.ts'
import { entryOf, statementContext } from '../../src/log/statement.ts'
import { findHead, findStatement } from '../../src/log/store.ts'
import { encodeBundle } from '../../src/log/tile.ts'
import { TileCache } from '../../src/log/tile-cache.ts'
import { parseProof } from '../../src/log/tlog-proof.ts'
import { type FullTile, hashLeaf, TreeEdge, verifyInclusion } from '../../src/log/tree.ts'
import { canonicalJson } from '../../src/message/canonical.ts'
import type { Param } from '../../src/ports/database.ts'
import type { Receipt } from '../../src/receipt/receipt.ts'
import type { TestDatabase } from '../support/database.ts'
import { openWrapper, TestRelay } from '../support/relay.ts'
import { copyOf, type Remains, remove } from '../support/remains.ts'

/** What happened before anybody did wrong: a log of some 600 leaves in two parts, the second of this week. */
export class Past {
  readonly relay: TestRelay
  readonly lastWeek: Remains
  readonly lastWeekSize: number
  readonly size: number
  /** The newest that was answered. Its holder knows nothing else of the log but its vkey. */
  readonly receipt: Receipt
  readonly sign: CheckpointSigner
  readonly trust: LogTrust

  private constructor(
    parts: Pick<Past, 'relay' | 'lastWeek' | 'lastWeekSize' | 'size' | 'receipt' | 'sign' | 'trust'>,
  ) {
    this.relay = parts.relay
    this.lastWeek = parts.lastWeek
    this.lastWeekSize = parts.lastWeekSize
    this.size = parts.size
    this.receipt = parts.receipt
    this.sign = parts.sign
    this.trust = parts.trust
  }

  static async make(): Promise<Past> {
    const relay = await TestRelay.start()
    const { origin, vkeys, keyring } = relay.relay
    const sign = checkpointSigner(keyring, origin)
    const trust = { origin, vkeys: vkeys.map(parseVerifierKey) }
    const tenant = await relay.makeTenant()
    const postAll = (count: number) =>
      Promise.all(Array.from({ length: count }, (_, n) => relay.post(tenant, { n, count })))
    await postAll(400)
    const { treeSize: lastWeekSize, rootHash } = await relay.relay.head()
    sign({ origin, treeSize: lastWeekSize, rootHash }) // has the key in hand from here on
    await relay.close() // which publishes
    const lastWeek = await copyOf(relay)
    await relay.open()
    await postAll(180)
    const { body: receipt } = await relay.post(tenant, { last: true })
    const { treeSize: size } = await relay.relay.head()
    await relay.close()
    return new Past({ relay, lastWeek, lastWeekSize, size, receipt, sign, trust })
  }

  async world(): Promise<World> {
    return new World(this, await copyOf(this.relay))
  }

  async end(): Promise<void> {
    await remove(this.lastWeek)
    await this.relay.stop()
  }
}

/** A copy of all that the operator has, to do wrong in. */
export class World implements Remains {
  readonly past: Past
  readonly database: TestDatabase
  readonly folder: string

  constructor(past: Past, { database, folder }: Remains) {
    this.past = past
    this.database = database
    this.folder = folder
  }

  /** As a superuser who takes off the triggers that stop even him. */
  sql(...statements: (string | readonly [string, ...Param[]])[]): Promise<void> {
    return this.database.tamper(
      ...statements.map((statement) => {
        const [text, ...params] = typeof statement === 'string' ? [statement] : statement
        return [text, params] as const
      }),
    )
  }

  get objects(): FsObjectStore {
    return new FsObjectStore(join(this.folder, 'objects'))
  }

  /** Puts an object over what stands there, flipped in one bit of the byte at `offset`. */
  async flipObject(key: string, offset: number): Promise<void> {
    const bytes = await this.objects.find(key)
    if (bytes === undefined) throw new Error(`there is no object ${key}`)
    bytes[offset] = (bytes[offset] ?? 0) ^ 1
    await this.objects.put(key, bytes)
  }

  /** The tree as it would be with another entry at one leaf, and all that the database holds of it. */
  async rewritten(leafIndex: number, entry: Uint8Array) {
    const rows = await this.database.database.query<{ entry: Uint8Array }>(
      'select entry from statements order by leaf_index',
    )
    const entries = rows.map((row, i) => (i === leafIndex ? entry : row.entry))
    const { edge, fullTiles } = TreeEdge.empty.append(entries.map(hashLeaf))
    const { treeSize, rootHash, partials } = edge
    const checkpoint = this.past.sign({ origin: this.past.trust.origin, treeSize, rootHash })
    return { entries, fullTiles, partials, treeSize, rootHash, checkpoint }
  }

  /** Makes the whole database tell another history, in which one leaf states something else: sealed with its data key,
   *  hashed into every tile, and under a head signed with the real key of the log. */
  async rewriteDatabase(leafIndex: number) {
    const { database } = this.database
    const row = await findStatement(database, leafIndex)
    if (row === undefined || row.kid !== null) throw new Error(`there is no unsigned statement ${leafIndex}`)
    const dataKeys = new DataKeys(await openWrapper(this.folder), this.past.relay.relay.issuer)
    const dataKey = await dataKeys.get(database, row.tenantId ?? deploymentVault)
    const context = statementContext(row.tenantId)
    const stated = JSON.parse(Buffer.from(dataKey.open(row.sealed, context)).toString())
    const statement = canonicalJson({ ...stated, salt: Buffer.alloc(16).toString('base64url') })
    const entry = entryOf(statement)
    const tree = await this.rewritten(leafIndex, entry)
    const sealed = dataKey.seal(statement, context)
    await this.sql(
      ['update statements set entry = $2, sealed = $3 where leaf_index = $1', leafIndex, entry, sealed],
      ['update log set root_hash = $1, checkpoint = $2', tree.rootHash, tree.checkpoint],
      ...tree.fullTiles.map(updateTile),
      ...tree.fullTiles
        .filter(({ level }) => level === 0)
        .map(({ index }) => {
          const bundle = Buffer.concat(tree.entries.slice(index * 256, index * 256 + 256))
          return ['update entry_bundles set entries = $2 where tile_index = $1', index, bundle] as const
        }),
    )
    return tree
  }

  /** The same in the object store: every object of the log, as if nothing else had ever been published. */
  async rewriteObjects({
    entries,
    fullTiles,
    treeSize,
    checkpoint,
    partials,
  }: Awaited<ReturnType<World['rewritten']>>) {
    await rm(join(this.folder, 'objects'), { recursive: true })
    const { objects } = this
    for (const { level, index, hashes } of fullTiles) await objects.put(tileKey(level, index), hashes)
    for (let index = 0; index * 256 < treeSize; index++) {
      const bundle = entries.slice(index * 256, index * 256 + 256)
      await objects.put(tileKey('entries', index, bundle.length), encodeBundle(bundle))
    }
    for (const [level, hashes] of partials.entries()) {
      const index = Math.floor(treeSize / 256 ** (level + 1))
      if (hashes.length > 0) await objects.put(tileKey(level, index, hashes.length), Buffer.concat(hashes))
    }
    for (const key of [checkpointKey(treeSize), latestKey, mirrorKey]) await objects.put(key, Buffer.from(checkpoint))
  }

  /** The checkpoint in the newest receipt. */
  get receiptCheckpoint(): string {
    return parseProof(this.past.receipt.header['tlog-proof']).checkpoint
  }

  /** Whether the holder of the newest receipt, who asks for the log as it is served now, finds that it forked. */
  async receiptExposes(): Promise<boolean> {
    const { trust, receipt } = this.past
    const { database } = this.database
    const { leafIndex, checkpoint } = parseProof(receipt.header['tlog-proof'])
    const then = openCheckpoint(checkpoint, trust)
    const leafHash = hashLeaf(entryOf(Buffer.from(receipt.payload, 'base64url')))
    const tiles = new TileCache(() => undefined)
    try {
      const head = await findHead(database)
      const now = openCheckpoint(head?.checkpoint ?? '', trust)
      if (now.treeSize < then.treeSize || !(await consistent(database, tiles, then, now))) return true
      const { proof } = await proveNow(database, tiles, leafIndex)
      return !verifyInclusion({ leafHash, leafIndex, proof, ...now })
    } catch {
      return true // what should be served cannot be
    }
  }

  async startExposes(): Promise<boolean> {
    const { clock } = this.past.relay
    const started = await TestRelay.start({}, { database: this.database, folder: this.folder, clock }).catch(
      () => undefined,
    )
    await started?.close()
    return started === undefined
  }

  end(): Promise<void> {
    return remove(this)
  }
}

const updateTile = ({ level, index, hashes, rootHash }: FullTile) =>
  [
    'update tiles set hashes = $3, root_hash = $4 where level = $1 and tile_index = $2',
    level,
    index,
    hashes,
    rootHash,
  ] as const
