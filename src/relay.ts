import { setTimeout as delay } from 'node:timers/promises'
import type { Config, Role } from './config.ts'
import { Abandonment } from './delivery/abandonment.ts'
import { OutboundClient } from './delivery/client.ts'
import { Deliveries } from './delivery/deliveries.ts'
import { Endpoints } from './delivery/endpoints.ts'
import { FailureWatch } from './delivery/failure.ts'
import { EgressGuard, type ResolveHost } from './delivery/guard.ts'
import { Notices } from './delivery/notices.ts'
import { Reconciler } from './delivery/reconciler.ts'
import { ReplayRun } from './delivery/replay-run.ts'
import { Replays } from './delivery/replays.ts'
import { type DeliveryRow, deliveriesOf, leavesOfDeliveries } from './delivery/store.ts'
import { type Audience, everyone } from './delivery/subscription.ts'
import { Upkeep } from './delivery/upkeep.ts'
import { openWitnessPoster } from './delivery/witness-poster.ts'
import { DeliveryWorker, hostConcurrency } from './delivery/worker.ts'
import { OperatorError, RelayError } from './errors.ts'
import { DataKeys } from './keyring/data-keys.ts'
import { describeKey, jwksOf, type PublishedJwk } from './keyring/jwks.ts'
import { jwsHeader } from './keyring/jws.ts'
import { Keyring, signWith } from './keyring/keyring.ts'
import { rotationDue } from './keyring/lifecycle.ts'
import type { KeyPolicy } from './keyring/policy.ts'
import { jwsSigningInput } from './keyring/signing-input.ts'
import { type KeyPurpose, type KeyRecord, keyState } from './keyring/store.ts'
import { Acts } from './log/acts.ts'
import { AuditLog } from './log/audit.ts'
import { Calls } from './log/calls.ts'
import type { LogTrust } from './log/checkpoint.ts'
import { checkpointSigner, findOrCreateLog, originOf } from './log/genesis.ts'
import { makeVerifierKey, parseVerifierKey, type VerifierKey } from './log/note.ts'
import { Partitions } from './log/partitions.ts'
import { type ConsistencyProof, findConsistency, findInclusion, findLeaf, type InclusionProof } from './log/proofs.ts'
import { CheckpointPublisher } from './log/publication.ts'
import { findEntries, findTile } from './log/reader.ts'
import { RetentionRun } from './log/retention-run.ts'
import { KeyRotation } from './log/rotation.ts'
import { type LogBroken, Sequencer } from './log/sequencer.ts'
import { checkBeforeAppending } from './log/start-check.ts'
import { type AuditEvent, signStatement, state } from './log/statement.ts'
import { findHead, type HeadRow } from './log/store.ts'
import { TenantHeads } from './log/tenant-heads.ts'
import { TileCache } from './log/tile-cache.ts'
import { Witnesses } from './log/witnesses.ts'
import { canonicalJson } from './message/canonical.ts'
import { IdMaker } from './message/id.ts'
import { parseJson } from './message/json.ts'
import { type Arrival, type Message, parseMessage } from './message/message.ts'
import { findMessage, payloadContext, type StoredMessage, storeMessages } from './message/store.ts'
import type { Clock } from './ports/clock.ts'
import type { Database } from './ports/database.ts'
import { bind } from './ports/effect.ts'
import type { KeyWrapper } from './ports/key-wrapper.ts'
import type { Logger } from './ports/logger.ts'
import type { ObjectStore } from './ports/object-store.ts'
import type { Observer } from './ports/observer.ts'
import { ExportWorker } from './receipt/export-worker.ts'
import { Exports } from './receipt/exports.ts'
import { draftReceipt, issueReceipt } from './receipt/issue.ts'
import type { Receipt } from './receipt/receipt.ts'
import { Receipts } from './receipt/receipts.ts'
import {
  type CheckpointOpener,
  type Evidence,
  type TrustedKey,
  type TrustMaterial,
  trustLog,
  type Verdict,
  verifyEvidence,
} from './receipt/verify.ts'
import { Administration } from './tenant/administration.ts'
import { Archive } from './tenant/archive.ts'
import { Directory } from './tenant/directory.ts'
import { Expiry } from './tenant/expiry.ts'
import type { Tenant } from './tenant/records.ts'
import { SourceGate } from './tenant/source-gate.ts'
import { Sources } from './tenant/sources.ts'
import { retentionsChosen } from './tenant/store.ts'

