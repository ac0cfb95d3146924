import { setTimeout as delay } from 'node:timers/promises'
import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import type { Sequencer } from '../log/sequencer.ts'
import { type AuditEvent, state } from '../log/statement.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import { type Bound, bind, type Effect } from '../ports/effect.ts'
import type { Expiry } from '../tenant/expiry.ts'
import { abandonments } from './abandonment.ts'
import { answerContext, insertAnswers, type SealedAnswer } from './answer-store.ts'
import type { Claims } from './claims.ts'
import type { Observed } from './client.ts'
import {
  type AttemptRecord,
  type ClaimedDelivery,
  type RecordedPhases,
  type RecordedResponse,
  subjectOf,
} from './delivery.ts'
import { letNextFollow } from './order.ts'
import { type RecordedAttempt, recordAttempts } from './store.ts'

export interface MadeAttempt {
  readonly number: number
  readonly at: Date
  readonly outcome: Observed
  /** When the next one is due; undefined if there is none. */
  readonly next: Date | undefined
  readonly kid: string
}

export type AbandonReason = 'schedule_exhausted' | 'gone' | 'endpoint_deleted'

/** States what became of deliveries, and writes it into their rows: each in one transaction, with the next batch. */
export class Recorder {
  readonly #database: Database
  readonly #dataKeys: DataKeys
  readonly #expiry: Expiry
  readonly #sequencer: Sequencer
  readonly #claims: Claims
  readonly #clock: Clock
  readonly #issuer: string
  readonly #onBacklog: () => void

  /** `onBacklog` is told when another delivery may have got its turn. */
  constructor(parts: {
    database: Database
    dataKeys: DataKeys
    expiry: Expiry
    sequencer: Sequencer
    claims: Claims
    clock: Clock
    issuer: string
    onBacklog: () => void
  }) {
    this.#database = parts.database
    this.#dataKeys = parts.dataKeys
    this.#expiry = parts.expiry
    this.#sequencer = parts.sequencer
    this.#claims = parts.claims
    this.#clock = parts.clock
    this.#issuer = parts.issuer
    this.#onBacklog = parts.onBacklog
  }

  async attempted(delivery: ClaimedDelivery, attempt: MadeAttempt): Promise<void> {
    const { number, outcome, next, kid } = attempt
    const delivered = outcome.kind === 'delivered'
    const facts = factsOf(outcome)
    const head = delivered ? undefined : await this.#sealHead(delivery, attempt)
    // Without a next attempt it stays claimed until it is abandoned, so that a crash in between is made good.
    const nextAttemptAt = delivered ? null : (next ?? this.#leaseEnd(delivery))
    await this.#state(
      delivery,
      { ...subjectOf(delivery), ...facts, kind: 'delivery.attempted', attempt: number, kid },
      bind(this.#attempts, { delivery, attempt, facts, head, nextAttemptAt }),
    )
  }

  async abandoned(delivery: ClaimedDelivery, attempts: number, reason: AbandonReason): Promise<void> {
    const event = { kind: 'delivery.abandoned', ...subjectOf(delivery), attempts, reason } as const
    await this.#state(delivery, event, bind(abandonments, { ...delivery, at: this.#clock.now() }))
  }

  readonly #attempts: Effect<{
    delivery: ClaimedDelivery
    attempt: MadeAttempt
    facts: AttemptFacts
    head: Omit<SealedAnswer, 'leafIndex'> | undefined
    nextAttemptAt: Date | null
  }> = {
    write: async (tx, rows) => {
      const attempts: RecordedAttempt[] = []
      const answers: SealedAnswer[] = []
      const ordered: ClaimedDelivery[] = []
      for (const { row, leafIndex } of rows) {
        const { delivery, attempt, facts, head, nextAttemptAt } = row
        const { id, claim, orderKey } = delivery
        attempts.push({ id, claim, record: recordOf(attempt, facts, leafIndex), nextAttemptAt })
        if (head !== undefined) answers.push({ ...head, leafIndex })
        if (orderKey !== null && nextAttemptAt === null) ordered.push(delivery)
      }
      recordAttempts(tx, attempts)
      if (answers.length > 0) insertAnswers(tx, answers)
      if (ordered.length > 0) letNextFollow(tx, ordered, this.#clock.now())
      return undefined
    },
  }

  /** The beginning of the answer, where the tenant will want to know what their receiver had to say. */
  async #sealHead(
    { tenantId, id }: ClaimedDelivery,
    { number, at, outcome }: MadeAttempt,
  ): Promise<Omit<SealedAnswer, 'leafIndex'> | undefined> {
    const { answer } = outcome
    if (answer === undefined || answer.head.length === 0) return undefined
    const dataKey = await this.#dataKeys.get(this.#database, tenantId)
    const sealed = dataKey.seal(answer.head, answerContext(tenantId, id, number))
    return { tenantId, sealed, expiresAt: await this.#expiry.ofAnswer(tenantId, at) }
  }

  /** Appends to the log until it is there, or until the lease ends and the delivery is somebody else's to record. */
  async #state(delivery: ClaimedDelivery, event: AuditEvent, effect: Bound): Promise<void> {
    const stated = state(this.#issuer, event, this.#clock.now())
    for (let waitMs = 100; ; waitMs = Math.min(waitMs * 2, 2000)) {
      try {
        await this.#sequencer.append({ stated, effects: [effect], patient: true })
        if (delivery.orderKey !== null) this.#onBacklog()
        return
      } catch (error) {
        const passing = error instanceof RelayError && error.code === 'storage_unavailable'
        if (!passing || this.#claims.remainingMs(delivery) === 0) throw error
      }
      await delay(waitMs)
    }
  }

  #leaseEnd(delivery: ClaimedDelivery): Date {
    return new Date(this.#clock.now().getTime() + this.#claims.remainingMs(delivery))
  }
}

/** What the statement of an attempt and the row of its delivery say alike. */
type AttemptFacts = Pick<AttemptRecord, 'outcome' | 'status' | 'reason' | 'duration_ms' | 'response'>

function factsOf(outcome: Observed): AttemptFacts {
  const { kind, durationMs } = outcome
  const facts: AttemptFacts =
    kind === 'unreachable'
      ? { outcome: kind, reason: outcome.reason, duration_ms: durationMs }
      : { outcome: kind, status: outcome.status, duration_ms: durationMs }
  const response = responseOf(outcome)
  return response === undefined ? facts : { ...facts, response }
}

function recordOf({ number, at, outcome }: MadeAttempt, facts: AttemptFacts, leafIndex: number): AttemptRecord {
  const record = { ...facts, number, at: at.toISOString(), leaf_index: leafIndex }
  const phases = phasesOf(outcome)
  return phases === undefined ? record : { ...record, phases }
}

/** Of an answer without a body the status says all there is to say. */
function responseOf({ kind, answer }: Observed): RecordedResponse | undefined {
  if (answer === undefined || (answer.bytes === 0 && answer.complete)) return undefined
  const { status, bytes, sha256, complete } = answer
  return {
    ...(kind === 'unreachable' && { status }),
    bytes,
    sha256: Buffer.from(sha256).toString('base64url'),
    ...(!complete && { incomplete: true }),
  }
}

function phasesOf({ phases }: Observed): RecordedPhases | undefined {
  const { dnsMs, connectMs, tlsMs, firstByteMs, bodyMs } = phases
  if ((firstByteMs ?? connectMs ?? dnsMs) === undefined) return undefined
  return { dns_ms: dnsMs, connect_ms: connectMs, tls_ms: tlsMs, first_byte_ms: firstByteMs, body_ms: bodyMs }
}
