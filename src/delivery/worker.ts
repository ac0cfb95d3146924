import type { DataKeys } from '../keyring/data-keys.ts'
import type { Keyring } from '../keyring/keyring.ts'
import type { Sequencer } from '../log/sequencer.ts'
import type { IdMaker } from '../message/id.ts'
import type { Message } from '../message/message.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database, Listening } from '../ports/database.ts'
import type { Effect } from '../ports/effect.ts'
import type { Logger } from '../ports/logger.ts'
import type { Observer } from '../ports/observer.ts'
import type { Directory } from '../tenant/directory.ts'
import type { Expiry } from '../tenant/expiry.ts'
import type { Endpoint } from '../tenant/records.ts'
import { Attempts } from './attempt.ts'
import { allowanceOf } from './backlog.ts'
import type { Passage } from './breaker.ts'
import { freightOf } from './cargo.ts'
import { type Backlog, deliveriesChannel, wakeBacklog, wakeBacklogs } from './claim-store.ts'
import { Claims } from './claims.ts'
import type { OutboundClient } from './client.ts'
import type { ClaimedDelivery } from './delivery.ts'
import { EndpointHealth } from './health.ts'
import { Lanes, type LaneTerms } from './lanes.ts'
import { orderKeyOf } from './order.ts'
import { Recorder } from './record.ts'
import { insertDeliveries, insertOrdered, type NewDelivery, type OrderedDelivery } from './store.ts'
import { type Audience, Subscriptions } from './subscription.ts'
import { Wakeable } from './wakeable.ts'

/** A message and the receipt of its acceptance: what every endpoint that wants it is owed. */
export interface Owed {
  readonly message: Message
  readonly expiresAt: Date
  /** Compact JWS. */
  readonly receipt: string
  readonly audience: Audience
}

export interface WorkerParts {
  readonly database: Database
  readonly sequencer: Sequencer
  readonly keyring: Keyring
  readonly dataKeys: DataKeys
  readonly directory: Directory
  readonly expiry: Expiry
  readonly client: OutboundClient
  readonly clock: Clock
  readonly ids: IdMaker
  readonly issuer: string
  readonly logger: Logger
  readonly observer: Observer
  readonly random: () => number
  /** Whether this process forwards. One that only accepts leaves what is owed in the backlogs, and says so to those that do. */
  readonly forwards: boolean
  /** Milliseconds before each attempt after the first, for endpoints that have no schedule of their own. */
  readonly schedule: readonly number[]
  /** Attempts in flight. */
  readonly concurrency: number
  /** How long a claim holds unless it is renewed. A process that dies leaves its deliveries to others after this long. */
  readonly leaseMs: number
  /** How often the database is asked for deliveries that fell due, when nothing else says that there are any. */
  readonly pollMs: number
}

/** Attempts in flight to one host, and sockets to it: what waits for a socket would wait while its deadline runs. */
export const hostConcurrency = 64

/** For so long after an endpoint was found to have a backlog, what is new joins its end instead of passing it. */
const joinMs = 5000

/**
 * Forwards what was accepted until each endpoint has it or is given up on. Where a delivery is, from its message on:
 *
 *     owed --room here--> claimed, in a lane --its turn--> attempt --> delivered, or abandoned
 *       |                    ^    ^                          |
 *       |                    |    '--claimed when due--------'--> due again, by its schedule
 *       '--no room, a rate, --> backlog of its endpoint <-- due, and the endpoint is stopped or paused
 *          an order, stopped,        (drained as the endpoint allows)
 *          role ingress
 *
 * The lanes are memory (lanes.ts); all else are rows. Whatever is in memory is leased, so what this process does not
 * live to record falls due in the database, and is claimed by any process (claims.ts). Which endpoints are stopped is
 * decided in breaker.ts and shared by all processes (health.ts); what a backlog allows, in backlog.ts.
 */
export class DeliveryWorker {
  readonly health: EndpointHealth
  readonly #parts: WorkerParts
  readonly #claims: Claims
  readonly #lanes: Lanes<ClaimedDelivery>
  readonly #attempts: Attempts
  readonly #subscriptions = new Subscriptions()
  readonly #loop: Wakeable
  /** Lane terms by version of the endpoint's record. */
  readonly #terms = new WeakMap<Endpoint, LaneTerms>()
  /** Endpoints known to have a backlog, and until when (clock milliseconds) that is believed. */
  readonly #backlogged = new Map<string, number>()
  #listening: Listening | undefined
  #onGone: (endpoint: Endpoint) => void = () => {}

