import type { DataKeys } from '../keyring/data-keys.ts'
import type { Keyring } from '../keyring/keyring.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { Observer } from '../ports/observer.ts'
import type { Directory } from '../tenant/directory.ts'
import type { Endpoint } from '../tenant/records.ts'
import { healthEventOf } from './breaker.ts'
import { FreightLoader } from './cargo.ts'
import type { Claims } from './claims.ts'
import type { Observed, OutboundClient, Outcome } from './client.ts'
import type { ClaimedDelivery } from './delivery.ts'
import type { EndpointHealth } from './health.ts'
import type { Strain } from './lanes.ts'
import type { AbandonReason, Recorder } from './record.ts'
import { forwardedRequest } from './request.ts'
import { nextAttemptAt } from './schedule.ts'

/** Beyond this, attempts wait for the database: what it has not recorded would be sent again after a crash. */
const mostUnrecorded = 1000

export interface AttemptParts {
  readonly database: Database
  readonly dataKeys: DataKeys
  readonly directory: Directory
  readonly keyring: Keyring
  readonly client: OutboundClient
  readonly clock: Clock
  readonly claims: Claims
  readonly recorder: Recorder
  readonly health: EndpointHealth
  readonly logger: Logger
  readonly observer: Observer
  readonly random: () => number
  /** Milliseconds before each attempt after the first, for endpoints that have no schedule of their own. */
  readonly schedule: readonly number[]
  /** Told of an endpoint that answered 410 Gone. */
  readonly onGone: (endpoint: Endpoint) => void
}

/**
 * One claimed delivery, from its cargo to the record of its attempt.
 *
 * We send first and record after, and the lease outlives both: a crash in between sends the message again, which
 * webhook-id lets the receiver notice. Recording first could claim a delivery that never left.
 */
export class Attempts {
  readonly #parts: AttemptParts
  readonly #freights: FreightLoader
  /** Attempts made whose record is not committed yet. */
  readonly #unrecorded = new Set<Promise<void>>()

  constructor(parts: AttemptParts) {
    this.#parts = parts
    this.#freights = new FreightLoader(parts)
  }

