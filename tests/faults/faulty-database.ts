import {
  CommitUnknown,
  type Database,
  DatabaseUnavailable,
  type Listening,
  type Param,
  type Transaction,
  type Tx,
} from '../../src/ports/database.ts'

/** What goes wrong, once, at the write that `at` recognises by a piece of its SQL; `commit` is COMMIT itself. */
export interface Fault {
  readonly at: string
  /** lost: the connection ends before it · refused: PostgreSQL answers with an error · persisted: it happens, and the
   *  connection ends before the answer (only COMMIT can, since nothing before it is kept) */
  readonly how: 'lost' | 'refused' | 'persisted'
  /** Only once the next batch is under way behind the one that is struck. */
  readonly followed?: boolean
}

/** A real database that fails once, at a chosen write, in a chosen way. Everything before and after is real. */
export class FaultyDatabase implements Database {
  readonly #real: Database
  #fault: Fault | undefined
  /** How many faults happened. */
  struck = 0
  /** Batches that were sent while another was under way. */
  followers = 0
  /** Transactions that were refused or lost. */
  failed = 0
  /** Batches that have sent their statements, ever. */
  #batches = 0
  #onBatch: (() => void)[] = []

  constructor(real: Database) {
    this.#real = real
  }

  strike(fault: Fault): void {
    this.#fault = fault
  }

  query<Row>(text: string, params?: readonly Param[]): Promise<Row[]> {
    return this.#real.query<Row>(text, params)
  }

  readAs<T>(tenantId: string, work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.#real.readAs(tenantId, work)
  }

  async transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    try {
      return await this.#transaction(work)
    } catch (error) {
      this.failed += 1
      throw error
    }
  }

  async #transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    let persisted = false
    const value = await this.#real.transaction(async (tx) => {
      let lost = false
      let followed: Promise<void> | undefined
      const value = await work({
        query: (text, params) => this.#query(tx, text, params),
        send: (text, params) => {
          if (text.includes('insert into statements')) this.#countBatch()
          if (text === 'select from log for update') this.followers += 1
          if (lost) return // nothing reaches PostgreSQL any more
          const awaited = this.#fault?.followed
          const how = this.#strikes(text)
          if (how !== undefined && awaited) followed = this.#anotherBatch()
          if (how === 'lost') lost = true
          else tx.send(how === 'refused' ? refusedSql : text, how === 'refused' ? [] : params)
        },
      })
      await followed
      if (lost) throw new DatabaseUnavailable('injected: the connection ended')
      const fault = this.#fault
      // A batch yields nothing; reading back yields whether it landed.
      if (fault?.at !== 'commit' || value !== undefined) return value
      this.#take()
      if (fault.followed) await this.#anotherBatch()
      if (fault.how === 'lost') throw new CommitUnknown('injected: COMMIT was sent and did not arrive')
      persisted = true
      return value
    })
    if (persisted) throw new CommitUnknown('injected: COMMIT arrived and its answer did not')
    return value
  }

  listen(channel: string, onNotice: () => void): Listening {
    return this.#real.listen(channel, onNotice)
  }

  close(): Promise<void> {
    return this.#real.close()
  }

  async #query<Row>(tx: Tx, text: string, params?: readonly Param[]): Promise<Row[]> {
    const how = this.#strikes(text)
    if (how === 'lost') throw new DatabaseUnavailable('injected: the connection ended')
    return how === 'refused' ? tx.query<Row>(refusedSql) : tx.query<Row>(text, params)
  }

  /** How this statement is to fail, if it is. */
  #strikes(text: string): Fault['how'] | undefined {
    const fault = this.#fault
    if (fault === undefined || fault.at === 'commit' || !text.includes(fault.at)) return undefined
    this.#take()
    return fault.how
  }

  #countBatch(): void {
    this.#batches += 1
    for (const resolve of this.#onBatch.splice(0)) resolve()
  }

  /** Resolves when a batch that has not sent its statements yet sends them. */
  async #anotherBatch(): Promise<void> {
    const before = this.#batches
    while (this.#batches === before) await new Promise<void>((resolve) => this.#onBatch.push(resolve))
  }

  #take(): void {
    this.#fault = undefined
    this.struck += 1
  }
}

/** What PostgreSQL refuses, it refuses really. */
const refusedSql = `select 'no number'::integer`
