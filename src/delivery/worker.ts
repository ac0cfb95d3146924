import { setTimeout as delay } from 'node:timers/promises'
import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import { receiptHeader } from '../keyring/jws.ts'
import type { Keyring } from '../keyring/keyring.ts'
import { readStatement } from '../log/reader.ts'
import type { Sequencer } from '../log/sequencer.ts'
import { type AuditEvent, type SignedStatement, state } from '../log/statement.ts'
import { sha256 } from '../message/digest.ts'
import type { Id, IdMaker } from '../message/id.ts'
import type { Message } from '../message/message.ts'
import { findMessage, payloadContext } from '../message/store.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import { bind, type Effect } from '../ports/effect.ts'
import type { Logger } from '../ports/logger.ts'
import type { Observer } from '../ports/observer.ts'
import { compactReceipt } from '../receipt/receipt.ts'
import type { Directory } from '../tenant/directory.ts'
import { abandonments } from './abandonment.ts'
import type { OutboundClient, Outcome } from './client.ts'
import type { AttemptRecord, Cargo, ClaimedDelivery } from './delivery.ts'
import { Lanes } from './lanes.ts'
import { forwardedRequest } from './request.ts'
import { nextAttemptAt } from './schedule.ts'
import { claimDue, insertDeliveries, type NewDelivery, recordAttempts, releaseDeliveries } from './store.ts'
import { type Audience, Subscriptions } from './subscription.ts'

/** A message and its signed statement of acceptance: what every endpoint that wants it is owed. */
export interface Owed {
  readonly message: Message
  readonly signed: SignedStatement
  readonly audience: Audience
}

export interface WorkerParts {
  readonly database: Database
  readonly sequencer: Sequencer
  readonly keyring: Keyring
  readonly dataKeys: DataKeys
  readonly directory: Directory
  readonly client: OutboundClient
  readonly clock: Clock
  readonly ids: IdMaker
  readonly issuer: string
  readonly logger: Logger
  readonly observer: Observer
  readonly random: () => number
  /** Milliseconds before each attempt after the first. */
  readonly schedule: readonly number[]
  /** Attempts in flight. */
  readonly concurrency: number
  /** How long a claim holds. A process that dies leaves its deliveries to others after this long. */
  readonly leaseMs: number
  /** How often the database is asked for deliveries that fell due. */
  readonly pollMs: number
}

/** An attempt's 15 s, and time to record what came of it: one with less left of its lease is left to the next claim. */
const attemptMarginMs = 17_000

/** Beyond this, attempts wait for the database: what it has not recorded would be sent again after a crash. */
const mostUnrecorded = 1000

/**
 * Forwards what was accepted until each endpoint has it or is given up on. A delivery is written with its message,
 * already claimed by this process, and attempted from memory at once; what this process cannot attempt, or does not
 * live to record, falls due in the database and is claimed by any process.
 *
 * We send first and record after, and the lease outlives both: a crash in between sends the message again, which
 * webhook-id lets the receiver notice. Recording first could claim a delivery that never left.
 */
export class DeliveryWorker {
  readonly #parts: WorkerParts
  /** Names this process's claims. Not reused by the process that replaces it. */
  readonly #claimant: string
  readonly #lanes: Lanes<ClaimedDelivery>
  readonly #subscriptions = new Subscriptions()
  /** Attempts made whose record is not committed yet. */
  readonly #unrecorded = new Set<Promise<void>>()
  readonly #stopping = new AbortController()
  #polling: Promise<void> = Promise.resolve()

  constructor(parts: WorkerParts) {
    this.#parts = parts
    this.#claimant = parts.ids.make('dlv', parts.clock.now()).slice('dlv_'.length)
    this.#lanes = new Lanes({ concurrency: parts.concurrency, work: (delivery) => this.#deliver(delivery) })
  }