/** What the relay stands on; chosen once, in main.ts. */
export interface Adapters {
  readonly database: Database
  readonly wrapper: KeyWrapper
  readonly objectStore: ObjectStore
  readonly clock: Clock
  readonly random: () => number
  readonly logger: Logger
  readonly observer: Observer
  /** Called when the log contradicts itself: the process must stop. */
  readonly onBroken: (error: LogBroken) => void
}

export type RelayOptions = Pick<
  Config,
  | 'publicUrl'
  | 'port'
  | 'egressAllow'
  | 'retrySchedule'
  | 'maxQueue'
  | 'deliveryConcurrency'
  | 'deliveryLeaseS'
  | 'pauseAfterDays'
> &
  Partial<Pick<Config, 'role' | 'witnesses' | 'witnessQuorum'>> & {
    /** How often the database is asked for deliveries that fell due, milliseconds. */
    readonly pollMs?: number
    /** How often failing endpoints and the accounts of deliveries are looked after, milliseconds. */
    readonly upkeepMs?: number
    /** How keys live (keys/policy.json). */
    readonly policy: KeyPolicy
    /** How names of hosts are resolved; default: by the system. */
    readonly resolve?: ResolveHost
    /** How often the keys are looked after, milliseconds; 0 leaves that to the caller (tests). */
    readonly keyTickMs?: number
  }

/** The receipt of a message, and whether the message was accepted before (same Idempotency-Key). */
export interface Acceptance {
  readonly receipt: Receipt
  readonly repeated: boolean
}

/** A message that waited this long for a place would only wait longer: say so instead. Seconds. */
const overloadedRetryAfterS = 1

/** How often somebody looks whether a month is over. */
const retentionTickMs = 3_600_000

/**
 * The story: what happens to a message, and what can be asked about it afterwards. Each step is a stage of the river in
 * DESIGN.md section 1; this class only says in which order they come.
 */
export class Relay {
  readonly issuer: string
  readonly origin: string
  /** True if this start created the log. */
  readonly created: boolean
  /** What this process does of the story: `ingress` leaves the last stage to others, `delivery` does nothing but that. */
  readonly role: Role
  readonly keyring: Keyring
  readonly directory: Directory
  readonly administration: Administration
  readonly sources: Sources
  /** Lets posts pass to a source, or not. */
  readonly gate: SourceGate
  readonly endpoints: Endpoints
  readonly notices: Notices
  readonly exports: Exports
  readonly deliveries: Deliveries
  readonly replays: Replays
  readonly sequencer: Sequencer
  readonly calls: Calls
  readonly audit: AuditLog
  readonly receipts: Receipts
  readonly worker: DeliveryWorker
  readonly upkeep: Upkeep
  readonly rotation: KeyRotation
  readonly retention: RetentionRun
  readonly archive: Archive
  readonly policy: KeyPolicy
  readonly witnesses: Witnesses
  readonly #replayRun: ReplayRun
  readonly #abandonment: Abandonment
  readonly #adapters: Adapters
  readonly #heads: TenantHeads
  readonly #exporter: ExportWorker
  readonly #append: ReturnType<typeof appending>
  readonly #publisher: CheckpointPublisher
  readonly #closePoster: () => Promise<void>
  readonly #tiles: TileCache
  readonly #trust: TrustMaterial
  readonly #ids: IdMaker
  readonly #maxQueue: number
  readonly #keyTickMs: number
  readonly #stopping = new AbortController()
  /** Posts that are being accepted: waiting for a signature, for their batch, or for its commit. */
  #underWay = 0
  #keyTicksFailed = 0
  #retentionAtMs = 0
  #keeping: Promise<void> = Promise.resolve()

