import { type Adapters, assemble, type RelayOptions, type RelayParts } from './assembly.ts'
import type { Role } from './config.ts'
import type { Abandonment } from './delivery/abandonment.ts'
import type { AppendMessage } from './delivery/append.ts'
import type { Deliveries } from './delivery/deliveries.ts'
import type { Endpoints } from './delivery/endpoints.ts'
import type { Notices } from './delivery/notices.ts'
import type { ReplayRun } from './delivery/replay-run.ts'
import type { Replays } from './delivery/replays.ts'
import { type DeliveryRow, deliveriesOf, leavesOfDeliveries } from './delivery/store.ts'
import { everyone } from './delivery/subscription.ts'
import type { Upkeep } from './delivery/upkeep.ts'
import type { DeliveryWorker } from './delivery/worker.ts'
import { RelayError } from './errors.ts'
import type { Housekeeping } from './housekeeping.ts'
import { jwksOf, type PublishedJwk } from './keyring/jwks.ts'
import { jwsHeader, kidOfReceiptHeader } from './keyring/jws.ts'
import { type Keyring, signWith } from './keyring/keyring.ts'
import { rotationDue } from './keyring/lifecycle.ts'
import type { KeyPolicy } from './keyring/policy.ts'
import { jwsSigningInput } from './keyring/signing-input.ts'
import { type KeyPurpose, keyState } from './keyring/store.ts'
import type { AuditLog } from './log/audit.ts'
import type { Calls } from './log/calls.ts'
import { type ConsistencyProof, findConsistency, findInclusion, findLeaf, type InclusionProof } from './log/proofs.ts'
import type { CheckpointPublisher } from './log/publication.ts'
import { findEntries, findTile } from './log/reader.ts'
import type { KeyRotation } from './log/rotation.ts'
import type { Sequencer } from './log/sequencer.ts'
import { findHead, type HeadRow } from './log/store.ts'
import type { TileCache } from './log/tile-cache.ts'
import type { Witnesses } from './log/witnesses.ts'
import { canonicalJson } from './message/canonical.ts'
import { decodeBase64url } from './message/digest.ts'
import type { IdMaker } from './message/id.ts'
import { type JsonValue, parseJson } from './message/json.ts'
import { type Arrival, type Message, parseMessage } from './message/message.ts'
import { findMessage, type StoredMessage } from './message/store.ts'
import type { ExportWorker } from './receipt/export-worker.ts'
import type { Exports } from './receipt/exports.ts'
import type { IssueReceipt } from './receipt/issue.ts'
import { type Receipt, readReceipt } from './receipt/receipt.ts'
import type { Receipts } from './receipt/receipts.ts'
import { keysOf, unrevoked, vkeysOf } from './receipt/trust.ts'
import { type Evidence, type TrustMaterial, type Verdict, verifyEvidence } from './receipt/verify.ts'
import type { Administration } from './tenant/administration.ts'
import type { Archive } from './tenant/archive.ts'
import type { Directory } from './tenant/directory.ts'
import type { Tenant } from './tenant/records.ts'
import type { SourceGate } from './tenant/source-gate.ts'
import type { Sources } from './tenant/sources.ts'

/** The receipt of a message, and whether the message was accepted before (same Idempotency-Key). */
export interface Acceptance {
  readonly receipt: Receipt
  readonly repeated: boolean
}

/** A message that waited this long for a place would only wait longer: say so instead. Seconds. */
const overloadedRetryAfterS = 1

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
  readonly housekeeping: Housekeeping
  readonly archive: Archive
  readonly policy: KeyPolicy
  readonly witnesses: Witnesses
  readonly #replayRun: ReplayRun
  readonly #abandonment: Abandonment
  readonly #adapters: Adapters
  readonly #exporter: ExportWorker
  readonly #append: AppendMessage
  readonly #issueReceipt: IssueReceipt
  readonly #publisher: CheckpointPublisher
  readonly #closePoster: () => Promise<void>
  readonly #tiles: TileCache
  readonly #trust: TrustMaterial
  readonly #ids: IdMaker
  readonly #maxQueue: number
  /** Posts that are being accepted: waiting for a signature, for their batch, or for its commit. */
  #underWay = 0

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
    this.housekeeping = parts.housekeeping
    this.archive = parts.archive
    this.#abandonment = parts.abandonment
    this.policy = parts.policy
    this.witnesses = parts.witnesses
    this.#adapters = parts.adapters
    this.#append = parts.append
    this.#issueReceipt = parts.issueReceipt
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
    this.housekeeping.start()
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
    return { receipt: await this.#issueReceipt(draft, place), repeated: false }
  }

  /** A message of this tenant, or `not_found`; null asks as the deployment's administrator. */
  getMessage(tenantId: string | null, id: string): Promise<StoredMessage> {
    return this.archive.get(tenantId, id)
  }

  deliveriesOf(message: StoredMessage): Promise<DeliveryRow[]> {
    return deliveriesOf(this.#adapters.database, message)
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
    return [message.leafIndex, ...(await leavesOfDeliveries(database, message))]
  }

  /** As any verifier would, but for the signature of a receipt, the dearest check, which the signing thread makes. */
  async verify(evidence: Evidence): Promise<Verdict & { key?: { kid: string; state?: string } }> {
    const holds = await this.#signatureHolds(evidence.receipt)
    const verdict = verifyEvidence(evidence, { ...this.#trust, signatureHolds: () => holds })
    const record = verdict.key && this.keyring.find(verdict.key.kid)?.record
    return record
      ? { ...verdict, key: { kid: record.kid, state: keyState(record, this.#adapters.clock.now()) } }
      : verdict
  }

  /** False also for what is no receipt: the verifier says why. */
  async #signatureHolds(value: JsonValue | undefined): Promise<boolean> {
    const receipt = value === undefined ? undefined : readReceipt(value)
    if (receipt === undefined || typeof receipt === 'string') return false
    const kid = kidOfReceiptHeader(receipt.protected)
    const signature = decodeBase64url(receipt.signature)
    if (kid === undefined || signature === undefined) return false
    return this.keyring.verify(kid, jwsSigningInput(receipt.protected, receipt.payload), signature)
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

  /** Finishes what was accepted and what is in flight. Posts must have stopped coming. */
  async close(graceMs = 5000): Promise<void> {
    await this.housekeeping.stop()
    await this.#exporter.stop()
    await this.upkeep.stop()
    await this.#replayRun.stop()
    await this.worker.stop(graceMs)
    await this.sequencer.close()
    await this.#publisher.stop()
    await this.#closePoster()
    await this.keyring.close()
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
