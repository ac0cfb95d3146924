/** What a stage may ask of PostgreSQL. The stages write their own SQL; the adapter owns connections and encodings. */
export interface Database extends Tx {
  /** Runs one statement in its own transaction. */
  query<Row = Record<string, unknown>>(text: string, params?: readonly Param[]): Promise<Row[]>

  /**
   * Runs `work` in one READ COMMITTED transaction and commits it. COMMIT is sent as soon as `work` resolves, behind
   * whatever {@link Tx.send} still has on its way: a transaction that only sends takes one round trip.
   * Rejects with the error of `work` after rolling back; with {@link CommitUnknown} when the connection was lost after
   * COMMIT was sent and before it was answered (the caller must read back: never repeat blindly); with
   * {@link DatabaseUnavailable} when the connection was lost earlier or none could be had, and nothing was committed.
   */
  transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T>

  /** Runs `work` in one read-only transaction that sees one snapshot, and of the rows that belong to a tenant only
   *  those of `tenantId`. Rejects as {@link Database.transaction} does. */
  readAs<T>(tenantId: string, work: (tx: Tx) => Promise<T>): Promise<T>

  /**
   * Calls `onNotice` for each NOTIFY on `channel`, over a connection of its own; and whenever that connection stands
   * again, since what was said meanwhile went unheard. Notices are hints: whoever needs certainty polls as well.
   */
  listen(channel: string, onNotice: () => void): Listening

  close(): Promise<void>
}

export interface Listening {
  close(): Promise<void>
}

/** Where a statement can be asked: a transaction, or the database itself. */
export interface Tx {
  /** Each distinct `text` is prepared once per connection, so `text` must be a constant. Rows have column names as
   *  keys: bytea as Uint8Array, bigint and integer as number (the adapter throws beyond 2^53−1), timestamptz as Date,
   *  jsonb parsed, text as string. */
  query<Row = Record<string, unknown>>(text: string, params?: readonly Param[]): Promise<Row[]>
}

/** A transaction under way. */
export interface Transaction extends Tx {
  /** Sends a statement whose rows nobody needs, together with the next query or with COMMIT. If PostgreSQL refuses it, the
   *  transaction is rolled back and rejects with its error, as the first one that failed. */
  send(text: string, params?: readonly Param[]): void
}

export type Param = string | number | boolean | Date | Uint8Array | null | ArrayParam

/** A whole column for `unnest`, sent in PostgreSQL's binary array format: no text escapes on the hot path. */
export type ArrayParam =
  | { readonly array: 'bytea'; readonly values: readonly (Uint8Array | null)[] }
  | { readonly array: 'text'; readonly values: readonly (string | null)[] }
  | { readonly array: 'int8'; readonly values: readonly (number | null)[] }
  | { readonly array: 'timestamptz'; readonly values: readonly (Date | null)[] }

export const byteaArray = (values: readonly (Uint8Array | null)[]): ArrayParam => ({ array: 'bytea', values })
export const textArray = (values: readonly (string | null)[]): ArrayParam => ({ array: 'text', values })
export const int8Array = (values: readonly (number | null)[]): ArrayParam => ({ array: 'int8', values })
export const timestamptzArray = (values: readonly (Date | null)[]): ArrayParam => ({ array: 'timestamptz', values })

/** The connection was lost, or none could be had, or the server has no room left; and nothing was committed. */
export class DatabaseUnavailable extends Error {
  override readonly name = 'DatabaseUnavailable'
}

/** The connection was lost between sending COMMIT and its answer. Read back before doing anything else. */
export class CommitUnknown extends Error {
  override readonly name = 'CommitUnknown'
}
