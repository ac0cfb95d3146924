import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { Acts } from './acts.ts'
import { dropPartition, type ExpiredPartition, expiredPartitions, type Partitions } from './partitions.ts'
import { leastRetention, payloadExpiry, type Retention, statementExpiry } from './retention.ts'

/** One process at a time drops. Any constant will do. */
const runLock = `select pg_try_advisory_xact_lock(4857264074) as "locked"`

/** Partitions are made this long before they are needed. */
const aheadMs = 28 * 86_400_000

/**
 * Ends what is kept for a time: whole months of it, each stated in the log in the transaction that drops it. Entries,
 * tiles, checkpoints and public keys stay for ever, so whatever was issued still verifies.
 */
export class RetentionRun {
  readonly #database: Database
  readonly #acts: Acts
  readonly #partitions: Partitions
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #retentions: () => Promise<Retention[]>
  readonly #giveUp: () => Promise<void>

  constructor(parts: {
    database: Database
    acts: Acts
    partitions: Partitions
    clock: Clock
    logger: Logger
    /** What tenants chose, each once. */
    retentions: () => Promise<Retention[]>
    /** Abandons the deliveries that cannot be made any more, so that they do not hold the month of their message. */
    giveUp: () => Promise<void>
  }) {
    this.#database = parts.database
    this.#acts = parts.acts
    this.#partitions = parts.partitions
    this.#clock = parts.clock
    this.#logger = parts.logger
    this.#retentions = parts.retentions
    this.#giveUp = parts.giveUp
  }

  /** Makes the months ahead and drops those that are over. Every process may ask; one at a time acts. */
  async tick(): Promise<void> {
    await this.#prepare()
    await this.#database.transaction(async (tx) => {
      const [row] = await tx.query<{ locked: boolean }>(runLock)
      if (row?.locked !== true) return
      await this.#giveUp()
      const expired = await expiredPartitions(this.#database, this.#clock.now())
      for (const partition of expired) await this.#drop(partition)
    })
  }

  /** This month's partitions and the next one's, so that no message waits for its partition when the month turns. */
  async #prepare(): Promise<void> {
    const now = this.#clock.now()
    for (const retention of [leastRetention, ...(await this.#retentions())]) {
      for (const at of [now, new Date(now.getTime() + aheadMs)]) {
        for (const table of ['payloads', 'answers'] as const) {
          await this.#partitions.ready(table, payloadExpiry(at, retention))
        }
        await this.#partitions.ready('idempotency_keys', payloadExpiry(at, leastRetention)) // both are kept for 30 days
        for (const table of ['messages', 'settled_deliveries', 'statements'] as const) {
          await this.#partitions.ready(table, statementExpiry(at, retention))
        }
      }
    }
  }

  async #drop(partition: ExpiredPartition): Promise<void> {
    const { table, month, rows, firstLeaf, lastLeaf, heldBy } = partition
    const expiredBefore = new Date(Date.UTC(month.getUTCFullYear(), month.getUTCMonth() + 1, 1)).toISOString()
    const facts = { table, expiredBefore, rows, firstLeaf, lastLeaf }
    if (heldBy !== null) return this.#logger.warn({ ...facts, heldBy }, 'retention.postponed')
    const leaves = firstLeaf !== null && lastLeaf !== null && { first_leaf: firstLeaf, last_leaf: lastLeaf }
    await this.#acts.perform(
      { kind: 'retention.applied', sub: table, expired_before: expiredBefore, rows, ...leaves },
      (tx) => dropPartition(tx, partition),
    )
    this.#logger.info(facts, 'retention.applied')
  }
}
