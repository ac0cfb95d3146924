import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pino from 'pino'
import { checkDurability, openDatabase, StartupRefused } from './adapters/database.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from './adapters/embedded-postgres.ts'
import { openLocalKeyWrapper } from './adapters/key-wrapper-local.ts'
import { createMetrics } from './adapters/metrics.ts'
import { migrate } from './adapters/migrate.ts'
import { FsObjectStore } from './adapters/object-store-fs.ts'
import { welcome } from './cli/welcome.ts'
import { type Config, ConfigError, readConfig } from './config.ts'
import { oldestPending } from './delivery/store.ts'
import { buildServer } from './http/server.ts'
import { readPolicy } from './keyring/policy.ts'
import { LogForked } from './log/publication.ts'
import { systemClock } from './ports/clock.ts'
import { firstStartLock, Relay } from './relay.ts'
import { parseApiKey } from './tenant/api-key.ts'
import { findApiKey, listApiKeys } from './tenant/store.ts'

const migrations = join(dirname(fileURLToPath(import.meta.url)), 'migrations')

/** Everything, drain included, ends within this: what supervisors grant before they kill. */
const drainMs = 10_000

/** The process edge: environment → Config → adapters → relay → listen → drain. Resolves when it listens. */
export async function serve(env: NodeJS.ProcessEnv): Promise<void> {
  const config = readConfig(env)
  const logger = pino({ level: config.logLevel })
  await mkdir(config.dataDir, { recursive: true, mode: 0o700 })
  const ending: (() => Promise<unknown>)[] = [] // last opened, first closed
  let closing: Promise<void> | undefined
  const close = (code: number, why: string): Promise<void> => {
    closing ??= drain(ending, code, why, logger)
    return closing
  }
  // From here on, so that a signal during start-up does not leave PostgreSQL behind.
  process.on('SIGTERM', () => void close(0, 'SIGTERM'))
  process.on('SIGINT', () => void close(0, 'SIGINT'))

  try {
    const connection = config.databaseUrl
      ? { connectionString: config.databaseUrl }
      : await startPostgres(config, logger, ending, (error) => void close(1, error.message))
    await migrate(connection, migrations)
    const database = openDatabase({ connection, poolSize: config.databasePool, logger })
    ending.push(() => database.close())
    await checkDurability(database, logger)

    const wrapper = await openLocalKeyWrapper(join(config.dataDir, 'wrapping-key'))
    logger.warn({ keyWrapper: 'local' }, 'keys are wrapped by a file on this disk: not for production')
    const policy = await readPolicy(config.keyPolicy)
    if (policy.shortOverlapReason !== undefined) {
      logger.warn({ overlapDays: policy.overlapDays, reason: policy.shortOverlapReason }, 'the key overlap is short')
    }
    const metrics = createMetrics()
    const relay = await Relay.open(
      {
        database,
        wrapper,
        objectStore: new FsObjectStore(join(config.dataDir, 'objects')),
        clock: systemClock,
        random: Math.random,
        logger,
        observer: metrics.observer,
        onBroken: (error) => {
          logger.fatal({ err: error }, 'the log is broken; stopping')
          void close(1, error.message)
        },
      },
      { ...config, policy },
    )
    ending.push(() => relay.close())
    metrics.watch({
      queueDepth: () => relay.sequencer.depth,
      deliveries: () => relay.worker.depth,
      oldestPendingS: async () => {
        const dueAt = await oldestPending(database)
        return dueAt === undefined ? 0 : Math.max(0, (Date.now() - dueAt.getTime()) / 1000)
      },
    })
    const madeKey = await ensureAdminKey(relay, database, config)

    const { maxPayloadBytes } = config
    const { observer, text } = metrics
    const server = await buildServer({ relay, database, logger, observer, metrics: text, maxPayloadBytes })
    ending.push(() => server.close())
    await server.listen({ port: config.port, host: config.host })
    relay.start()
    const address = server.server.address()
    const port = typeof address === 'object' && address !== null ? address.port : config.port
    if (config.egressAllow.length > 0)
      logger.warn({ egressAllow: config.egressAllow }, 'deliveries may go to these ranges')
    logger.info({ host: config.host, port, issuer: relay.issuer, origin: relay.origin }, 'listening')
    if (madeKey !== undefined)
      process.stdout.write(welcome({ url: `http://${hostOf(config.host)}:${port}`, adminKey: madeKey }))
  } catch (error) {
    if (closing === undefined) process.stderr.write(`countersign: ${explain(error, config)}\n`)
    await close(1, 'start failed')
  }
}

async function startPostgres(
  config: Config,
  logger: pino.Logger,
  ending: (() => Promise<unknown>)[],
  onLost: (error: Error) => void,
): Promise<EmbeddedPostgres['connection']> {
  const postgres = await startEmbeddedPostgres({ dataDir: config.dataDir, logger })
  ending.push(() => postgres.stop())
  void postgres.lost.then(onLost)
  return postgres.connection
}

/** The first admin key: the one given, or one made now, which is returned to be shown once. */
async function ensureAdminKey(
  relay: Relay,
  database: ReturnType<typeof openDatabase>,
  { adminKey }: Config,
): Promise<string | undefined> {
  const wish = { name: 'first admin key', role: 'admin', sourceId: null } as const
  return database.transaction(async (tx) => {
    await tx.query(firstStartLock) // two processes that start at once must not make two
    if (adminKey !== undefined) {
      const given = parseApiKey(adminKey)
      if (given === undefined) throw new ConfigError('COUNTERSIGN_ADMIN_KEY is not of the form of a key')
      const known = await findApiKey(tx, given.id)
      if (known === undefined) await relay.administration.createApiKey('deployment', null, wish, given)
      return undefined
    }
    if ((await listApiKeys(tx, null, '', 1)).length > 0) return undefined
    return (await relay.administration.createApiKey('deployment', null, wish)).key
  })
}

async function drain(
  ending: (() => Promise<unknown>)[],
  code: number,
  why: string,
  logger: pino.Logger,
): Promise<void> {
  const late = setTimeout(() => {
    logger.error({ drainMs }, 'could not drain in time; what is unfinished is in the database')
    process.exit(code === 0 ? 1 : code)
  }, drainMs)
  logger.info({ why }, 'draining')
  for (const end of ending.reverse()) {
    await end().catch((error: unknown) => logger.error({ err: error }, 'could not close cleanly'))
  }
  clearTimeout(late)
  logger.info({ code }, 'stopped')
  process.exit(code)
}

/** One sentence for what an operator can mend; the whole story for what only we can. */
function explain(error: unknown, config: Config): string {
  const known = error instanceof ConfigError || error instanceof StartupRefused || error instanceof LogForked
  if (known || !(error instanceof Error)) return error instanceof Error ? error.message : String(error)
  if ('code' in error && error.code === 'EADDRINUSE') {
    return `port ${config.port} on ${config.host} is taken. Stop whoever listens there, or set PORT.`
  }
  return error.stack ?? error.message
}

/** For URLs: an IPv6 address in brackets, the wildcard as localhost. */
const hostOf = (host: string): string =>
  host === '0.0.0.0' || host === '::' ? 'localhost' : host.includes(':') ? `[${host}]` : host

if (import.meta.main) {
  try {
    await serve(process.env)
  } catch (error) {
    process.stderr.write(`countersign: ${error instanceof ConfigError ? error.message : String(error)}\n`)
    process.exit(1)
  }
}
