import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { openSession } from '../../src/adapters/database.ts'
import type { ServerConnection } from './database.ts'

/** The programs of a PostgreSQL that the system brought, e.g. Debian's 15: the oldest version we promise to run on. */
const programs = findPrograms()

export const systemPostgresPresent = programs !== undefined

if (!systemPostgresPresent) console.warn('LOUD SKIP: no PostgreSQL below /usr/lib/postgresql, so only ours is tested')

function findPrograms(): string | undefined {
  const root = '/usr/lib/postgresql'
  const versions = existsSync(root) ? readdirSync(root).sort((a, b) => Number(a) - Number(b)) : []
  return versions.map((version) => join(root, version, 'bin')).find((bin) => existsSync(join(bin, 'initdb')))
}

/** Starts it on a throw-away cluster, reached through a unix socket. */
export async function startSystemPostgres(): Promise<{ connection: ServerConnection; stop(): Promise<void> }> {
  if (programs === undefined) throw new Error('there is none: check systemPostgresPresent')
  const folder = await mkdtemp(join(tmpdir(), 'countersign-system-'))
  // PostgreSQL refuses to be root.
  const prefix = process.geteuid?.() === 0 ? ['unshare', '--user', '--map-user=65534', '--map-group=65534'] : []
  const [initdb = '', ...initdbArgs] = [
    ...prefix,
    join(programs, 'initdb'),
    '--no-sync',
    '-A',
    'trust',
    '-U',
    'postgres',
  ]
  await promisify(execFile)(initdb, [...initdbArgs, '--locale=C', '-E', 'UTF8', '-D', join(folder, 'cluster')])
  const options = ['-D', join(folder, 'cluster'), '-k', folder, '-c', 'listen_addresses=']
  const [postgres = '', ...postgresArgs] = [...prefix, join(programs, 'postgres'), ...options]
  const child = spawn(postgres, postgresArgs, { stdio: 'ignore' })
  const connection = { host: folder, port: 5432, user: 'postgres', password: 'unused', database: 'postgres' }
  while (!(await answers(connection))) {
    if (child.exitCode !== null) throw new Error(`PostgreSQL exited with ${child.exitCode}`)
    await delay(20)
  }
  return {
    connection,
    async stop() {
      child.kill('SIGINT')
      if (child.exitCode === null) await once(child, 'exit')
      await rm(folder, { recursive: true, force: true })
    },
  }
}

const answers = (connection: ServerConnection) =>
  openSession(connection).then(
    (session) => session.close().then(() => true),
    () => false,
  )
