import type { Sequencer } from '../log/sequencer.ts'
import { type AuditEvent, state } from '../log/statement.ts'
import type { Id, IdMaker } from '../message/id.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import { type Admission, bind, type Effect } from '../ports/effect.ts'
import type { Logger } from '../ports/logger.ts'
import {
  advanceReplays,
  type ClaimedReplay,
  claimReplay,
  endReplay,
  nextReplayAt,
  pageInRange,
  type ReplayableDelivery,
  releaseReplay,
  standings,
} from './replay-store.ts'
import { owe, type Replays } from './replays.ts'
import { Wakeable } from './wakeable.ts'

/** Deliveries made again at once: less than a batch of the log, so that messages are not held up by a replay. */
const pageLength = 100

/** A process that dies leaves its replays to others after this long. */
const leaseMs = 30_000

export interface ReplayRunParts {
  readonly database: Database
  readonly sequencer: Sequencer
  readonly replays: Replays
  readonly clock: Clock
  readonly ids: IdMaker
  readonly issuer: string
  readonly logger: Logger
  /** How often the database is asked for replays that fell due. */
  readonly pollMs: number
}

/**
 * Works off replays, page by page. A claim on the row keeps two processes from doing the same, and is no more than a
 * courtesy: each delivery is stated, written and counted in one transaction that also moves the cursor, and is admitted
 * only beyond the cursor, so none is made twice, whoever dies or comes back late.
 */
export class ReplayRun {
  readonly #parts: ReplayRunParts
  readonly #loop: Wakeable

  constructor(parts: ReplayRunParts) {
    this.#parts = parts
    this.#loop = new Wakeable({ look: () => this.#look(), pollMs: parts.pollMs, clock: parts.clock })
    parts.replays.onRequested(() => this.#loop.wake())
  }

  start(): void {
    this.#loop.start()
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  /** Resolves with when the next is due, if any is. Never rejects: what fails falls due again when its lease ends. */
  async #look(): Promise<Date | undefined> {
    const { database, clock, ids, logger } = this.#parts
    try {
      const now = clock.now()
      const claim = ids.make('rpl', now)
      const leaseEndsAt = new Date(now.getTime() + leaseMs)
      const replay = await claimReplay(database, { now, leaseEndsAt, claim })
      if (replay !== undefined) await this.#continue(replay, now)
      return await nextReplayAt(database)
    } catch (error) {
      logger.warn({ err: error }, 'delivery.replay failed, will try again')
      return undefined
    }
  }

  /** One page of a replay, and when the next may follow. */
  async #continue(replay: ClaimedReplay, now: Date): Promise<void> {
    const { database } = this.#parts
    const limit = Math.min(pageLength, replay.rate)
    const page = await pageInRange(database, replay, { after: replay.cursor, now, limit })
    const outcomes = await Promise.all(page.map((delivery) => this.#replay(replay, delivery, now)))
    if (outcomes.includes('superseded')) return // it was cancelled, or is somebody else's
    if (page.length < limit) await this.#finish(replay)
    else await releaseReplay(database, replay, new Date(now.getTime() + (limit / replay.rate) * 1000))
  }

  async #replay(replay: ClaimedReplay, delivery: ReplayableDelivery, now: Date) {
    const { sequencer, issuer, ids } = this.#parts
    const id = ids.make('dlv', now)
    const { kind } = await sequencer.append({
      stated: state(issuer, eventOf(replay, delivery, id), now),
      effects: [bind(this.#replayed, { replay, delivery, id })],
      patient: true,
    })
    return kind
  }

  readonly #replayed: Effect<Step> = {
    write: async (tx, rows) => {
      const again = rows
        .map(({ row }) => row)
        .filter(({ delivery }) => !delivery.gone)
        .map(({ replay: { id: replay, tenantId, endpointId }, delivery: { messageId, expiresAt }, id }) => {
          return { id, tenantId, endpointId, messageId, expiresAt, replay }
        })
      if (again.length > 0) owe(tx, again, this.#parts.clock.now())
      advanceReplays(
        tx,
        rows.map(({ row: { replay, delivery } }) => {
          const { id: cursor, gone } = delivery
          return { id: replay.id, cursor, replayed: gone ? 0 : 1, skipped: gone ? 1 : 0 }
        }),
      )
      return undefined
    },

    doubt: () => true,

    // The lock of the head makes this check and the move of the cursor one step, for every process.
    admit: async (tx, rows): Promise<Admission[]> => {
      const now = await standings(
        tx,
        rows.map(({ replay }) => replay.id),
      )
      return rows.map(({ replay, delivery }) => {
        const standing = now.get(replay.id)
        const goesOn = standing?.claim === replay.claim && delivery.id > standing.cursor
        return goesOn ? { kind: 'admitted' } : { kind: 'superseded', by: replay.id }
      })
    },
  }

  async #finish(replay: ClaimedReplay): Promise<void> {
    const { sequencer, issuer, clock } = this.#parts
    const stated = state(issuer, { kind: 'replay.finished', sub: replay.id, tenant: replay.tenantId }, clock.now())
    await sequencer.append({ stated, effects: [bind(this.#finished, replay)] })
  }

  readonly #finished: Effect<ClaimedReplay> = {
    write: async (tx, rows) => {
      for (const { row } of rows) await endReplay(tx, row.id, 'finished', this.#parts.clock.now())
      return undefined
    },

    doubt: () => true,

    admit: async (tx, rows): Promise<Admission[]> => {
      const now = await standings(
        tx,
        rows.map(({ id }) => id),
      )
      return rows.map(({ id, claim }) =>
        now.get(id)?.claim === claim ? { kind: 'admitted' } : { kind: 'superseded', by: id },
      )
    },
  }
}

/** One delivery of a replay. */
interface Step {
  readonly replay: ClaimedReplay
  readonly delivery: ReplayableDelivery
  readonly id: Id<'dlv'>
}

function eventOf(replay: ClaimedReplay, delivery: ReplayableDelivery, id: Id<'dlv'>): AuditEvent {
  const { tenantId: tenant, endpointId: endpoint } = replay
  const facts = { tenant, message: delivery.messageId, endpoint, repeats: delivery.id, replay: replay.id }
  return delivery.gone
    ? { kind: 'delivery.skipped', sub: delivery.id, ...facts }
    : { kind: 'delivery.replayed', sub: id, ...facts }
}
