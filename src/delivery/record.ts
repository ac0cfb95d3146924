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
import { recordAttempts } from './store.ts'

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
    const { number, at, outcome, next, kid } = attempt
    const response = responseOf(outcome)
    const facts = {
      outcome: outcome.kind,
      ...(outcome.kind === 'unreachable' ? { reason: outcome.reason } : { status: outcome.status }),
      duration_ms: outcome.durationMs,
      ...(response !== undefined && { response }),
    }
    const last = outcome.kind !== 'delivered' && next === undefined
    await this.#state(
      delivery,
      { kind: 'delivery.attempted', ...subjectOf(delivery), attempt: number, ...facts, kid },
      bind(this.#attempts, {
        delivery,
        record: { number, at: at.toISOString(), ...facts, ...phasesOf(outcome) },
        head: await this.#sealHead(delivery, attempt),
        // Without a next attempt it stays claimed until it is abandoned, so that a crash in between is made good.
        nextAttemptAt: last ? this.#leaseEnd(delivery) : (next ?? null),
      }),
    )
  }

  async abandoned(delivery: ClaimedDelivery, attempts: number, reason: AbandonReason): Promise<void> {
    const event = { kind: 'delivery.abandoned', ...subjectOf(delivery), attempts, reason } as const
    await this.#state(delivery, event, bind(abandonments, { ...delivery, at: this.#clock.now() }))
  }

  readonly #attempts: Effect<{
    delivery: ClaimedDelivery
    record: Omit<AttemptRecord, 'leaf_index'>
    head: Omit<SealedAnswer, 'leafIndex'> | undefined
    nextAttemptAt: Date | null
  }> = {
    write: async (tx, rows) => {
      recordAttempts(
        tx,
        rows.map(({ row: { delivery, record, nextAttemptAt }, leafIndex }) => {
          const { id, claim } = delivery
          return { id, claim, nextAttemptAt, record: { ...record, leaf_index: leafIndex } }
        }),
      )
      const answers = rows.flatMap(({ row: { head }, leafIndex }) =>
        head === undefined ? [] : [{ ...head, leafIndex }],
      )
      if (answers.length > 0) insertAnswers(tx, answers)
      const settled = rows.filter(({ row }) => row.nextAttemptAt === null).map(({ row }) => row.delivery)
      letNextFollow(tx, settled, this.#clock.now())
      return undefined
    },
  }

  /** The beginning of the answer, where the tenant will want to know what their receiver had to say. */
  async #sealHead(
    { tenantId, id }: ClaimedDelivery,
    { number, at, outcome }: MadeAttempt,
  ): Promise<Omit<SealedAnswer, 'leafIndex'> | undefined> {
    const { kind, answer } = outcome
    if (kind === 'delivered' || answer === undefined || answer.head.length === 0) return undefined
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

function phasesOf({ phases }: Observed): { phases?: RecordedPhases } {
  const { dnsMs, connectMs, tlsMs, firstByteMs, bodyMs } = phases
  const named: RecordedPhases = {
    ...(dnsMs !== undefined && { dns_ms: dnsMs }),
    ...(connectMs !== undefined && { connect_ms: connectMs }),
    ...(tlsMs !== undefined && { tls_ms: tlsMs }),
    ...(firstByteMs !== undefined && { first_byte_ms: firstByteMs }),
    ...(bodyMs !== undefined && { body_ms: bodyMs }),
  }
  return Object.keys(named).length === 0 ? {} : { phases: named }
}
