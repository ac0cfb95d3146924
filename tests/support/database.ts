import { randomBytes } from 'node:crypto'
import pino from 'pino'
import { inject } from 'vitest'
import { type ConnectionParts, openDatabase, openSession, urlOf } from '../../src/adapters/database.ts'
import type { Database } from '../../src/ports/database.ts'

/** A connection by parts, so that a test can put another database, or a proxy's port, in. */
export type ServerConnection = ConnectionParts

export interface TestDatabase {
  readonly connection: ServerConnection
  /** The same as a `postgres://` URL, for what is configured by DATABASE_URL. */
  readonly url: string
  /** A pool on it, closed by `drop`. */
  readonly database: Database
  /** Works with connections still open, leaked ones included. */
  drop(): Promise<void>
}

/** A fresh database with our schema, for one test file: call in `beforeAll`, and `drop` in `afterAll`. */
export async function createTestDatabase(): Promise<TestDatabase> {
  const server = inject('postgres')
  const name = `test_${randomBytes(6).toString('hex')}`
  await administer(server, `create database ${name} template ${inject('templateDatabase')}`)
  const connection = { ...server, database: name }
  const database = openDatabase({ connection, poolSize: 8, logger: silentLogger })
  return {
    connection,
    url: urlOf(connection),
    database,
    async drop() {
      // Not waited for: closing waits for connections that a failed test never gave back, and `force` ends those.
      database.close().catch(() => {})
      await administer(server, `drop database ${name} with (force)`)
    },
  }
}

export const silentLogger = pino({ level: 'silent' })

async function administer(server: ServerConnection, statement: string) {
  const session = await openSession(server)
  try {
    await session.query(statement)
  } finally {
    await session.close()
  }
}