  private constructor(parts: RelayParts) {
    this.issuer = parts.head.issuer
    this.origin = parts.head.origin
    this.created = parts.created
    this.role = parts.role
    this.keyring = parts.keyring
    this.directory = parts.directory
    this.administration = parts.administration
    this.sources = parts.sources
    this.gate = parts.gate
    this.endpoints = parts.endpoints
    this.notices = parts.notices
    this.exports = parts.exports
    this.#heads = parts.heads
    this.#exporter = parts.exporter
    this.deliveries = parts.deliveries
    this.replays = parts.replays
    this.#replayRun = parts.replayRun
    this.sequencer = parts.sequencer
    this.calls = parts.calls
    this.audit = parts.audit
    this.receipts = parts.receipts
    this.worker = parts.worker
    this.upkeep = parts.upkeep
    this.rotation = parts.rotation
    this.retention = parts.retention
    this.archive = parts.archive
    this.#abandonment = parts.abandonment
    this.policy = parts.policy
    this.witnesses = parts.witnesses
    this.#keyTickMs = parts.keyTickMs
    this.#adapters = parts.adapters
    this.#append = parts.append
    this.#publisher = parts.publisher
    this.#closePoster = parts.closePoster
    this.#tiles = parts.tiles
    this.#trust = parts.trust
    this.#ids = parts.ids
    this.#maxQueue = parts.maxQueue
  }

  static async open(adapters: Adapters, options: RelayOptions): Promise<Relay> {
    return new Relay(await assemble(adapters, options))
  }

