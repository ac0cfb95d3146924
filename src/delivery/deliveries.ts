import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import { answerContext, findAnswers } from './answer-store.ts'
import type { AttemptRecord } from './delivery.ts'
import { type DeliveryFilter, type DeliveryRow, findDelivery, listDeliveries } from './store.ts'

/** An attempt, and how its answer began, where that was kept. */
export interface AnsweredAttempt extends AttemptRecord {
  readonly answerHead: Uint8Array | undefined
}

export interface AnsweredDelivery extends DeliveryRow {
  readonly attempts: AnsweredAttempt[]
}

/** What became of deliveries, for their tenant to read: everything that is not delivered can be found here. */
export class Deliveries {
  readonly #database: Database
  readonly #dataKeys: DataKeys
  readonly #clock: Clock

  constructor({ database, dataKeys, clock }: { database: Database; dataKeys: DataKeys; clock: Clock }) {
    this.#database = database
    this.#dataKeys = dataKeys
    this.#clock = clock
  }

  list(filter: DeliveryFilter): Promise<DeliveryRow[]> {
    return listDeliveries(this.#database, filter, this.#clock.now())
  }

  /** A delivery of this tenant, or `not_found`; null asks as the deployment's administrator. */
  async get(tenantId: string | null, id: string): Promise<DeliveryRow> {
    const delivery = await findDelivery(this.#database, id, this.#clock.now())
    if (delivery === undefined || (tenantId !== null && delivery.tenantId !== tenantId))
      throw new RelayError('not_found')
    return delivery
  }

  /** With the answers that are kept. */
  async answered(delivery: DeliveryRow): Promise<AnsweredDelivery> {
    const { id, tenantId, attempts } = delivery
    const sealed = await findAnswers(
      this.#database,
      attempts.map((attempt) => attempt.leaf_index),
      this.#clock.now(),
    )
    const dataKey = await this.#dataKeys.get(this.#database, tenantId)
    const byLeaf = new Map(sealed.map((answer) => [answer.leafIndex, answer.sealed]))
    const open = ({ leaf_index, number }: AttemptRecord): Uint8Array | undefined => {
      const kept = byLeaf.get(leaf_index)
      return kept && dataKey.open(kept, answerContext(tenantId, id, number))
    }
    return { ...delivery, attempts: attempts.map((attempt) => ({ ...attempt, answerHead: open(attempt) })) }
  }
}
