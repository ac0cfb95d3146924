import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { expect } from 'vitest'
import { FsObjectStore } from '../../src/adapters/object-store-fs.ts'
import { DataKeys, deploymentVault } from '../../src/keyring/data-keys.ts'
import { type CheckpointSigner, type LogTrust, openCheckpoint } from '../../src/log/checkpoint.ts'
import { checkpointSigner } from '../../src/log/genesis.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { checkpointKey, latestKey, mirrorKey, tileKey } from '../../src/log/published.ts'
import { proveGrowth } from '../../src/log/reader.ts'
import { entryOf, statementContext } from '../../src/log/statement.ts'
import { findHead, findStatement } from '../../src/log/store.ts'
import { encodeBundle } from '../../src/log/tile.ts'
import { TileCache } from '../../src/log/tile-cache.ts'
import { type FullTile, hashLeaf, TreeEdge } from '../../src/log/tree.ts'
import { canonicalJson } from '../../src/message/canonical.ts'
import type { Param } from '../../src/ports/database.ts'
import { trustLog } from '../../src/receipt/verify.ts'
import type { TestDatabase } from '../support/database.ts'
import { download, type ExportAnswer, exported, verify } from '../support/export.ts'
import { openWrapper, TestRelay, type TestTenant } from '../support/relay.ts'
import { copyOf, type Remains, remove } from '../support/remains.ts'
import { TestWitness } from '../support/witness.ts'
import { contradicts, firstMissing, type Kept, keptInExport, keptInReceipt } from './kept.ts'

type PastParts = Pick<
  Past,
  'relay' | 'tenant' | 'lastWeek' | 'lastWeekSize' | 'size' | 'receipt' | 'export' | 'witness' | 'sign' | 'trust'
>

/** What happened before anybody did wrong: a log of some 600 leaves in two parts, the second of this week. */
export class Past {
  readonly relay: TestRelay
  readonly tenant: TestTenant
  readonly lastWeek: Remains
  readonly lastWeekSize: number
  readonly size: number
  /** What the newest receipt says. Its holder knows nothing else of the log but its vkey. */
  readonly receipt: Kept
  /** What a customer exported, verified and kept, shortly before the end. */
  readonly export: Kept
  /** It cosigned the checkpoint at `size`. */
  readonly witness: TestWitness
  readonly sign: CheckpointSigner
  readonly trust: LogTrust

  private constructor(parts: PastParts) {
    this.relay = parts.relay
    this.tenant = parts.tenant
    this.lastWeek = parts.lastWeek
    this.lastWeekSize = parts.lastWeekSize
    this.size = parts.size
    this.receipt = parts.receipt
    this.export = parts.export
    this.witness = parts.witness
    this.sign = parts.sign
    this.trust = parts.trust
  }

  static async make(): Promise<Past> {
    const witness = await TestWitness.start()
    const relay = await TestRelay.start({ witnesses: [witness.address] })
    const { origin, vkeys, keyring } = relay.relay
    const sign = checkpointSigner(keyring, origin)
    const trust = { origin, vkeys: vkeys.map(parseVerifierKey) }
    await witness.watch(trust)
    relay.clock.advance(60_000) // it did not know the log when it was asked first
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
    const file = await exported(relay, tenant.id)
    const { body: receipt } = await relay.post(tenant, { last: true })
    const { treeSize: size } = await relay.relay.head()
    await relay.close() // which has the last checkpoint cosigned
    expect(await verify(file, { openCheckpoint: trustLog(trust), findKey: undefined })).toMatchObject({
      verdict: 'valid',
    })
    expect(openCheckpoint(witness.checkpoint ?? '', trust).treeSize).toBe(size)
    const kept = { receipt: keptInReceipt(receipt), export: keptInExport(file) }
    return new Past({ relay, tenant, lastWeek, lastWeekSize, size, ...kept, witness, sign, trust })
  }

  async world(): Promise<World> {
    return new World(this, await copyOf(this.relay))
  }

  async end(): Promise<void> {
    await remove(this.lastWeek)
    await this.relay.stop()
    await this.witness.stop()
  }
}

/** A copy of all that the operator has, to do wrong in. */
export class World implements Remains {
  readonly past: Past
  readonly database: TestDatabase
  readonly folder: string
  #started: Promise<TestRelay | undefined> | undefined

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

  /** Whether who kept this finds that the log as it is served now is another. */
  exposedTo(kept: Kept): Promise<boolean> {
    return contradicts(kept, this.database.database, this.past.trust)
  }

  /** A relay on what is there now, started once; undefined if it refuses. It goes on writing. */
  start(): Promise<TestRelay | undefined> {
    const { clock } = this.past.relay
    const there = { database: this.database, folder: this.folder, clock }
    this.#started ??= TestRelay.start({}, there).catch(() => undefined)
    return this.#started
  }

  /** What is wrong with an export that the customer asks for now: why there is none, the fault that verifying it finds, or
   *  `differs` where it verifies and does not hold every leaf of the old one. */
  async exportAgain(): Promise<string | undefined> {
    const relay = await this.start()
    if (relay === undefined) return '(no relay)'
    const { tenant, trust, export: old } = this.past
    const path = `/v1/tenants/${tenant.id}/exports`
    let { body } = await relay.call<ExportAnswer & { code?: string }>('POST', path, { body: {} })
    const { id } = body
    while (body.state === 'pending' || body.state === 'running') {
      relay.clock.advance(10_000) // what failed is tried again then
      ;({ body } = await relay.call('GET', `${path}/${id}`))
    }
    if (body.state !== 'done') return `\`${body.reason ?? body.code}\``
    const file = await download(relay, tenant.id, id)
    const verdict = await verify(file, { openCheckpoint: trustLog(trust), findKey: undefined })
    if (verdict.verdict === 'invalid') return `\`${verdict.fault}\``
    return firstMissing(old, keptInExport(file)) === undefined ? undefined : '`differs`'
  }

  /** The witness is shown the newest checkpoint, grown where a relay started, with the proof that this relay would send:
   *  it remembers the right edge, whatever stands in the database. */
  async witnessRefuses(): Promise<boolean> {
    const { trust, witness, size } = this.past
    const { database } = this.database
    const head = await findHead(database)
    if (head === undefined) throw new Error('the database holds no log')
    const relay = await this.#started
    const tiles = new TileCache(() => relay?.relay.sequencer.edge)
    // A log that has shrunk, or lost a tile, has no proof to send, and asks all the same.
    const proof = await proveGrowth(database, tiles, size, head.treeSize).catch(() => [])
    return (await witness.judge(trust, head.checkpoint, proof)) !== 200
  }

  async end(): Promise<void> {
    await (await this.#started)?.close()
    await remove(this)
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
