/**
 * One embedded PostgreSQL for the whole run, with a template database that has our migrations. Test files clone it
 * (database.ts): a fresh schema each, for a few milliseconds.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pino from 'pino'
import type { TestProject } from 'vitest/node'
import { openSession } from '../../src/adapters/database.ts'
import { startEmbeddedPostgres } from '../../src/adapters/embedded-postgres.ts'
import { migrate } from '../../src/adapters/migrate.ts'
import type { ServerConnection } from './database.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    postgres: ServerConnection
    templateDatabase: string
  }
}

const migrations = fileURLToPath(new URL('../../src/migrations', import.meta.url))
const templateDatabase = 'countersign_template'

export default async function setup(project: TestProject) {
  const dataDir = await mkdtemp(join(tmpdir(), 'countersign-tests-'))
  const postgres = await startEmbeddedPostgres({ dataDir, logger: pino({ level: 'warn' }), settings })
  // Should the run end without teardown, the server must not outlive it: nobody would ever start on this folder again.
  const killServer = () => void (postgres.pid && process.kill(postgres.pid, 'SIGQUIT'))
  process.once('exit', killServer)

  const connection = postgres.connection as ServerConnection
  const session = await openSession(connection)
  await session.query(`create database ${templateDatabase}`)
  await session.close()
  await migrate({ ...connection, database: templateDatabase }, migrations)

  project.provide('postgres', connection)
  project.provide('templateDatabase', templateDatabase)
  return async function teardown() {
    process.removeListener('exit', killServer)
    await postgres.stop() // ends connections that tests leaked
    await rm(dataDir, { recursive: true, force: true })
  }
}

/** Every test file has its own pool, so more connections than one relay needs. */
const settings = { max_connections: '200' }