  /** Writes what a message is owed in the transaction that accepts it; after COMMIT, attempts it from memory. */
  readonly owe: Effect<Owed> = {
    write: async (tx, rows, head) => {
      const { clock, directory, ids, leaseMs } = this.#parts
      const now = clock.now()
      const leaseEndsAt = new Date(now.getTime() + leaseMs)
      const written: NewDelivery[] = []
      const claimed: ClaimedDelivery[] = []
      const room = this.#lanes.reserve()
      for (const { row } of rows) {
        const { tenantId, id: messageId, value } = row.message
        const endpoints = await directory.endpointsAt(tx, tenantId, head.configuration)
        if (endpoints.length === 0) continue
        const freight = { ...forwarded(row.message), sha256: row.message.sha256, receipt: compact(row.signed) }
        for (const endpoint of endpoints) {
          if (!this.#subscriptions.wants(endpoint, value, row.audience)) continue
          const { id: endpointId } = endpoint
          const delivery = { id: ids.make('dlv', now), tenantId, messageId, endpointId }
          if (room(endpointId)) {
            claimed.push({ ...delivery, attempts: 0, leaseEndsAt, cargo: { ...freight, endpoint } })
            written.push({ ...delivery, nextAttemptAt: leaseEndsAt, claim: this.#claimant })
          } else {
            written.push({ ...delivery, nextAttemptAt: now, claim: null })
          }
        }
      }
      if (written.length > 0) insertDeliveries(tx, written)
      return () => {
        for (const delivery of claimed) this.#lanes.push(delivery.endpointId, delivery)
      }
    },
  }

  start(): void {
    this.#polling = this.#poll()
  }

  /** Claims nothing more, gives back what has not begun, and waits for what has, to its record. An attempt that takes
   *  longer than `graceMs` is cut off and given back. */
  async stop(graceMs: number): Promise<void> {
    this.#stopping.abort()
    await this.#polling
    await this.#release(this.#lanes.clear())
    await Promise.all([this.#parts.client.close(graceMs), this.#lanes.settled()])
    await Promise.all(this.#unrecorded)
  }

  /** Deliveries in memory: waiting, and in flight. */
  get depth(): { queued: number; inFlight: number } {
    return { queued: this.#lanes.queued, inFlight: this.#lanes.inFlight }
  }

  /** Claims what is due now, as far as there is room. Resolves with how many. */
  async claim(): Promise<number> {
    const { database, clock, leaseMs } = this.#parts
    const limit = Math.min(this.#lanes.room, 500)
    if (limit === 0) return 0
    const now = clock.now()
    const leaseEndsAt = new Date(now.getTime() + leaseMs)
    const except = this.#lanes.full()
    const due = await claimDue(database, { now, leaseEndsAt, claimant: this.#claimant, limit, except })
    for (const row of due) {
      this.#lanes.push(row.endpointId, { ...row, id: row.id as Id<'dlv'>, leaseEndsAt, cargo: undefined })
    }
    return due.length
  }

  async #poll(): Promise<void> {
    const { signal } = this.#stopping
    const { logger, pollMs } = this.#parts
    while (!signal.aborted) {
      const claimed = await this.claim().catch((error: unknown) => {
        logger.warn({ err: error }, 'delivery.claim failed, will try again')
        return 0
      })
      // A full page means that more is due: ask again as soon as there is room.
      if (claimed < 500 || this.#lanes.room === 0) await delay(pollMs, undefined, { signal }).catch(() => {})
    }
  }

  /** One claimed delivery, to the record of its attempt. Never rejects: it is in the database until it is terminal. */
  async #deliver(delivery: ClaimedDelivery): Promise<void> {
    const { logger, clock, directory, schedule } = this.#parts
    try {
      while (this.#unrecorded.size >= mostUnrecorded) await Promise.race(this.#unrecorded)
      if (delivery.leaseEndsAt.getTime() - clock.now().getTime() < attemptMarginMs) return
      // An earlier process recorded the last attempt and died before it could say that there will be no other.
      if (delivery.attempts > schedule.length)
        return await this.#abandon(delivery, delivery.attempts, 'schedule_exhausted')
      // Whoever was erased is sent nothing any more, not even from memory; abandonment.ts says so in the log.
      if (directory.isErased(delivery.tenantId)) return
      const cargo = delivery.cargo ?? (await this.#load(delivery))
      if (cargo === undefined) return await this.#abandon(delivery, delivery.attempts, 'endpoint_deleted')
      await this.#attempt(delivery, cargo)
    } catch (error) {
      logger.error({ err: error, delivery: delivery.id }, 'delivery.failed inside the relay; its lease will end')
    }
  }

  async #attempt(delivery: ClaimedDelivery, cargo: Cargo): Promise<void> {
    const { clock, client, keyring } = this.#parts
    const { endpoint, payload } = cargo
    const number = delivery.attempts + 1
    const at = clock.now()
    const { headers, kid } = await forwardedRequest(keyring, cargo, { messageId: delivery.messageId, number, at })
    const outcome = await client.post(endpoint.url, headers, payload, { tls: endpoint.secrets.tls })
    if (outcome.kind === 'unreachable' && outcome.reason === 'aborted') return await this.#release([delivery])
    this.#follow(this.#conclude(delivery, { number, at, outcome, kid }))
  }

  /** Keeps an eye on a record under way, whose attempt has given its place in the lane to the next. */
  #follow(record: Promise<void>): void {
    const followed = record
      .catch((error: unknown) => {
        this.#parts.logger.error({ err: error }, 'delivery.record failed; its lease will end and it is sent again')
      })
      .finally(() => this.#unrecorded.delete(followed))
    this.#unrecorded.add(followed)
  }

  /** Records an attempt and decides what follows. */
  async #conclude(
    delivery: ClaimedDelivery,
    attempt: { number: number; at: Date; outcome: Outcome; kid: string },
  ): Promise<void> {
    const { clock, schedule, random, observer, logger } = this.#parts
    const { number, at, outcome, kid } = attempt
    const now = clock.now()
    const next =
      outcome.kind === 'delivered' ? undefined : nextAttemptAt({ attempt: number, outcome, now, schedule, random })
    await this.#record(delivery, { number, at, outcome, next, kid })
    const said = outcome.kind === 'unreachable' ? outcome.reason : outcome.kind
    observer.attempted(said, outcome.durationMs / 1000)
    const { id, tenantId, messageId, endpointId } = delivery
    const ids = { delivery: id, tenant: tenantId, message: messageId, endpoint: endpointId }
    logger.debug({ ...ids, attempt: number, outcome, next }, 'delivery.attempted')
    if (outcome.kind !== 'delivered' && next === undefined) {
      const gone = outcome.kind === 'refused' && outcome.status === 410
      await this.#abandon(delivery, number, gone ? 'gone' : 'schedule_exhausted')
    }
  }

  async #record(
    delivery: ClaimedDelivery,
    attempt: { number: number; at: Date; outcome: Outcome; next: Date | undefined; kid: string },
  ): Promise<void> {
    const { number, at, outcome, next, kid } = attempt
    const facts = {
      outcome: outcome.kind,
      ...(outcome.kind === 'unreachable' ? { reason: outcome.reason } : { status: outcome.status }),
      duration_ms: outcome.durationMs,
    }
    await this.#state(
      delivery,
      { kind: 'delivery.attempted', ...subjectOf(delivery), attempt: number, ...facts, kid },
      bind(recordedAttempts, {
        id: delivery.id,
        claimant: this.#claimant,
        // Without a next attempt it stays claimed until it is abandoned, so that a crash in between is made good.
        nextAttemptAt: outcome.kind === 'delivered' ? null : (next ?? delivery.leaseEndsAt),
        record: { number, at: at.toISOString(), ...facts },
      }),
    )
  }

  async #abandon(
    delivery: ClaimedDelivery,
    attempts: number,
    reason: 'schedule_exhausted' | 'gone' | 'endpoint_deleted',
  ): Promise<void> {
    const { observer, logger } = this.#parts
    const event = { kind: 'delivery.abandoned', ...subjectOf(delivery), attempts, reason } as const
    await this.#state(delivery, event, bind(abandonments, delivery.id))
    observer.abandoned()
    logger.warn({ delivery: delivery.id, message: delivery.messageId, attempts, reason }, 'delivery.abandoned')
  }

  /** Appends to the log until it is there, or until the lease ends and the delivery is somebody else's to record. */
  async #state(delivery: ClaimedDelivery, event: AuditEvent, effect: ReturnType<typeof bind>): Promise<void> {
    const { sequencer, clock, issuer } = this.#parts
    const stated = state(issuer, event, clock.now())
    for (let waitMs = 100; ; waitMs = Math.min(waitMs * 2, 2000)) {
      try {
        await sequencer.append({ stated, effects: [effect], patient: true })
        return
      } catch (error) {
        const passing = error instanceof RelayError && error.code === 'storage_unavailable'
        if (!passing || clock.now() > delivery.leaseEndsAt) throw error
      }
      await delay(waitMs)
    }
  }

  /** What a claim from the database is to send; undefined if its endpoint is no more. */
  async #load({ tenantId, messageId, endpointId }: ClaimedDelivery): Promise<Cargo | undefined> {
    const { database, dataKeys, directory } = this.#parts
    const endpoint = await directory.findEndpoint(tenantId, endpointId)
    if (endpoint === undefined) return undefined
    const message = await findMessage(database, messageId)
    if (message === undefined) throw new Error(`message ${messageId} is owed but does not exist`)
    if (message.payload === null) throw new Error(`the payload of ${messageId} expired while it was owed`)
    const dataKey = await dataKeys.get(database, tenantId)
    const payload = dataKey.open(message.payload, payloadContext(tenantId, messageId))
    const { statement, kid, signature } = await readStatement(database, dataKeys, message.leafIndex)
    if (kid === null || signature === null) throw new Error(`the statement of ${messageId} is not signed`)
    const receipt = compact({ statement, kid, signature })
    const { contentType } = message
    return { endpoint, ...forwarded({ payload, contentType }), sha256: sha256(payload), receipt }
  }

  async #release(deliveries: readonly ClaimedDelivery[]): Promise<void> {
    const { database, clock, logger } = this.#parts
    if (deliveries.length === 0) return
    const ids = deliveries.map((delivery) => delivery.id)
    await releaseDeliveries(database, ids, this.#claimant, clock.now()).catch((error: unknown) => {
      logger.warn({ err: error, deliveries: ids.length }, 'delivery.release failed; the leases will end')
    })
  }
}

type Attempted = Omit<AttemptRecord, 'leaf_index'>

const recordedAttempts: Effect<{
  id: string
  claimant: string
  nextAttemptAt: Date | null
  record: Attempted
}> = {
  async write(tx, rows) {
    recordAttempts(
      tx,
      rows.map(({ row, leafIndex }) => ({ ...row, record: { ...row.record, leaf_index: leafIndex } })),
    )
  },
}

const subjectOf = ({ id, tenantId, messageId, endpointId }: ClaimedDelivery) => ({
  sub: id,
  tenant: tenantId,
  message: messageId,
  endpoint: endpointId,
})

/** The body of a request, and its media type: canonical JSON unless the message says otherwise. */
const forwarded = ({ payload, contentType }: { payload: Uint8Array; contentType: string | null }) => ({
  payload,
  contentType: contentType ?? 'application/json',
})

const compact = ({
  statement,
  kid,
  signature,
}: {
  statement: Uint8Array
  kid: string
  signature: Uint8Array
}): string =>
  compactReceipt({
    protected: receiptHeader(kid),
    payload: Buffer.from(statement).toString('base64url'),
    signature: Buffer.from(signature).toString('base64url'),
  })
