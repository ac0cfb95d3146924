import type { Clock } from '../ports/clock.ts'
import type { Database, Transaction } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { Observer } from '../ports/observer.ts'
import { wakeBacklogs } from './claim-store.ts'
import {
  countDeliveries,
  forgetOwed,
  lockReconciler,
  owedRange,
  repairBacklogs,
  repairTurns,
} from './reconcile-store.ts'

/** Batches whose deliveries are counted together. */
const batchesAtOnce = 1000

/** What one look found. */
export interface Reconciled {
  /** Deliveries looked for. */
  readonly deliveries: number
  /** Of them, those that are in neither table. */
  readonly missing: number
  /** Backlogs and orders that nobody would have gone on with, and that go on now. */
  readonly repaired: number
  /** Seconds since the oldest batch that was not looked at yet. */
  readonly lagS: number
}

/**
 * Checks what must always hold, and that no test can show of every deployment:
 *
 * - each message has as many deliveries as were owed when it was accepted (the batch left their number behind);
 * - each pending delivery will be claimed: it has a time, or it is in a backlog that is looked at, or an older one of its
 *   order is pending. Leases need no repair: they end.
 *
 * It repairs the second and reports the first: a delivery is never invented. One process at a time looks.
 */
export class Reconciler {
  readonly #database: Database
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #observer: Observer

  constructor(parts: { database: Database; clock: Clock; logger: Logger; observer: Observer }) {
    this.#database = parts.database
    this.#clock = parts.clock
    this.#logger = parts.logger
    this.#observer = parts.observer
  }

  /** Undefined if another process is looking. */
  async look(): Promise<Reconciled | undefined> {
    const found = await this.#database.transaction(async (tx) => {
      if (!(await lockReconciler(tx))) return undefined
      const counted = await this.#count(tx)
      return { ...counted, repaired: await this.#repair(tx) }
    })
    if (found === undefined) return undefined
    if (found.missing > 0) this.#logger.error(found, 'delivery.missing: messages have fewer deliveries than were owed')
    if (found.repaired > 0) this.#logger.error(found, 'delivery.repaired: deliveries waited for nothing')
    this.#observer.reconciled(found)
    return found
  }

  async #count(tx: Transaction): Promise<Omit<Reconciled, 'repaired'>> {
    const range = await owedRange(tx, batchesAtOnce)
    if (range === undefined) return { deliveries: 0, missing: 0, lagS: 0 }
    const found = await countDeliveries(tx, range)
    await forgetOwed(tx, range)
    const lagS = Math.max(0, (this.#clock.now().getTime() - range.oldestOwedAt.getTime()) / 1000)
    return { deliveries: range.deliveries, missing: Math.max(0, range.deliveries - found), lagS }
  }

  async #repair(tx: Transaction): Promise<number> {
    const now = this.#clock.now()
    const turns = await repairTurns(tx)
    if (turns.length > 0) wakeBacklogs(tx, turns, now)
    const backlogs = await repairBacklogs(tx, now)
    return turns.length + backlogs.length
  }
}
