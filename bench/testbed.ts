import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { openSession, type Session } from '../src/adapters/database.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../src/adapters/embedded-postgres.ts'
import { type Helper, startHelper } from './helper-process.ts'
import type { LoadQuestions } from './load.ts'
import type { ReceiverQuestions } from './receiver.ts'
import { RelayProcess } from './relay-process.ts'

/** Where posts go: a relay, several on one database, or the plain forwarder. */
export interface Target {
  readonly urls: readonly string[]
  readonly headers: Readonly<Record<string, string>>
  readonly pids: readonly number[]
  /** Empty for the plain forwarder. */
  readonly relays: readonly RelayProcess[]
  /** How often each post must arrive. */
  readonly endpoints: number
}

export interface FreshDatabase {
  readonly name: string
  readonly url: string
  /** The folder of its relays: it has the key that wraps their keys. */
  readonly dataDir: string
  /** Outside every relay's pool. */
  readonly session: Session
}

/**
 * One PostgreSQL for the whole bench, and on it, for each scenario, a fresh database with fresh relays, a fresh receiver
 * and a fresh generator: no scenario meets what another left behind. Whatever is opened through it ends with it.
 */
export class Testbed {
  readonly folder: string
  readonly postgres: EmbeddedPostgres
  #databases = 0
  #ending: (() => Promise<unknown>)[] = [] // last opened, first closed

  private constructor(folder: string, postgres: EmbeddedPostgres) {
    this.folder = folder
    this.postgres = postgres
  }

  /** `settings` are PostgreSQL's, on top of those of the product. */
  static async open(settings: Readonly<Record<string, string>> = {}): Promise<Testbed> {
    const folder = await mkdtemp(join(tmpdir(), 'countersign-bench-'))
    const logger = pino({ level: 'warn' }, pino.destination(2))
    const postgres = await startEmbeddedPostgres({ dataDir: folder, logger, settings })
    const testbed = new Testbed(folder, postgres)
    // PostgreSQL runs in a session of its own, which Ctrl-C does not reach: it would be left behind.
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      process.once(signal, () => void testbed.close().finally(() => process.exit(1)))
    }
    return testbed
  }

  /** Runs one scenario and ends everything it started. */
  async during<T>(scenario: () => Promise<T>): Promise<T> {
    try {
      return await scenario()
    } finally {
      await this.#endAll()
    }
  }

  async #endAll(): Promise<void> {
    for (const end of this.#ending.splice(0).reverse()) await end()
  }

  async createDatabase(): Promise<FreshDatabase> {
    const name = `bench_${++this.#databases}`
    const { host, port = 5432, user, password } = this.#connection
    const administrator = await openSession(this.#connection)
    await administrator.query(`create database ${name}`)
    const session = await openSession({ ...this.#connection, database: name })
    await session.query('checkpoint') // so that none is due to another scenario's writes
    this.#ending.push(async () => {
      await session.close()
      await administrator.query(`drop database ${name} with (force)`)
      await administrator.close()
    })
    const parameters = new URLSearchParams({ host, port: String(port) })
    const url = `postgresql://${user}:${encodeURIComponent(password)}@/${name}?${parameters}`
    return { name, session, url, dataDir: join(this.folder, name) }
  }

  /** Relays on one database share the folder too. */
  async startRelay(database: FreshDatabase, profileFolder?: string): Promise<RelayProcess> {
    const { url: databaseUrl, dataDir } = database
    const relay = await RelayProcess.start({ dataDir, databaseUrl, ...(profileFolder && { profileFolder }) })
    this.#ending.push(() => relay.stop())
    return relay
  }

  /** Resolves with the receiver and its URLs, as many as endpoints. */
  async startReceiver(
    endpoints: number,
    delayMs = 0,
  ): Promise<{ receiver: Helper<ReceiverQuestions>; urls: string[] }> {
    const receiver = await this.startHelper<ReceiverQuestions>('receiver.ts')
    const port = await receiver.ask('listen', { delayMs })
    return { receiver, urls: Array.from({ length: endpoints }, (_, n) => `http://127.0.0.1:${port}/hook/${n}`) }
  }

  startGenerator(): Promise<Helper<LoadQuestions>> {
    return this.startHelper<LoadQuestions>('load.ts')
  }

  async startHelper<Offered>(file: string): Promise<Helper<Offered>> {
    const helper = await startHelper<Offered>(file)
    this.#ending.push(() => helper.stop())
    return helper
  }

  async close(): Promise<void> {
    await this.#endAll()
    await this.postgres.stop()
    await rm(this.folder, { recursive: true, force: true })
  }

  get #connection() {
    const { connection } = this.postgres
    if ('connectionString' in connection) throw new TypeError('embedded PostgreSQL listens on a socket')
    return connection
  }
}

/** A tenant with a source and endpoints on the first of `relays`, and everything needed to post to it through any. */
export async function enrol(relays: readonly RelayProcess[], endpointUrls: readonly string[]): Promise<Target> {
  const [first] = relays
  if (first === undefined) throw new TypeError('there is no relay')
  const { id: tenant } = await first.call<{ id: string }>('POST', '/v1/tenants', { name: 'bench', tier: 'standard' })
  const at = `/v1/tenants/${tenant}`
  const { id: source } = await first.call<{ id: string }>('POST', `${at}/sources`, { name: 'orders' })
  const wish = { name: 'vendor', role: 'ingest', source }
  const { key } = await first.call<{ key: string }>('POST', `${at}/api-keys`, wish)
  for (const url of endpointUrls) await first.call('POST', `${at}/endpoints`, { url })
  return {
    urls: relays.map((relay) => `${relay.url}/v1/sources/${source}/messages`),
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    pids: relays.map((relay) => relay.pid),
    relays,
    endpoints: endpointUrls.length,
  }
}