  start(): void {
    this.#exporter.start()
    this.worker.start({ onGone: (endpoint) => this.upkeep.gone(endpoint) })
    this.upkeep.start()
    this.#replayRun.start()
    if (this.#keyTickMs > 0) this.#keeping = this.#keepHouse()
  }

  /**
   * Accepts one POST: parsed, stated, signed, committed with its deliveries, and receipted. Rejects with the code of
   * whatever was wrong with it; then nothing of it is kept.
   */
  async accept(arrival: Omit<Arrival, 'id'>): Promise<Acceptance> {
    if (this.#underWay >= this.#maxQueue) throw new RelayError('overloaded', { retryAfterS: overloadedRetryAfterS })
    this.#underWay += 1
    try {
      return await this.#accept(arrival)
    } finally {
      this.#underWay -= 1
    }
  }

  async #accept(arrival: Omit<Arrival, 'id'>): Promise<Acceptance> {
    const { clock, observer } = this.#adapters
    const now = clock.now()
    const message = parseMessage({ ...arrival, id: this.#ids.make('msg', now) }, now)
    const { draft, place } = await this.#append(message, everyone)
    if (place.kind === 'superseded') return { receipt: await this.#repeat(place.by, message), repeated: true }
    observer.accepted(message.payload.length)
    return { receipt: await issueReceipt(draft, place, this.#trust), repeated: false }
  }

  /** A message of this tenant, or `not_found`; null asks as the deployment's administrator. */
  getMessage(tenantId: string | null, id: string): Promise<StoredMessage> {
    return this.archive.get(tenantId, id)
  }

  deliveriesOf(message: StoredMessage): Promise<DeliveryRow[]> {
    return deliveriesOf(this.#adapters.database, message.id)
  }

  /** Erases a tenant, and gives up on what it is still owed. Should that be cut short, the next look at retention goes on. */
  async eraseTenant(actor: string, tenantId: string): Promise<Tenant> {
    const tenant = await this.administration.eraseTenant(actor, tenantId)
    await this.directory.refresh()
    await this.#abandonment.ofErased()
    return tenant
  }

  /** Where everything stands that was stated about a message of this tenant; nowhere, if it has no such message. */
  async leavesOf(tenantId: string, id: string): Promise<number[]> {
    const { database } = this.#adapters
    const message = await findMessage(database, id)
    if (message?.tenantId !== tenantId) return []
    return [message.leafIndex, ...(await leavesOfDeliveries(database, id))]
  }

  verify(evidence: Evidence): Verdict & { key?: { kid: string; state?: string } } {
    const verdict = verifyEvidence(evidence, this.#trust)
    const record = verdict.key && this.keyring.find(verdict.key.kid)?.record
    return record
      ? { ...verdict, key: { kid: record.kid, state: keyState(record, this.#adapters.clock.now()) } }
      : verdict
  }

  async head(): Promise<HeadRow> {
    const head = await findHead(this.#adapters.database)
    if (head === undefined) throw new Error('the database holds no log')
    return head
  }

  /** The newest checkpoint as the public may see it: cosigned by a quorum of the witnesses, where there are any. */
  async publishedCheckpoint(): Promise<string> {
    return (await this.witnesses.published())?.note ?? (await this.head()).checkpoint
  }

  /** The log's verifier keys, one for each log key that may have signed a checkpoint still about. */
  get vkeys(): string[] {
    return vkeysOf(unrevoked(this.keyring), this.origin)
  }

  tile(level: number, index: number, width: number): Promise<Uint8Array | undefined> {
    return findTile(this.#adapters.database, level, index, width)
  }

  entries(index: number, width: number): Promise<Uint8Array[] | undefined> {
    return findEntries(this.#adapters.database, index, width)
  }

  /** Undefined where the log has not got so far. */
  findInclusion(leafIndex: number, size: number | undefined): Promise<InclusionProof | undefined> {
    return findInclusion(this.#adapters.database, this.#tiles, leafIndex, size)
  }

  findConsistency(fromSize: number, size: number | undefined): Promise<ConsistencyProof | undefined> {
    return findConsistency(this.#adapters.database, this.#tiles, fromSize, size)
  }

  findLeaf(entry: Uint8Array): Promise<number | undefined> {
    return findLeaf(this.#adapters.database, entry)
  }

  /** What is due, and when each purpose rotates next by the policy. */
  keyPlan() {
    const steps = this.rotation
      .plan()
      .map((step) =>
        step.kind === 'generate'
          ? { step: step.kind, purpose: step.purpose }
          : { step: step.kind, purpose: step.key.purpose, kid: step.key.kid },
      )
    const due = (purpose: KeyPurpose) => new Date(rotationDue(this.keyring.history, purpose, this.policy)).toISOString()
    return { steps, next_rotation: { payload: due('payload'), log: due('log') } }
  }

  /** Every key ever, and a JWT over the same by the active key: a copy kept elsewhere proves where it came from. */
  signedKeys() {
    const keys = keysOf(this.keyring, this.#adapters.clock.now())
    // Coarse, so that the document stays the same as long as receivers may keep it anyway.
    const claims = { iss: this.issuer, iat: this.second() - (this.second() % 300), keys }
    const key = this.keyring.signer('payload')
    const header = jwsHeader(key.kid, 'keys+jwt')
    const payload = Buffer.from(canonicalJson(claims)).toString('base64url')
    const signature = signWith(key, jwsSigningInput(header, payload))
    return { keys, signed: `${header}.${payload}.${Buffer.from(signature).toString('base64url')}` }
  }

  /** Now, in unix seconds. */
  readonly second = (): number => Math.floor(this.#adapters.clock.now().getTime() / 1000)

  /** The published payload keys. */
  jwks(): { keys: PublishedJwk[] } {
    return jwksOf(this.keyring.history, this.policy, this.#adapters.clock.now())
  }

  /** How often in a row the keys could not be looked after: the wrapping service, or the database, is out of reach. The
   *  keys in memory go on signing. */
  get keyTicksFailed(): number {
    return this.#keyTicksFailed
  }

  /** One look after the keys. Never rejects: what fails is tried again at the next. */
  async lookAfterKeys(): Promise<void> {
    const { logger } = this.#adapters
    try {
      await this.rotation.tick()
      if (this.#keyTicksFailed > 0) logger.info({ failures: this.#keyTicksFailed }, 'keyring.tick works again')
      this.#keyTicksFailed = 0
    } catch (error) {
      // Said once for an outage, which may last; the gauge says that it does.
      if (this.#keyTicksFailed === 0)
        logger.warn({ err: error }, 'keyring.tick failed; the keys in memory go on signing')
      this.#keyTicksFailed += 1
    }
  }

  /** Counts the leaves of every tenant from time to time, whether somebody exports them or not. Never rejects. */
  async #lookAfterHeads(): Promise<void> {
    const { logger } = this.#adapters
    await this.#heads
      .appendDue()
      .catch((error: unknown) => logger.warn({ err: error }, 'tenant.head failed, will try again'))
  }

  /** Finishes what was accepted and what is in flight. Posts must have stopped coming. */
  async close(graceMs = 5000): Promise<void> {
    this.#stopping.abort()
    await this.#keeping
    await this.rotation.stop().catch(() => {}) // without the database, it will be forgotten by its silence
    await this.#exporter.stop()
    await this.upkeep.stop()
    await this.#replayRun.stop()
    await this.worker.stop(graceMs)
    await this.sequencer.close()
    await this.#publisher.stop()
    await this.#closePoster()
    await this.keyring.close()
  }

  /** One look at what has expired. Never rejects: what fails, such as because somebody is reading, is tried in an hour. */
  async lookAfterRetention(): Promise<void> {
    const { clock, logger } = this.#adapters
    if (clock.now().getTime() - this.#retentionAtMs < retentionTickMs) return
    this.#retentionAtMs = clock.now().getTime()
    await this.retention
      .tick()
      .catch((error: unknown) => logger.warn({ err: error }, 'retention failed, will try again'))
  }

  async #keepHouse(): Promise<void> {
    const { signal } = this.#stopping
    const { logger } = this.#adapters
    while (!signal.aborted) {
      await this.lookAfterKeys()
      await this.#lookAfterHeads()
      // A process that serves nobody must hear all the same that a tenant was erased.
      await this.directory.refresh().catch((error: unknown) => logger.debug({ err: error }, 'directory.refresh failed'))
      await this.lookAfterRetention()
      await delay(this.#keyTickMs, undefined, { signal }).catch(() => {})
    }
  }

  /** The same Idempotency-Key again: the same payload gets a receipt for the same message, another payload is refused.
   *  Its statement knows, also when the payload itself has expired. */
  async #repeat(id: string, message: Message): Promise<Receipt> {
    const before = await this.getMessage(message.tenantId, id)
    const receipt = await this.receipts.issue(await this.receipts.find(before.tenantId, before.leafIndex))
    const { payload } = parseJson(Buffer.from(receipt.payload, 'base64url')) as { payload: { sha256: string } }
    const same = payload.sha256 === Buffer.from(message.sha256).toString('base64url')
    if (!same || before.contentType !== message.contentType) throw new RelayError('idempotency_key_reused')
    return receipt
  }
}

/** What a message is appended with. */
interface Appending {
  readonly issuer: string
  readonly database: Database
  readonly keyring: Keyring
  readonly dataKeys: DataKeys
  readonly expiry: Expiry
  readonly sequencer: Sequencer
  readonly worker: DeliveryWorker
}

/** The middle of the story, for a vendor's message and for one of our own: stated, signed, sealed, and committed with what
 *  it is owed to. */
function appending({ issuer, database, keyring, dataKeys, expiry, sequencer, worker }: Appending) {
  return async function append(message: Message, audience: Audience) {
    const stated = state(issuer, acceptanceOf(message), message.acceptedAt)
    const signed = await signStatement(keyring, stated.statement)
    const draft = draftReceipt({ message: message.id }, signed, keyring)
    const dataKey = await dataKeys.get(database, message.tenantId)
    const sealed = dataKey.seal(message.payload, payloadContext(message.tenantId, message.id))
    const kept = { message, sealed, ...(await expiry.of(message)) }
    const place = await sequencer.append({
      stated,
      signed,
      effects: [bind(storeMessages, kept), bind(worker.owe, { message, signed, audience })],
    })
    return { draft, place }
  }
}

const acceptanceOf = (message: Message): AuditEvent => ({
  kind: 'message.accepted',
  sub: message.id,
  tenant: message.tenantId,
  source: message.sourceId,
  actor: message.actor,
  ...(message.request && { request: message.request }),
  ...(message.authentication !== undefined && { authentication: message.authentication }),
  payload: {
    bytes: message.payload.length,
    sha256: Buffer.from(message.sha256).toString('base64url'),
    received_sha256: Buffer.from(message.receivedSha256).toString('base64url'),
    ...(message.contentType !== null && { canonicalization: 'none', content_type: message.contentType }),
  },
})

interface RelayParts {
  head: Pick<HeadRow, 'issuer' | 'origin'>
  created: boolean
  role: Role
  keyring: Keyring
  directory: Directory
  administration: Administration
  sources: Sources
  gate: SourceGate
  endpoints: Endpoints
  notices: Notices
  exports: Exports
  heads: TenantHeads
  exporter: ExportWorker
  deliveries: Deliveries
  replays: Replays
  replayRun: ReplayRun
  append: ReturnType<typeof appending>
  sequencer: Sequencer
  calls: Calls
  audit: AuditLog
  receipts: Receipts
  worker: DeliveryWorker
  upkeep: Upkeep
  rotation: KeyRotation
  retention: RetentionRun
  archive: Archive
  abandonment: Abandonment
  policy: KeyPolicy
  witnesses: Witnesses
  keyTickMs: number
  adapters: Adapters
  dataKeys: DataKeys
  publisher: CheckpointPublisher
  closePoster: () => Promise<void>
  tiles: TileCache
  trust: TrustMaterial
  ids: IdMaker
  maxQueue: number
}

/** Creating the log and the first admin key must happen once, whoever starts first. Any constant will do. */
export const firstStartLock = `select pg_advisory_xact_lock(4857264071)`

async function assemble(adapters: Adapters, options: RelayOptions): Promise<RelayParts> {
  const { database, wrapper, objectStore, clock, logger, observer, random } = adapters
  const { head, created, dataKeys } = await openLog(adapters, options)
  const { issuer, origin } = head
  const keyring = await Keyring.open(database, { wrapper, issuer, clock, logger })
  const { role = 'all', witnesses: addresses = [], witnessQuorum: quorum = 0 } = options
  const witnessKeys = addresses.map(({ key }) => key)
  const trustedLog = logTrust(() => unrevoked(keyring), origin, witnessKeys)
  // A checkpoint by a key that was revoked since was published all the same.
  const everTrusted = logTrust(() => keyring.history, origin)
  const { head: current, published } = await checkBeforeAppending(database, objectStore, everTrusted())

  const { post, close: closePoster } = openWitnessPoster(clock)
  const tiles: TileCache = new TileCache(() => sequencer.edge)
  const witnesses = new Witnesses({ witnesses: addresses, quorum, database, tiles, post, clock, logger })
  const publisher = new CheckpointPublisher({
    ...{ store: objectStore, database, clock, logger },
    cosign: witnesses.cosign,
    trust: everTrusted,
    vkeys: () => vkeysOf(unrevoked(keyring), origin),
    publishedSize: published?.treeSize ?? 0,
    onBroken: (error) => sequencer.halt(error),
  })
  const partitions = new Partitions(database)
  const directory = new Directory(database, clock, dataKeys)
  const sequencer = new Sequencer({
    database,
    dataKeys,
    observer,
    partitions,
    retentionOf: (tenantId) => directory.retentionOf(tenantId),
    signCheckpoint: checkpointSigner(keyring, origin),
    onCheckpoint: (checkpoint) => publisher.publish(checkpoint),
    onBroken: adapters.onBroken,
  })
  publisher.publish(current.checkpoint)
  observer.treeGrew(current.treeSize)
  const ids = new IdMaker()
  const acts = new Acts(sequencer, clock, issuer, () => directory.expire())
  const { maxQueue, policy, keyTickMs = 2000 } = options
  const calls = new Calls({ sequencer, clock, issuer, ids, logger, mostUnderWay: maxQueue })
  const administration = new Administration({ database, acts, dataKeys, clock, ids })
  const sources = new Sources({ database, acts, administration, dataKeys, clock, ids })
  const gate = new SourceGate({ database, dataKeys, clock, logger, observer })
  const guard = new EgressGuard({ allow: options.egressAllow, resolve: options.resolve })
  const endpoints = new Endpoints({ database, acts, dataKeys, guard, clock, ids, administration })
  const worker = new DeliveryWorker({
    ...{ database, sequencer, keyring, dataKeys, directory, clock, ids, issuer, logger, observer, random },
    client: new OutboundClient({ guard, clock, connectionsPerOrigin: hostConcurrency }),
    schedule: options.retrySchedule,
    concurrency: options.deliveryConcurrency,
    leaseMs: options.deliveryLeaseS * 1000,
    pollMs: options.pollMs ?? 1000,
    forwards: role !== 'ingress',
  })
  const expiry = new Expiry(directory, partitions)
  const append = appending({ issuer, database, keyring, dataKeys, expiry, sequencer, worker })
  const notices = new Notices({ append, clock, ids })
  const heads = new TenantHeads({ database, sequencer, clock, issuer })
  const exporter = new ExportWorker({
    ...{ database, sequencer, keyring, dataKeys, heads, objectStore, clock, logger, issuer, origin },
    vkeys: () => vkeysOf(unrevoked(keyring), origin),
    keys: () => keysOf(keyring, clock.now()),
    pollMs: options.pollMs ?? 1000,
  })
  const exports = new Exports({
    ...{ database, sequencer, dataKeys, objectStore, clock, ids, issuer },
    onRequested: () => exporter.wake(),
  })
  const deliveries = new Deliveries({ database, dataKeys })
  const replays = new Replays({ database, acts, endpoints, clock, ids })
  const replayRun = new ReplayRun({
    ...{ database, sequencer, replays, clock, ids, issuer, logger, pollMs: options.pollMs ?? 1000 },
  })
  const { health } = worker
  const pauseAfterMs = options.pauseAfterDays * 86_400_000
  const failures = new FailureWatch({
    ...{ health, endpoints, directory, notices, sequencer, clock, issuer, logger, pauseAfterMs },
  })
  const reconciler = new Reconciler({ database, clock, logger, observer })
  const upkeep = new Upkeep({ failures, reconciler, health, clock, logger, everyMs: options.upkeepMs ?? 10_000 })
  const archive = new Archive({ database, dataKeys, directory, clock })
  const abandonment = new Abandonment({ database, sequencer, clock, issuer })
  const retention = new RetentionRun({
    ...{ database, acts, partitions, clock, logger },
    retentions: () => retentionsChosen(database),
    giveUp: async () => {
      await abandonment.ofErased()
      await abandonment.ofExpired()
    },
  })
  const openCheckpoint = remember((note) => trustLog(trustedLog())(note))
  const trust = trustKeyring(keyring, issuer, openCheckpoint)
  const audit = new AuditLog(database, dataKeys, clock)
  const receipts = new Receipts({ database, dataKeys, keyring, tiles, witnesses, trust, issuer, clock })
  const process = ids.make('key', clock.now()).slice('key_'.length)
  const rotation = new KeyRotation({ database, keyring, wrapper, policy, acts, clock, logger, issuer, process })
  return {
    ...{ exports, heads, exporter },
    ...{ head, created, keyring, directory, administration, sources, gate, endpoints, notices, sequencer, calls },
    ...{ audit, receipts, worker, rotation, policy, adapters, dataKeys, append, witnesses, publisher, closePoster },
    ...{ tiles, trust, ids, maxQueue, keyTickMs, role, retention, archive, abandonment, upkeep },
    ...{ deliveries, replays, replayRun },
  }
}

/** Finds or creates the log, and refuses to go on under another name than the one it was created with. */
async function openLog({ database, wrapper, clock, logger }: Adapters, { publicUrl, port }: RelayOptions) {
  return database.transaction(async (tx) => {
    await tx.query(firstStartLock)
    const known = (await findHead(tx))?.issuer
    const issuer = known ?? publicUrl ?? `http://localhost:${port}`
    if (publicUrl !== undefined && publicUrl !== issuer) {
      throw new OperatorError(
        `PUBLIC_URL is ${publicUrl}, but this log was created as ${issuer}. Every receipt and checkpoint names it, so it ` +
          `cannot change: start with PUBLIC_URL=${issuer}, or with a new database for a new log (${originOf(publicUrl)}).`,
      )
    }
    const dataKeys = new DataKeys(wrapper, issuer)
    return { dataKeys, ...(await findOrCreateLog(tx, { wrapper, dataKeys, clock, logger, issuer })) }
  })
}

/** The log and its keys as they are now, a rotation adds one, and the keys of the witnesses. */
function logTrust(
  keys: () => readonly KeyRecord[],
  origin: string,
  witnessKeys: readonly VerifierKey[] = [],
): () => LogTrust {
  let latest: { vkeys: string; trust: LogTrust } | undefined
  return () => {
    const lines = vkeysOf(keys(), origin)
    const vkeys = lines.join()
    if (latest?.vkeys !== vkeys)
      latest = { vkeys, trust: { origin, vkeys: [...lines.map(parseVerifierKey), ...witnessKeys] } }
    return latest.trust
  }
}

const keysOf = (keyring: Keyring, now: Date) => keyring.history.map((key) => describeKey(key, now))

const unrevoked = (keyring: Keyring): KeyRecord[] => keyring.history.filter((key) => key.revokedAt === null)

const vkeysOf = (keys: readonly KeyRecord[], origin: string): string[] =>
  keys.filter((key) => key.purpose === 'log').map((key) => makeVerifierKey(origin, key.publicKey))

/** The keyring as a verifier sees it: payload keys, each with the time in which it signed. */
function trustKeyring(keyring: Keyring, issuer: string, openCheckpoint: CheckpointOpener): TrustMaterial {
  const trusted = (kid: string): TrustedKey | undefined => {
    const key = keyring.find(kid)
    if (key === undefined || key.record.purpose !== 'payload') return undefined
    const { activatedAt, retiringAt, revokedAt, revokedLeaf } = key.record
    const times = { validFrom: activatedAt ?? undefined, validUntil: retiringAt ?? undefined }
    const revoked = revokedAt !== null && revokedLeaf !== null ? { from: revokedAt, leafIndex: revokedLeaf } : undefined
    return { kid, publicKey: key.publicKey, ...times, revoked }
  }
  const keys = () => keyring.history.flatMap((key) => trusted(key.kid) ?? [])
  return { issuer, keys, findKey: trusted, openCheckpoint }
}

/** All receipts of a batch carry one checkpoint, and those asked about are mostly recent: verify each signature once. */
function remember(open: CheckpointOpener): CheckpointOpener {
  const most = 1000
  const opened = new Map<string, ReturnType<CheckpointOpener>>()
  return (note) => {
    const known = opened.get(note)
    if (known !== undefined) return known
    const checkpoint = open(note)
    if (opened.size >= most) for (const oldest of opened.keys()) if (opened.delete(oldest)) break
    opened.set(note, checkpoint)
    return checkpoint
  }
}
