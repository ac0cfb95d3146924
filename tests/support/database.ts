import { randomBytes } from 'node:crypto'
import pino from 'pino'
import { inject } from 'vitest'
import {
  type ConnectionParts,
  openDatabase,
  openSession,
  relayRole,
  type Session,
  urlOf,
} from '../../src/adapters/database.ts'
import type { Database, Param } from '../../src/ports/database.ts'

/** A connection by parts, so that a test can put another database, or a proxy's port, in. */
export type ServerConnection = ConnectionParts

export interface TestDatabase {
  readonly connection: ServerConnection
  /** The same as a `postgres://` URL, for what is configured by DATABASE_URL. */
  readonly url: string
  /** A pool on it under the role of the relay, closed by `drop`. */
  readonly database: Database
  /** As the superuser, whom the triggers of the log still stop. */
  superuser<Row = Record<string, unknown>>(text: string, params?: readonly Param[]): Promise<Row[]>
  /** As a superuser who means it: takes the triggers off, changes, and puts them back, in one transaction. */
  tamper(...changes: (readonly [text: string, params?: readonly Param[]])[]): Promise<void>
  /** Works with connections still open, leaked ones included. */
  drop(): Promise<void>
}

/** A fresh database with our schema, for one test file: call in `beforeAll`, and `drop` in `afterAll`. Or a copy of another,
 *  whose connections are ended for that. */
export async function createTestDatabase(template = inject('templateDatabase')): Promise<TestDatabase> {
  const server = inject('postgres')
  const name = `test_${randomBytes(6).toString('hex')}`
  await administer(server, `create database ${name} template ${template}`, template)
  const connection = { ...server, database: name }
  const database = openDatabase({ connection, poolSize: 8, role: relayRole, logger: silentLogger })
  return {
    connection,
    url: urlOf(connection),
    database,
    superuser: (text, params) => inSession(connection, (session) => session.query(text, params)),
    tamper: (...changes) =>
      inSession(connection, async (session) => {
        const triggers = (state: string) =>
          guarded.map((table) => `alter table ${table} ${state} trigger append_only`).join('; ')
        await session.query(`begin; ${triggers('disable')}`)
        for (const [text, params] of changes) await session.query(text, params)
        await session.query(`${triggers('enable always')}; commit`)
      }),
    async drop() {
      // Not waited for: closing waits for connections that a failed test never gave back, and `force` ends those.
      database.close().catch(() => {})
      await administer(server, `drop database ${name} with (force)`)
    },
  }
}

export const silentLogger = pino({ level: 'silent' })

/** The tables whose rows nobody changes. */
const guarded = [
  ...['statements', 'messages', 'payloads', 'idempotency_keys', 'settled_deliveries', 'answers'],
  ...['tiles', 'entry_bundles'],
]

/** PostgreSQL copies only a database that nobody is connected to. */
const endConnections = `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`

const administer = (server: ServerConnection, statement: string, alone?: string) =>
  inSession(server, async (session) => {
    if (alone !== undefined) await session.query(endConnections, [alone])
    await session.query(statement)
  })

async function inSession<T>(connection: ServerConnection, work: (session: Session) => Promise<T>): Promise<T> {
  const session = await openSession(connection)
  try {
    return await work(session)
  } finally {
    await session.close()
  }
}
