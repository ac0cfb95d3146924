import { RelayError } from '../errors.ts'
import type { Acts } from '../log/acts.ts'
import type { IdMaker } from '../message/id.ts'
import { findMessage } from '../message/store.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database, Transaction } from '../ports/database.ts'
import { wakeBacklogs } from './claim-store.ts'
import type { Endpoints } from './endpoints.ts'
import {
  countInRange,
  endReplay,
  findReplay,
  insertReplay,
  insertReplayed,
  type Replay,
  type ReplayedDelivery,
  type ReplayRange,
} from './replay-store.ts'
import type { DeliveryRow } from './store.ts'

export interface ReplaysParts {
  readonly database: Database
  readonly acts: Acts
  readonly endpoints: Endpoints
  readonly clock: Clock
  readonly ids: IdMaker
}

/**
 * Deliveries that a tenant wants made again: one, or all of an endpoint in a range of time. Each becomes a delivery of its
 * own, for the same message under the same `webhook-id`, whose attempts count from 1 and are marked with
 * `webhook-replay`. What was recorded of the first delivery stays as it is. A range is worked off by replay-run.ts.
 */
export class Replays {
  readonly #parts: ReplaysParts
  #onRequested: () => void = () => {}

  constructor(parts: ReplaysParts) {
    this.#parts = parts
  }

  /** `listener` is told of each replay that was asked for here. */
  onRequested(listener: () => void): void {
    this.#onRequested = listener
  }

  /** Makes one delivery again, marked with the id of the one it repeats; resolves with the new id. Rejects with
   *  `delivery_not_replayable` if it is pending, or its payload has expired, and with `not_found` if its endpoint is. */
  async redeliver(actor: string, delivery: DeliveryRow): Promise<string> {
    const { database, acts, endpoints, clock, ids } = this.#parts
    const { id: repeated, tenantId, messageId, endpointId, state } = delivery
    if (state === 'pending') throw notReplayable('It is pending: it will be attempted by itself.')
    const now = clock.now()
    const message = await findMessage(database, messageId)
    if (!message?.payloadExpiresAt || message.payloadExpiresAt <= now) {
      throw notReplayable('Its payload is kept no longer.')
    }
    await endpoints.get(tenantId, endpointId)
    const { expiresAt } = message
    const again = { id: ids.make('dlv', now), tenantId, messageId, endpointId, expiresAt, replay: repeated }
    const facts = {
      sub: again.id,
      tenant: tenantId,
      actor,
      message: messageId,
      endpoint: endpointId,
      repeats: repeated,
    }
    await acts.perform({ kind: 'delivery.replayed', ...facts }, async (tx) => owe(tx, [again], now))
    return again.id
  }

  /** How many deliveries a replay would make, and how many it would skip because their payload has expired. */
  async count(range: ReplayRange): Promise<{ deliveries: number; skipped: number }> {
    await this.#parts.endpoints.get(range.tenantId, range.endpointId)
    const { found, gone } = await countInRange(this.#parts.database, range, this.#parts.clock.now())
    return { deliveries: found, skipped: gone }
  }

  /** Begins a replay at `rate` deliveries a second. */
  async request(actor: string, range: ReplayRange, rate: number): Promise<Replay> {
    const { acts, clock, ids } = this.#parts
    const { deliveries, skipped } = await this.count(range)
    const requestedAt = clock.now()
    const replay: Replay = {
      ...range,
      ...{ id: ids.make('rpl', requestedAt), rate, state: 'running', found: deliveries + skipped },
      ...{ replayed: 0, skipped: 0, requestedAt, finishedAt: null },
    }
    const { id, tenantId, endpointId, sourceId, from, to, outcome } = replay
    await acts.perform(
      {
        ...{ kind: 'replay.requested', sub: id, tenant: tenantId, actor, endpoint: endpointId },
        ...(sourceId !== null && { source: sourceId }),
        ...{ from: from.toISOString(), to: to.toISOString(), outcome, rate },
      },
      (tx) => insertReplay(tx, replay),
    )
    this.#onRequested()
    return replay
  }

  async get(tenantId: string, id: string): Promise<Replay> {
    const replay = await findReplay(this.#parts.database, tenantId, id)
    if (replay === undefined) throw new RelayError('not_found')
    return replay
  }

  /** What was not replayed yet will not be; what was stays owed. Cancelling what has ended changes nothing. */
  async cancel(actor: string, tenantId: string, id: string): Promise<Replay> {
    const { acts, clock } = this.#parts
    const replay = await this.get(tenantId, id)
    if (replay.state !== 'running') return replay
    const event = { kind: 'replay.cancelled', sub: id, tenant: tenantId, actor } as const
    const cancel = acts.perform(event, async (tx) => {
      if (!(await endReplay(tx, id, 'cancelled', clock.now()))) throw new RelayError('not_found') // none that runs
    })
    const failure = await cancel.then(
      () => undefined,
      (error: unknown) => ({ error }),
    )
    const after = await this.get(tenantId, id)
    if (failure !== undefined && after.state === 'running') throw failure.error
    return after // if it finished in that moment, there was nothing left to cancel
  }
}

/** Writes deliveries into the backlog of their endpoint, and says so to all processes. */
export function owe(tx: Transaction, deliveries: readonly ReplayedDelivery[], now: Date): void {
  insertReplayed(tx, deliveries, now)
  wakeBacklogs(tx, deliveries, now)
}

const notReplayable = (detail: string) => new RelayError('delivery_not_replayable', { detail })
