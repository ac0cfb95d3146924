import { RelayError } from '../errors.ts'
import { CommitUnknown, type Database, DatabaseUnavailable, type Tx } from '../ports/database.ts'

/** What is kept for a time and then dropped by the month (src/migrations/0007_roles.sql). */
export type Partitioned = 'statements' | 'messages' | 'payloads' | 'idempotency_keys' | 'settled_deliveries' | 'answers'

/**
 * The monthly partitions that rows are written into, by the month in which they expire. They are made ahead of time; and
 * should that not have happened, at need: a missing partition must never refuse a message.
 */
export class Partitions {
  readonly #database: Database
  readonly #made = new Set<string>()
  readonly #making = new Map<string, Promise<void>>()

  constructor(database: Database) {
    this.#database = database
  }

  /** Resolves once rows of `table` that expire at `expiresAt` have their place; undefined: they have it already. Rejects
   *  with `storage_unavailable` where the database cannot be reached. */
  ready(table: Partitioned, expiresAt: Date): Promise<void> | undefined {
    const name = `${table} ${monthNumber(expiresAt)}`
    if (this.#made.has(name)) return undefined
    let making = this.#making.get(name)
    if (making === undefined) {
      making = this.#database
        .transaction((tx) => makePartition(tx, table, expiresAt))
        .then(
          () => void this.#made.add(name),
          (cause: unknown) => {
            // Nothing is appended before its partition is there. Whether this one is now will be seen by making it again.
            if (!(cause instanceof DatabaseUnavailable || cause instanceof CommitUnknown)) throw cause
            throw new RelayError('storage_unavailable', { cause, retryAfterS: 1 })
          },
        )
        .finally(() => this.#making.delete(name))
      this.#making.set(name, making)
    }
    return making
  }
}

const make = `select make_partition($1, $2::date)`

/** Does nothing where it is there already. */
export async function makePartition(tx: Tx, table: Partitioned, expiresAt: Date): Promise<void> {
  await tx.query(make, [table, monthOf(expiresAt)])
}

/** Months since the year 0, UTC: cheap enough to ask for each row. */
const monthNumber = (at: Date): number => at.getUTCFullYear() * 12 + at.getUTCMonth()

/** The first day of the month, UTC. */
const monthOf = (at: Date): string => `${at.toISOString().slice(0, 7)}-01`

/** A month that is over, with what is in it. */
export interface ExpiredPartition {
  readonly table: Partitioned
  /** Its first day: every row expired within the month. */
  readonly month: Date
  readonly rows: number
  readonly firstLeaf: number | null
  readonly lastLeaf: number | null
  /** Why it must stay for now: leaves that are in no full bundle of entries yet, or a message that is still owed. */
  readonly heldBy: 'bundle' | 'delivery' | null
}

const selectExpired = `
  select parent as "table", month::timestamp at time zone 'UTC' as month, row_count as rows,
         first_leaf as "firstLeaf", last_leaf as "lastLeaf", held_by as "heldBy"
    from expired_partitions($1)`

/** The months that were over at `now`, oldest first; never one that is not over by the clock of the database. */
export const expiredPartitions = (tx: Tx, now: Date): Promise<ExpiredPartition[]> => tx.query(selectExpired, [now])

const drop = `select drop_partition($1, $2::date)`

/** Drops it whole. Rejects if it is not over, or held. */
export const dropPartition = (tx: Tx, { table, month }: ExpiredPartition): Promise<unknown> =>
  tx.query(drop, [table, monthOf(month)])
