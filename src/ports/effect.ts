import type { Transaction, Tx } from './database.ts'

/**
 * A row that is written in the transaction that appends its statement: both exist, or neither does. Rows of one effect
 * are written together, once per batch, by whichever stage owns their table; so the log knows nothing of messages.
 */
export interface Effect<Row> {
  /**
   * Writes the rows of a batch: once it resolves, everything is sent, though not yet answered. Leaves are not committed
   * yet: nothing may leave the process from here. What must follow COMMIT goes into the function returned, which is
   * called once, after it, and must not throw.
   */
  write(tx: Transaction, rows: readonly Sequenced<Row>[], head: Head): Promise<AfterCommit | undefined>

  /**
   * Asked before leaves are given out, under the lock of the head, for each row: may it be appended? `defer` puts it
   * into the next batch, for a row that must see the effect of another row of this one. Not asked for a batch in which
   * no row is in {@link doubt}.
   */
  admit?(tx: Tx, rows: readonly Row[]): Promise<readonly Admission[]>

  /** Whether this row might not be admitted. A batch without doubt needs no question and no answer before it is sent. */
  doubt?(row: Row): boolean
}

export type AfterCommit = () => void

export type Admission = { kind: 'admitted' } | { kind: 'defer' } | Superseded

/** The statement was not appended, because what it would state already happened, as `by` names. */
export interface Superseded {
  readonly kind: 'superseded'
  /** The identifier of what came before. */
  readonly by: string
}

export interface Sequenced<Row> {
  readonly row: Row
  readonly leafIndex: number
}

/** What the lock of the head shows about the deployment. */
export interface Head {
  /** Counts administrative changes; see tenant/directory.ts. */
  readonly configuration: number
}

/** An effect with its row, the two types tied together. */
export interface Bound {
  readonly effect: Effect<unknown>
  readonly row: unknown
}

export const bind = <Row>(effect: Effect<Row>, row: Row): Bound => ({ effect: effect as Effect<unknown>, row })
