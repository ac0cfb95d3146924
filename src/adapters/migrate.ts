/**
 * Brings the schema up to date: plain numbered SQL files, each applied once, in order, in a transaction of its own.
 *
 * Processes that start together queue at one advisory lock, and whoever comes second finds nothing left to do. What
 * has been applied is never edited and never undone: a file that changed since is refused, and so is a schema that a
 * newer program made.
 */
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Connection, openSession, type Session, StartupRefused } from './database.ts'

interface Migration {
  /** Counts from 1, without gaps. */
  readonly version: number
  readonly name: string
  readonly text: string
  /** Of the file, in hex. */
  readonly sha256: string
}

/**
 * Applies what is missing from `folder` and returns the names applied, in order.
 * Rejects with {@link StartupRefused}: `migration_invalid` (a file's name or number), `migration_changed` (an applied
 * file is not what it was), `schema_newer` (this program is older than the schema), `database_role_missing` (the login may
 * not do what a file needs, and the message says what an administrator must run); or with PostgreSQL's own error,
 * after rolling back the file it came from.
 */
export async function migrate(connection: Connection, folder: string): Promise<string[]> {
  const migrations = await readMigrations(folder)
  const session = await openSession(connection, 'countersign migrate')
  try {
    await session.query(`select pg_advisory_lock(${migrationLock})`) // held until the session closes
    await session.query(`set lock_timeout = '10s'`) // a statement queued for a table lock stalls everyone behind it
    await session.query(createHistory)
    const applied = await session.query<Applied>(selectApplied)
    checkHistory(applied, migrations)
    const missing = migrations.slice(applied.length)
    for (const migration of missing) await apply(session, migration)
    return missing.map(({ name }) => name)
  } finally {
    await session.close()
  }
}

const insufficientPrivilege = '42501'

/** Any constant: advisory locks share one number space per database. */
const migrationLock = 0x6d69_6772

const createHistory = `
  create table if not exists schema_migrations (
    version    integer primary key,
    name       text not null,
    sha256     text not null,
    applied_at timestamptz not null default now())`

const selectApplied = `select version, name, sha256 from schema_migrations order by version`

type Applied = Omit<Migration, 'text'>

async function readMigrations(folder: string): Promise<Migration[]> {
  const files = (await readdir(folder)).filter((file) => file.endsWith('.sql')).sort()
  return Promise.all(
    files.map(async (file, index) => {
      const [, digits, name] = /^(\d{4})_(\w+)\.sql$/.exec(file) ?? []
      const version = index + 1
      if (digits === undefined || name === undefined || Number(digits) !== version) {
        throw new StartupRefused('migration_invalid', `migration ${version} must be named NNNN_name.sql, not ${file}`)
      }
      const bytes = await readFile(join(folder, file))
      const sha256 = createHash('sha256').update(bytes).digest('hex')
      return { version, name, sha256, text: bytes.toString() }
    }),
  )
}

/** The applied migrations must be the first of ours, byte for byte. */
function checkHistory(applied: readonly Applied[], migrations: readonly Migration[]) {
  const newest = applied.at(-1)
  if (newest && newest.version > migrations.length) {
    throw new StartupRefused(
      'schema_newer',
      `an older program refuses a newer schema: the database is at version ${newest.version} (${newest.name}), ` +
        `this program knows ${migrations.length}; run the newer program`,
    )
  }
  for (const [index, { version, name, sha256 }] of applied.entries()) {
    if (version === index + 1 && sha256 === migrations[index]?.sha256) continue
    throw new StartupRefused('migration_changed', `migration ${version} (${name}) is not what was applied; restore it`)
  }
}

async function apply(session: Session, { version, name, sha256, text }: Migration) {
  await session.query('begin')
  try {
    await session.query(text)
    await session.query(`insert into schema_migrations (version, name, sha256) values ($1, $2, $3)`, [
      version,
      name,
      sha256,
    ])
    await session.query('commit')
  } catch (error) {
    await session.query('rollback').catch(() => {}) // the first error says more
    if ((error as { code?: unknown }).code !== insufficientPrivilege) throw error
    const { message } = error as Error
    throw new StartupRefused('database_role_missing', `migration ${version} (${name}): ${message}`, { cause: error })
  }
}
