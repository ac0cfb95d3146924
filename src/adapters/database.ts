/**
 * PostgreSQL behind the {@link Database} port, and the only file that imports `pg`.
 *
 * A transaction is: take a connection, BEGIN, the caller's statements, COMMIT. What matters is what is known when it
 * goes wrong, and there are only three answers: PostgreSQL refused a statement (its error passes through, rolled back);
 * the connection ended before COMMIT was sent (DatabaseUnavailable: nothing happened); it ended after (CommitUnknown:
 * read back). Connections are pipelined: statements issued without waiting for each other share a round trip, and those
 * whose answers nobody needs one by one share one answer ({@link Pipelined}).
 */

import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import type { BaseLogger } from 'pino'
import { OperatorError } from '../errors.ts'
import {
  CommitUnknown,
  type Database,
  DatabaseUnavailable,
  type Listening,
  type Param,
  type Transaction,
  type Tx,
} from '../ports/database.ts'
import { encodeParam } from './encode-param.ts'

/** Where PostgreSQL is: a `postgres://` URL, or a host, which may be the folder of a unix socket. */
export type Connection = { readonly connectionString: string } | ConnectionParts

export interface ConnectionParts {
  readonly host: string
  readonly port?: number
  readonly user: string
  readonly password: string
  readonly database: string
}

/** The same as a URL, for a process that is told by DATABASE_URL. A socket folder goes into the query, where pg and
 *  libpq look for it. */
export function urlOf({ host, port = 5432, user, password, database }: ConnectionParts): string {
  const parameters = new URLSearchParams({ host, port: String(port) })
  return `postgresql://${user}:${encodeURIComponent(password)}@/${database}?${parameters}`
}

export interface DatabaseOptions {
  readonly connection: Connection
  /** Connections held at most. */
  readonly poolSize: number
  /** Under which role statements run, from the first byte on; the login's own where absent (migrations, tests). */
  readonly role?: string
  readonly logger: Pick<BaseLogger, 'info' | 'warn'>
}

/** What the relay may do, and no more: src/migrations/0007_roles.sql. */
export const relayRole = 'countersign_relay'

/** Opens a pool. Connects on first use, so this cannot fail; {@link checkDurability} is the natural first use. */
export function openDatabase(options: DatabaseOptions): Database {
  return new PostgresDatabase(options)
}

const connectTimeoutMs = 5_000
const statementTimeoutMs = 30_000
const idleConnectionMs = 300_000
const listenAgainMs = 1_000
const maxTexts = 1_000
const applicationName = 'countersign'
const becomeReader = `
  select set_config('role', 'countersign_reader', true), set_config('countersign.tenant', $1, true)`

class PostgresDatabase implements Database {
  readonly #connection: Connection
  readonly #pool: pg.Pool
  readonly #listening = new Set<Listening>()
  readonly #logger: DatabaseOptions['logger']
  readonly #names = new Map<string, string>()
  readonly #prepared = new WeakMap<pg.ClientBase, Set<string>>() // names of statements that the connection knows
  readonly #unfit = new WeakSet<pg.ClientBase>() // connections that must not be used again
  #down = false
  #closing: Promise<void> | undefined

