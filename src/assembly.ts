import type { Config, Role } from './config.ts'
import { Abandonment } from './delivery/abandonment.ts'
import { type AppendMessage, appending } from './delivery/append.ts'
import { OutboundClient } from './delivery/client.ts'
import { Deliveries } from './delivery/deliveries.ts'
import { Endpoints } from './delivery/endpoints.ts'
import { FailureWatch } from './delivery/failure.ts'
import { EgressGuard, type ResolveHost } from './delivery/guard.ts'
import { Notices } from './delivery/notices.ts'
import { Reconciler } from './delivery/reconciler.ts'
import { ReplayRun } from './delivery/replay-run.ts'
import { Replays } from './delivery/replays.ts'
import { Upkeep } from './delivery/upkeep.ts'
import { openWitnessPoster } from './delivery/witness-poster.ts'
import { DeliveryWorker, hostConcurrency } from './delivery/worker.ts'
import { OperatorError } from './errors.ts'
import { Housekeeping } from './housekeeping.ts'
import { DataKeys } from './keyring/data-keys.ts'
import { Keyring } from './keyring/keyring.ts'
import type { KeyPolicy } from './keyring/policy.ts'
import { Acts } from './log/acts.ts'
import { AuditLog } from './log/audit.ts'
import { Calls } from './log/calls.ts'
import { checkpointSigner, findOrCreateLog, originOf } from './log/genesis.ts'
import { Partitions } from './log/partitions.ts'
import { CheckpointPublisher } from './log/publication.ts'
import { RetentionRun } from './log/retention-run.ts'
import { KeyRotation } from './log/rotation.ts'
import { type LogBroken, Sequencer } from './log/sequencer.ts'
import { checkBeforeAppending } from './log/start-check.ts'
import { findHead, type HeadRow } from './log/store.ts'
import { TenantHeads } from './log/tenant-heads.ts'
import { TileCache } from './log/tile-cache.ts'
import { Witnesses } from './log/witnesses.ts'
import { IdMaker } from './message/id.ts'
import type { Clock } from './ports/clock.ts'
import type { Database } from './ports/database.ts'
import type { KeyWrapper } from './ports/key-wrapper.ts'
import type { Logger } from './ports/logger.ts'
import type { ObjectStore } from './ports/object-store.ts'
import type { Observer } from './ports/observer.ts'
import { ExportWorker } from './receipt/export-worker.ts'
import { Exports } from './receipt/exports.ts'
import { type IssueReceipt, issuing } from './receipt/issue.ts'
import { Receipts } from './receipt/receipts.ts'
import { keysOf, logTrust, remember, trustKeyring, unrevoked, vkeysOf } from './receipt/trust.ts'
import { type TrustMaterial, trustLog } from './receipt/verify.ts'
import { Administration } from './tenant/administration.ts'
import { Archive } from './tenant/archive.ts'
import { Directory } from './tenant/directory.ts'
import { Expiry } from './tenant/expiry.ts'
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

/** What the relay is made of: each stage, made from those before it. */
export interface RelayParts {
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
  exporter: ExportWorker
  deliveries: Deliveries
  replays: Replays
  replayRun: ReplayRun
  append: AppendMessage
  issueReceipt: IssueReceipt
  sequencer: Sequencer
  calls: Calls
  audit: AuditLog
  receipts: Receipts
  worker: DeliveryWorker
  upkeep: Upkeep
  rotation: KeyRotation
  housekeeping: Housekeeping
  archive: Archive
  abandonment: Abandonment
  policy: KeyPolicy
  witnesses: Witnesses
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

/** Opens the log, and makes the stages in the order of the river. Nothing runs yet. */
export async function assemble(adapters: Adapters, options: RelayOptions): Promise<RelayParts> {
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
  const { maxQueue, policy } = options
  const calls = new Calls({ sequencer, clock, issuer, ids, logger, mostUnderWay: maxQueue })
  const administration = new Administration({ database, acts, dataKeys, clock, ids })
  const sources = new Sources({ database, acts, administration, dataKeys, clock, ids })
  const gate = new SourceGate({ database, dataKeys, clock, logger, observer })
  const guard = new EgressGuard({ allow: options.egressAllow, resolve: options.resolve })
  const endpoints = new Endpoints({ database, acts, dataKeys, guard, clock, ids, administration })
  const expiry = new Expiry(directory, partitions)
  const worker = new DeliveryWorker({
    ...{ database, sequencer, keyring, dataKeys, directory, expiry, clock, ids, issuer, logger, observer, random },
    client: new OutboundClient({ guard, clock, connectionsPerOrigin: hostConcurrency }),
    schedule: options.retrySchedule,
    concurrency: options.deliveryConcurrency,
    leaseMs: options.deliveryLeaseS * 1000,
    pollMs: options.pollMs ?? 1000,
    forwards: role !== 'ingress',
  })
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
  const deliveries = new Deliveries({ database, dataKeys, clock })
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
  const issueReceipt = issuing(trust)
  const receipts = new Receipts({ database, dataKeys, keyring, tiles, witnesses, issueReceipt, issuer, clock })
  const process = ids.make('key', clock.now()).slice('key_'.length)
  const rotation = new KeyRotation({ database, keyring, wrapper, policy, acts, clock, logger, issuer, process })
  const housekeeping = new Housekeeping({
    ...{ rotation, heads, retention, directory, clock, logger },
    everyMs: options.keyTickMs ?? 2000,
  })
  return {
    ...{ exports, exporter },
    ...{ head, created, keyring, directory, administration, sources, gate, endpoints, notices, sequencer, calls },
    ...{ audit, receipts, worker, rotation, policy, adapters, dataKeys, append, witnesses, publisher, closePoster },
    ...{ tiles, trust, ids, maxQueue, role, housekeeping, archive, abandonment, upkeep },
    ...{ deliveries, replays, replayRun, issueReceipt },
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