  constructor(parts: WorkerParts) {
    this.#parts = parts
    const { database, clock, random, logger, leaseMs, ids, concurrency } = parts
    const process = ids.make('dlv', clock.now()).slice('dlv_'.length)
    this.#claims = new Claims({ database, clock, logger, process, leaseMs })
    this.health = new EndpointHealth({
      ...{ database, clock, random, logger },
      onChange: (endpointId, passage) => this.#follow(endpointId, passage),
    })
    this.#loop = new Wakeable({ look: () => this.#look(), pollMs: parts.pollMs, clock })
    const recorder = new Recorder({ ...parts, claims: this.#claims, onBacklog: () => this.#loop.wake() })
    this.#attempts = new Attempts({
      ...parts,
      ...{ claims: this.#claims, recorder, health: this.health, onGone: (endpoint) => this.#onGone(endpoint) },
    })
    this.#lanes = new Lanes({
      concurrency,
      perHost: hostConcurrency,
      work: (delivery) => this.#attempts.make(delivery),
    })
  }

  /** Writes what a message is owed in the transaction that accepts it; after COMMIT, attempts it from memory. */
  readonly owe: Effect<Owed> = {
    write: async (tx, rows, head) => {
      const { clock, directory, ids, forwards } = this.#parts
      const now = clock.now()
      const { claim, leaseEndsAt } = this.#claims.make()
      const plain: NewDelivery[] = []
      const ordered: OrderedDelivery[] = []
      const claimed: { delivery: ClaimedDelivery; endpoint: Endpoint; bytes: number }[] = []
      const reserve = this.#lanes.reserve()
      for (const { row, leafIndex } of rows) {
        const { expiresAt } = row
        const { tenantId, id: messageId, value, payload } = row.message
        const endpoints = await directory.endpointsAt(tx, tenantId, head.configuration)
        if (endpoints.length === 0) continue
        const freight = freightOf(row.message, row.receipt)
        for (const endpoint of endpoints) {
          if (!this.#subscriptions.wants(endpoint, value, row.audience)) continue
          const delivery = { id: ids.make('dlv', now), tenantId, messageId, endpointId: endpoint.id }
          const orderKey = orderKeyOf(endpoint, value)
          if (orderKey !== null) {
            ordered.push({ ...delivery, expiresAt, nextAttemptAt: now, orderKey, position: leafIndex })
          } else if (forwards && this.#flows(endpoint) && reserve(endpoint.id, payload.length)) {
            const cargo = { ...freight, endpoint }
            const held = { ...delivery, orderKey, replay: null, attempts: 0, claim, cargo }
            claimed.push({ delivery: held, endpoint, bytes: payload.length })
            plain.push({ ...delivery, expiresAt, nextAttemptAt: leaseEndsAt, claim })
          } else {
            plain.push({ ...delivery, expiresAt, nextAttemptAt: now, claim: null })
          }
        }
      }
      const deliveries = plain.length + ordered.length
      if (deliveries === 0) return undefined
      const leaves = { firstLeaf: rows[0]?.leafIndex ?? 0, lastLeaf: rows.at(-1)?.leafIndex ?? 0 }
      insertDeliveries(tx, plain, { ...leaves, deliveries, owedAt: now })
      if (ordered.length > 0) insertOrdered(tx, ordered)
      const waiting = [...plain.filter((delivery) => delivery.claim === null), ...ordered]
      if (waiting.length > 0) wakeBacklogs(tx, waiting, now)
      return () => {
        const late: ClaimedDelivery[] = []
        for (const { delivery, endpoint, bytes } of claimed) {
          this.#claims.hold(delivery, leaseEndsAt)
          if (this.#takes(endpoint)) this.#lanes.push(this.#termsOf(endpoint), 'first', delivery, bytes)
          else late.push(delivery) // the endpoint was stopped while this batch was committed
        }
        void this.#claims.park(late)
        for (const { endpointId } of waiting) this.#noteBacklog(endpointId)
        if (waiting.length > 0) this.#loop.wake()
      }
    },
  }

  /** `onGone` is told of endpoints that answered 410. */
  start({ onGone }: { onGone: (endpoint: Endpoint) => void }): void {
    if (!this.#parts.forwards) return
    this.#onGone = onGone
    this.#loop.start()
    this.#listening = this.#parts.database.listen(deliveriesChannel, () => this.#loop.wake())
  }

  /** Claims nothing more, gives back what has not begun, and waits for what has, to its record. An attempt that takes
   *  longer than `graceMs` is cut off and given back. */
  async stop(graceMs: number): Promise<void> {
    await this.#loop.stop()
    await this.#listening?.close()
    await this.#claims.release(this.#lanes.clear())
    await Promise.all([this.#parts.client.close(graceMs), this.#lanes.settled()])
    await this.#attempts.recorded()
    await this.health.look().catch(() => {}) // what it knew, others will learn by themselves
  }

  /** Deliveries in memory: waiting, and in flight. */
  get depth(): { queued: number; inFlight: number } {
    return { queued: this.#lanes.queued, inFlight: this.#lanes.inFlight }
  }

  /** Claims what is due now and what backlogs allow, as far as there is room. Resolves with how many. */
  async claim(): Promise<number> {
    const due = await this.#claims.takeDue(this.#lanes.roomForRetries)
    await this.#admit(due)
    const { claimed } = await this.#drain()
    return due.length + claimed
  }

  /** One look at the database. Resolves with when to look again, if earlier than usual. */
  async #look(): Promise<Date | undefined> {
    const { logger } = this.#parts
    const failed = (what: string) => (error: unknown) => {
      logger.warn({ err: error }, `${what} failed, will try again`)
      return undefined
    }
    await this.health.look().catch(failed('delivery.health'))
    await this.#claims.renew().catch(failed('delivery.renew'))
    const room = this.#lanes.roomForRetries
    const due = await this.#claims.takeDue(room).catch(failed('delivery.claim'))
    if (due !== undefined) await this.#admit(due).catch(failed('delivery.claim'))
    const drained = await this.#drain().catch(failed('delivery.drain'))
    // A full page means that more is due: look again as soon as there is room.
    const full = due !== undefined && due.length >= 500 && this.#lanes.roomForRetries > 0
    return full ? this.#parts.clock.now() : drained?.nextAt
  }

  /** Puts what fell due into its lane, or into its endpoint's backlog if that takes nothing now. */
  async #admit(due: readonly ClaimedDelivery[]): Promise<void> {
    const parked: ClaimedDelivery[] = []
    for (const delivery of due) {
      const endpoint = await this.#parts.directory.findEndpoint(delivery.tenantId, delivery.endpointId)
      if (endpoint === undefined) this.#push(goneTerms(delivery), delivery)
      else if (this.#takes(endpoint) && this.#lanes.roomAt(endpoint.id) > 0)
        this.#push(this.#termsOf(endpoint), delivery)
      else parked.push(delivery)
    }
    for (const { endpointId } of parked) this.#noteBacklog(endpointId)
    await this.#claims.park(parked)
  }

  async #drain(): Promise<{ claimed: number; nextAt: Date | undefined }> {
    const found = new Map<string, Endpoint | undefined>()
    const { claimed, looked, empty, nextAt } = await this.#claims.drain(async (backlog) => {
      const endpoint = await this.#parts.directory.findEndpoint(backlog.tenantId, backlog.endpointId)
      found.set(backlog.endpointId, endpoint)
      return this.#allow(backlog, endpoint)
    })
    for (const endpointId of looked) {
      if (empty.has(endpointId)) this.#backlogged.delete(endpointId)
      else this.#noteBacklog(endpointId)
    }
    for (const delivery of claimed) {
      const endpoint = found.get(delivery.endpointId)
      this.#push(endpoint === undefined ? goneTerms(delivery) : this.#termsOf(endpoint), delivery)
    }
    return { claimed: claimed.length, nextAt }
  }

  #allow({ endpointId, paused, paidUntil }: Backlog, endpoint: Endpoint | undefined) {
    const now = this.#parts.clock.now()
    const room = this.#lanes.roomAt(endpointId)
    // What is owed to an endpoint that is no more is only to be abandoned.
    if (endpoint === undefined) return allowanceOf({ now, room, paidUntil, passage: flows, ...unbound })
    const { rateLimit, timeoutMs } = endpoint.options
    const passage = this.health.passage(endpointId)
    return allowanceOf({ now, room, paidUntil, passage, paused, rateLimit, timeoutMs })
  }

  /** What may be sent to an endpoint has changed: what waits here goes back, or what waits there may come. */
  #follow(endpointId: string, { kind }: Passage): void {
    const { database, clock, logger } = this.#parts
    if (kind === 'stopped') void this.#claims.park(this.#lanes.evict(endpointId))
    if (kind !== 'flows') return
    wakeBacklog(database, endpointId, clock.now()).catch((error: unknown) => {
      logger.warn({ err: error, endpoint: endpointId }, 'delivery.wake failed; its backlog is looked at when due')
    })
  }

  #push(terms: LaneTerms, delivery: ClaimedDelivery): void {
    this.#lanes.push(terms, delivery.attempts === 0 ? 'first' : 'retry', delivery, 0)
  }

  /** Whether a new delivery may be attempted at once, without anybody else's leave. */
  #flows(endpoint: Endpoint): boolean {
    const until = this.#backlogged.get(endpoint.id)
    if (until !== undefined) {
      if (until > this.#parts.clock.now().getTime()) return false
      this.#backlogged.delete(endpoint.id)
    }
    return this.#takes(endpoint)
  }

  #takes({ id, pausedAt, options }: Endpoint): boolean {
    return pausedAt === null && options.rateLimit === null && this.health.passage(id).kind === 'flows'
  }

  #noteBacklog(endpointId: string): void {
    this.#backlogged.set(endpointId, this.#parts.clock.now().getTime() + joinMs)
  }

  #termsOf(endpoint: Endpoint): LaneTerms {
    let terms = this.#terms.get(endpoint)
    if (terms === undefined) {
      const { tenantId, id: endpointId, url, options } = endpoint
      terms = { tenantId, endpointId, host: new URL(url).host, concurrency: options.concurrency }
      this.#terms.set(endpoint, terms)
    }
    return terms
  }
}

const flows: Passage = { kind: 'flows' }
const unbound = { paused: false, rateLimit: null, timeoutMs: 0 }

/** Deliveries of an endpoint that is no more take no host's places. */
const goneTerms = ({ tenantId, endpointId }: ClaimedDelivery): LaneTerms => ({
  ...{ tenantId, endpointId, host: `deleted ${endpointId}`, concurrency: null },
})