  constructor({ connection, poolSize, role, logger }: DatabaseOptions) {
    this.#logger = logger
    this.#connection = connection
    this.#pool = new pg.Pool({
      ...connection,
      max: poolSize,
      application_name: applicationName,
      connectionTimeoutMillis: connectTimeoutMs, // covers the wait for a free connection, too
      idleTimeoutMillis: idleConnectionMs,
      statement_timeout: statementTimeoutMs,
      // Every statement of ours finds its rows by an index. But one that was planned while its table was empty would go
      // on reading the table whole when it is not: measured, that tripled what recording an attempt cost.
      options: `-c enable_seqscan=off${role === undefined ? '' : ` -c role=${role}`}`,
      idle_in_transaction_session_timeout: statementTimeoutMs,
      // The server's own timeouts do not reach us over a dead network path. Then this one destroys the connection.
      query_timeout: statementTimeoutMs + 5_000,
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      pipeline: true,
      types: { getTypeParser },
    })
    // An error event without a listener ends the process. The pool listens to idle clients only; so each client gets
    // a listener for life.
    this.#pool.on('connect', (client) => {
      client.on('error', () => this.#unfit.add(client))
      if (this.#down) this.#logger.info('database.back')
      this.#down = false
    })
    this.#pool.on('error', (error) => this.#noteLoss(error))
  }

  async query<Row>(text: string, params?: readonly Param[]): Promise<Row[]> {
    const client = await this.#connect()
    // The statement commits by itself, so once it is on its way only one that cannot write is certain to have done
    // nothing. (A `select` that calls a writing function is not: it belongs in a transaction.)
    const Lost = /^\s*select\b/i.test(text) ? DatabaseUnavailable : CommitUnknown
    try {
      const { rows } = await this.#unlessLost(
        this.#ask(client, new Pipelined([], this.#statement(text, params))),
        client,
        Lost,
      )
      return rows as Row[]
    } finally {
      client.release(this.#unfit.has(client))
    }
  }

  async transaction<T>(work: (tx: Transaction) => Promise<T>): Promise<T> {
    const client = await this.#connect()
    const ahead: Statement[] = [] // travel with the next question
    const asked: Promise<unknown>[] = []
    let opening: Pipelined | undefined // the question that BEGIN travels with
    let open = true
    let refused: { error: unknown; lost: boolean } | undefined // by the first statement that failed
    const ask = async (statement: Statement, Lost: typeof CommitUnknown | typeof DatabaseUnavailable) => {
      const question = new Pipelined(ahead.splice(0), statement)
      opening ??= question
      const answer = this.#unlessLost(this.#ask(client, question), client, Lost)
      asked.push(answer.catch((error: unknown) => (refused ??= { error, lost: this.#unfit.has(client) })))
      return answer
    }
    const send = (statement: Statement) => {
      if (this.#prepared.get(client)?.has(statement.name)) ahead.push(statement)
      else ask(statement, DatabaseUnavailable).catch(() => {}) // heard of below
    }
    const tx: Transaction = {
      query: async <Row>(text: string, params?: readonly Param[]) => {
        if (!open) throw new TypeError('a statement was sent after its transaction had ended')
        return (await ask(this.#statement(text, params), DatabaseUnavailable)).rows as Row[]
      },
      send: (text, params) => {
        if (!open) throw new TypeError('a statement was sent after its transaction had ended')
        send(this.#statement(text, params))
      },
    }
    try {
      send(begin)
      const result = await work(tx)
      open = false
      if (this.#unfit.has(client)) throw new DatabaseUnavailable('the connection was lost before COMMIT')
      const { command } = await ask(commit, CommitUnknown)
      await Promise.all(asked)
      // PostgreSQL answers COMMIT with ROLLBACK, and no error, when a statement before it failed.
      if (command !== 'COMMIT' || refused !== undefined) throw new TypeError('rolled back, and no statement says why')
      client.release()
      return result
    } catch (error) {
      open = false
      await Promise.all(asked)
      await this.#ask(client, new Pipelined([], rollback)).catch(() => this.#unfit.add(client))
      client.release(this.#unfit.has(client))
      // BEGIN is not waited for. Should PostgreSQL refuse it (a cancel can hit it), it skips what travelled with it; but
      // what was sent behind that ran outside any transaction, and only reading back tells what it did.
      const lost = refused?.error instanceof DatabaseUnavailable && refused.lost
      if (opening?.completed === 0 && asked.length > 1 && !lost) {
        throw new CommitUnknown('BEGIN was refused after more was sent', { cause: refused?.error })
      }
      throw refused !== undefined && !(error instanceof CommitUnknown) ? refused.error : error
    }
  }

  readAs<T>(tenantId: string, work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.transaction(async (tx) => {
      tx.send('set transaction isolation level repeatable read read only')
      tx.send(becomeReader, [tenantId]) // both end with the transaction; row-level security does the rest
      return work(tx)
    })
  }

  listen(channel: string, onNotice: () => void): Listening {
    if (!/^[a-z_]{1,63}$/.test(channel)) throw new TypeError(`${channel} is no channel`)
    let ended = false
    let session: pg.Client | undefined
    const hear = async () => {
      while (!ended) {
        const client = new pg.Client({ ...this.#connection, application_name: applicationName, keepAlive: true })
        const over = new Promise<void>((resolve) => client.once('end', resolve))
        client.on('error', () => {}) // followed by 'end'
        client.on('notification', onNotice)
        try {
          await client.connect()
          session = client
          if (ended)
            await client.end() // closed while it was connecting
          else {
            await client.query(`listen ${channel}`)
            onNotice()
            await over
          }
        } catch {
          client.end().catch(() => {})
        }
        session = undefined
        if (!ended) await delay(listenAgainMs, undefined, { signal: stopping.signal }).catch(() => {})
      }
    }
    const stopping = new AbortController()
    const hearing = hear()
    const listening = {
      close: async () => {
        ended = true
        stopping.abort()
        await session?.end().catch(() => {})
        await hearing
        this.#listening.delete(listening)
      },
    }
    this.#listening.add(listening)
    return listening
  }

  close(): Promise<void> {
    const all = () => Promise.all([this.#pool.end(), ...[...this.#listening].map((listening) => listening.close())])
    this.#closing ??= all().then(() => {})
    return this.#closing
  }

  async #connect(): Promise<pg.PoolClient> {
    try {
      return await this.#pool.connect()
    } catch (error) {
      this.#noteLoss(error)
      throw new DatabaseUnavailable('no connection to PostgreSQL could be had', { cause: error })
    }
  }

  /** Each text becomes one named statement, parsed and planned once per connection. */
  #statement(text: string, params: readonly Param[] = []): Statement {
    let name = this.#names.get(text)
    if (name === undefined) {
      if (this.#names.size >= maxTexts) throw new TypeError(`more than ${maxTexts} texts: a text must be a constant`)
      name = `s${this.#names.size}`
      this.#names.set(text, name)
    }
    return { name, text, values: params.map(encodeParam) }
  }

  async #ask(client: pg.PoolClient, question: Pipelined): Promise<pg.QueryResult> {
    client.query(question)
    const result = await question.answer
    const prepared = this.#prepared.get(client)
    if (prepared === undefined) this.#prepared.set(client, new Set([question.statement.name]))
    else prepared.add(question.statement.name)
    return result
  }

  /** Passes PostgreSQL's answer on, errors included; turns the end of the connection into `Lost`. A server without room is
   *  no server for now, though the connection holds: whoever asks shall come again. */
  async #unlessLost<T>(
    answer: Promise<T>,
    client: pg.PoolClient,
    Lost: typeof CommitUnknown | typeof DatabaseUnavailable,
  ) {
    try {
      return await answer
    } catch (error) {
      if (error instanceof Error) Error.captureStackTrace(error) // which now leads to who asked, not to the socket
      if (spoilsConnection(error)) this.#unfit.add(client)
      if (lacksRoom(error)) throw new DatabaseUnavailable('PostgreSQL has no room for it', { cause: error })
      if (!endsConnection(error)) throw error
      this.#unfit.add(client)
      this.#noteLoss(error)
      throw new Lost('the connection to PostgreSQL was lost', { cause: error })
    }
  }

  /** Logs that the database went away, once until it is back. */
  #noteLoss(error: unknown) {
    if (!this.#down && !this.#closing) this.#logger.warn({ err: error }, 'database.lost')
    this.#down = true
  }
}

/** A text under the name by which a connection knows it once it was parsed there. */
interface Statement {
  readonly name: string
  readonly text: string
  readonly values: (string | Buffer | null)[]
}

// Under names that can be told on the wire: tests cut it there.
const begin: Statement = { name: 'begin', text: 'begin isolation level read committed', values: [] }
const commit: Statement = { name: 'commit', text: 'commit', values: [] }
const rollback: Statement = { name: 'rollback', text: 'rollback', values: [] }

/** What pg's types leave out of its Query: how it speaks to PostgreSQL, and hears from it. */
interface Conversation {
  prepare(connection: pg.Connection): void
  handleDataRow(message: unknown): void
  handleCommandComplete(message: unknown, connection: pg.Connection): void
}

const Question = pg.Query as unknown as new (
  statement: Statement,
  onAnswer: (error: Error | null, result: pg.QueryResult) => void,
) => pg.Query & Conversation

/**
 * A statement, with others `ahead` of it, as one message: PostgreSQL carries all of them out before it says that it is
 * ready, and the first that it refuses has the rest skipped. A packet each way, one promise and one timer for a whole
 * batch cost both sides a good deal less than a dozen. Those ahead must be prepared; their rows are dropped.
 */
class Pipelined extends Question {
  readonly statement: Statement
  readonly answer: Promise<pg.QueryResult>
  /** Of the statements: how many were carried out. */
  completed = 0
  readonly #ahead: readonly Statement[]

  constructor(ahead: readonly Statement[], statement: Statement) {
    const { promise, resolve, reject } = Promise.withResolvers<pg.QueryResult>()
    super(statement, (error, result) => (error === null ? resolve(result) : reject(error)))
    this.statement = statement
    this.answer = promise
    this.#ahead = ahead
  }

  override prepare(connection: pg.Connection): void {
    for (const { name, values } of this.#ahead) {
      connection.bind({ statement: name, values }, true)
      connection.execute(null, true)
    }
    super.prepare(connection)
  }

  override handleDataRow(message: unknown): void {
    if (this.completed === this.#ahead.length) super.handleDataRow(message)
  }

  override handleCommandComplete(message: unknown, connection: pg.Connection): void {
    if (this.completed === this.#ahead.length) super.handleCommandComplete(message, connection)
    this.completed++
  }
}

/** Whether this rejection by pg means that the connection is over. PostgreSQL says so with a code before it hangs up;
 *  TypeError and RangeError are our own mistakes about a value; what remains is the socket speaking. */
function endsConnection(error: unknown): boolean {
  if (error instanceof pg.DatabaseError) return /^(08|57P0[1-5]|25P0[34])/.test(error.code ?? '')
  return !(error instanceof TypeError || error instanceof RangeError)
}

/** Class 53, insufficient resources: the disk is full, or memory. The transaction is rolled back. 58030 is the disk, too. */
function lacksRoom(error: unknown): boolean {
  return error instanceof pg.DatabaseError && /^(53|58030)/.test(error.code ?? '')
}

/** Whether this connection's prepared statements have become useless: a migration changed the columns of `select *`
 *  (0A000), or something between us and the server dropped them (26000). A fresh connection knows better. */
function spoilsConnection(error: unknown): boolean {
  return error instanceof pg.DatabaseError && (error.code === '0A000' || error.code === '26000')
}

/** One connection outside any pool: for locks that live as long as it, and for scripts of several statements. */
export interface Session {
  /** Runs `text` as is. Without `params` it may hold several statements; then no rows come back. */
  query<Row = Record<string, unknown>>(text: string, params?: readonly Param[]): Promise<Row[]>
  /** Settles when the connection is over, for whatever reason, and with it every lock it held. */
  readonly ended: Promise<void>
  close(): Promise<void>
}

/** Rejects with pg's error when no connection can be had within 5 s. `name` shows up in pg_stat_activity. */
export async function openSession(connection: Connection, name = applicationName): Promise<Session> {
  const client = new pg.Client({
    ...connection,
    application_name: name,
    connectionTimeoutMillis: connectTimeoutMs,
    keepAlive: true,
    types: { getTypeParser },
  })
  const ended = new Promise<void>((resolve) => client.once('end', resolve))
  client.on('error', () => {}) // followed by 'end', which `ended` tells
  await client.connect()
  return {
    async query<Row>(text: string, params: readonly Param[] = []) {
      const result = await client.query(text, params.map(encodeParam))
      return (result.rows ?? []) as Row[]
    },
    ended,
    close: () => client.end(),
  }
}

/** What keeps the relay from starting, for the operator to read. `code` is what tests and scripts match on. */
export class StartupRefused extends OperatorError {
  override readonly name = 'StartupRefused'
  readonly code: StartupRefusal

  constructor(code: StartupRefusal, message: string, options?: ErrorOptions) {
    super(message, options)
    this.code = code
  }
}

export type StartupRefusal =
  | 'database_not_durable'
  | 'database_too_old'
  | 'database_role_missing'
  | 'migration_changed'
  | 'migration_invalid'
  | 'schema_newer'
  | 'data_folder_in_use'
  | 'postgres_not_startable'
  | 'postgres_unsupported_platform'
  | 'socket_folder_unsafe'

/** A login that may not act under the relay's role must not act at all: under its own name it could change the log. */
export async function checkRole(database: Database): Promise<void> {
  const advice = `src/migrations/0007_roles.sql says which roles there are: grant them to the login of DATABASE_URL`
  const [row] = await database.query<{ role: string }>('select current_user as role').catch((error: unknown) => {
    // Insufficient privilege, or no such role, is how PostgreSQL refuses the connection.
    const refusal = error instanceof DatabaseUnavailable ? error.cause : undefined
    if (!(refusal instanceof pg.DatabaseError && /^(42501|22023)$/.test(refusal.code ?? ''))) throw error
    throw new StartupRefused('database_role_missing', `${refusal.message}; ${advice}`, { cause: error })
  })
  if (row?.role === relayRole) return
  throw new StartupRefused(
    'database_role_missing',
    `PostgreSQL runs us as ${row?.role}, not as ${relayRole}; ${advice}`,
  )
}

const oldestVersion = 15

/**
 * Makes sure that what PostgreSQL acknowledges is on disk (DESIGN.md section 3, rule 11).
 * Rejects with {@link StartupRefused} when it is not, or when the server is older than 15. Missing page checksums are
 * only a warning: they find a disk's lies, they do not make a commit durable.
 */
export async function checkDurability(database: Database, logger: DatabaseOptions['logger']): Promise<void> {
  const rows = await database.query<{ name: string; setting: string }>(
    `select name, setting from pg_settings
     where name in ('fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums', 'server_version_num')`,
  )
  const settings = new Map(rows.map(({ name, setting }) => [name, setting]))
  const version = Math.floor(Number(settings.get('server_version_num')) / 10_000)
  if (!(version >= oldestVersion)) {
    throw new StartupRefused(
      'database_too_old',
      `PostgreSQL ${version} is too old: ${oldestVersion} or later is needed`,
    )
  }
  // `local` and `off` acknowledge what a failover, or a power cut, takes back.
  const durable = {
    fsync: ['on'],
    full_page_writes: ['on'],
    synchronous_commit: ['on', 'remote_write', 'remote_apply'],
  }
  for (const [name, accepted] of Object.entries(durable)) {
    const setting = settings.get(name) ?? 'unknown'
    if (accepted.includes(setting)) continue
    const wanted = accepted.join(' or ')
    throw new StartupRefused('database_not_durable', `PostgreSQL runs with ${name} = ${setting}; it must be ${wanted}`)
  }
  if (settings.get('data_checksums') !== 'on') logger.warn('database.checksums_off')
}

/** bigint as number, refusing what a number cannot hold; everything else as pg does it. jsonb goes through JSON.parse:
 *  it is our own, and its member names need no escapes, which are what Node 26 gets wrong (nodejs/node#63785). */
function getTypeParser(oid: number, format?: 'text' | 'binary') {
  if (format !== 'binary' && oid === int8Oid) return parseInt8
  if (format !== 'binary' && oid === int8ArrayOid) return parseInt8Array
  return pg.types.getTypeParser(oid, format)
}

const int8Oid = 20
const int8ArrayOid = 1016

function parseInt8(text: string): number {
  const value = Number(text)
  if (!Number.isSafeInteger(value)) throw new RangeError(`bigint ${text} lies beyond ±(2^53−1)`)
  return value
}

function parseInt8Array(text: string): (number | null)[] {
  if (text === '{}') return []
  return Array.from(text.slice(1, -1).split(','), (item) => (item === 'NULL' ? null : parseInt8(item)))
}