  /** Makes the next attempt of a delivery. Resolves with how the endpoint bore it, once it has answered; its record goes
   *  on without holding up the next. Never rejects: the delivery is in the database until it is terminal. */
  async make(delivery: ClaimedDelivery): Promise<Strain> {
    const { claims, logger } = this.#parts
    try {
      while (this.#unrecorded.size >= mostUnrecorded) await Promise.race(this.#unrecorded)
      if (claims.isFresh(delivery)) return await this.#make(delivery)
      claims.drop(delivery) // it may be somebody else's any moment
    } catch (error) {
      claims.drop(delivery)
      logger.error({ err: error, delivery: delivery.id }, 'delivery.failed inside the relay; its lease will end')
    }
    return 'unchanged'
  }

  /** Resolves when everything that was sent is on record. */
  async recorded(): Promise<void> {
    await Promise.all(this.#unrecorded)
  }

  async #make(delivery: ClaimedDelivery): Promise<Strain> {
    const { keyring, client, clock, claims, directory, health, onGone } = this.#parts
    const { cargo } = delivery
    // Whoever was erased is sent nothing any more, not even from memory; abandonment.ts says so in the log.
    if (directory.isErased(delivery.tenantId)) {
      claims.drop(delivery)
      return 'unchanged'
    }
    const endpoint = await this.#endpointNow(delivery)
    if (endpoint === undefined) return this.#abandon(delivery, 'endpoint_deleted')
    if (endpoint.pausedAt !== null) {
      await claims.park([delivery])
      return 'unchanged'
    }
    // An earlier process recorded the last attempt and died before it could say that there will be no other.
    if (delivery.attempts > this.#scheduleOf(endpoint).length) return this.#abandon(delivery, 'schedule_exhausted')

    const number = delivery.attempts + 1
    const at = clock.now()
    const freight = cargo ?? (await this.#freights.load(delivery))
    const { messageId, replay } = delivery
    const { headers, kid } = await forwardedRequest(
      keyring,
      { ...freight, endpoint },
      { messageId, number, at, replay },
    )
    const { options, secrets, url } = endpoint
    const outcome = await client.post(url, headers, freight.payload, { timeoutMs: options.timeoutMs, tls: secrets.tls })
    if (outcome.kind === 'unreachable' && outcome.reason === 'aborted') {
      await claims.release([delivery])
      return 'unchanged'
    }
    const news = healthEventOf(outcome, clock.now())
    if (news !== undefined) health.note(endpoint, news)
    if (isGone(outcome)) onGone(endpoint)
    this.#follow(delivery, this.#conclude(delivery, endpoint, { number, at, outcome, kid }))
    return strainOf(outcome)
  }

  /** Records an attempt and decides what follows. */
  async #conclude(
    delivery: ClaimedDelivery,
    endpoint: Endpoint,
    { number, at, outcome, kid }: { number: number; at: Date; outcome: Observed; kid: string },
  ): Promise<void> {
    const { clock, random, recorder, observer, logger } = this.#parts
    const plan = { attempt: number, now: clock.now(), schedule: this.#scheduleOf(endpoint), random }
    const next = outcome.kind === 'delivered' ? undefined : nextAttemptAt({ ...plan, outcome })
    await recorder.attempted(delivery, { number, at, outcome, next, kid })
    observer.attempted(outcome.kind === 'unreachable' ? outcome.reason : outcome.kind, outcome.durationMs / 1000)
    const { id, tenantId, messageId, endpointId } = delivery
    const ids = { delivery: id, tenant: tenantId, message: messageId, endpoint: endpointId }
    const { answer, ...seen } = outcome // what receivers say is the tenant's
    logger.debug({ ...ids, attempt: number, outcome: seen, response_bytes: answer?.bytes, next }, 'delivery.attempted')
    if (outcome.kind === 'delivered' || next !== undefined) return
    await this.#recordAbandoned(delivery, number, isGone(outcome) ? 'gone' : 'schedule_exhausted')
  }

  #abandon(delivery: ClaimedDelivery, reason: AbandonReason): Strain {
    this.#follow(delivery, this.#recordAbandoned(delivery, delivery.attempts, reason))
    return 'unchanged'
  }

  async #recordAbandoned(delivery: ClaimedDelivery, attempts: number, reason: AbandonReason): Promise<void> {
    const { recorder, observer, logger } = this.#parts
    await recorder.abandoned(delivery, attempts, reason)
    observer.abandoned()
    logger.warn({ delivery: delivery.id, message: delivery.messageId, attempts, reason }, 'delivery.abandoned')
  }

  /** Keeps an eye on a record under way, whose attempt has given its place in the lane to the next. */
  #follow(delivery: ClaimedDelivery, record: Promise<void>): void {
    const { logger, claims } = this.#parts
    const followed = record
      .catch((error: unknown) => {
        logger.error({ err: error }, 'delivery.record failed; its lease will end and it is sent again')
      })
      .finally(() => {
        claims.drop(delivery)
        this.#unrecorded.delete(followed)
      })
    this.#unrecorded.add(followed)
  }

  /** As it is now: it may have been changed, paused or deleted since the delivery was claimed. While the database cannot
   *  be asked, what is in memory is sent as it was to be sent. */
  async #endpointNow({ tenantId, endpointId, cargo }: ClaimedDelivery): Promise<Endpoint | undefined> {
    try {
      return await this.#parts.directory.findEndpoint(tenantId, endpointId)
    } catch (error) {
      if (cargo === undefined) throw error
      return cargo.endpoint
    }
  }

  #scheduleOf({ options }: Endpoint): readonly number[] {
    return options.schedule ?? this.#parts.schedule
  }
}

const isGone = (outcome: Outcome): boolean => outcome.kind === 'refused' && outcome.status === 410

/** Only what says that the receiver cannot keep up: a 500 may be about one message. */
function strainOf(outcome: Outcome): Strain {
  if (outcome.kind === 'delivered') return 'eased'
  if (outcome.kind === 'refused') return [429, 502, 503, 504].includes(outcome.status) ? 'strained' : 'unchanged'
  return ['timeout', 'connect', 'reset'].includes(outcome.reason) ? 'strained' : 'unchanged'
}
