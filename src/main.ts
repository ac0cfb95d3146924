import cluster from 'node:cluster'
import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import pino from 'pino'
import { checkDurability, checkRole, openDatabase, relayRole, urlOf } from './adapters/database.ts'
import { type EmbeddedPostgres, findRunningPostgres, startEmbeddedPostgres } from './adapters/embedded-postgres.ts'
import { openAwsKmsKeyWrapper } from './adapters/key-wrapper-aws-kms.ts'
import { openLocalKeyWrapper } from './adapters/key-wrapper-local.ts'
import { createMetrics } from './adapters/metrics.ts'
import { migrate } from './adapters/migrate.ts'
import { FsObjectStore } from './adapters/object-store-fs.ts'
import { openS3ObjectStore } from './adapters/object-store-s3.ts'
import { welcome } from './cli/welcome.ts'
import { type Config, ConfigError, readConfig } from './config.ts'
import { oldestPending } from './delivery/store.ts'
import { OperatorError } from './errors.ts'
import { buildServer } from './http/server.ts'
import { readPolicy } from './keyring/policy.ts'
import { systemClock } from './ports/clock.ts'
import type { Database } from './ports/database.ts'
import type { KeyWrapper } from './ports/key-wrapper.ts'
import type { ObjectStore } from './ports/object-store.ts'
import { Primary } from './primary.ts'
import { firstStartLock, Relay } from './relay.ts'
import { parseApiKey } from './tenant/api-key.ts'
import { findApiKey, listApiKeys } from './tenant/store.ts'

const migrations = join(dirname(fileURLToPath(import.meta.url)), 'migrations')

/** Everything, drain included, ends within this: what supervisors grant before they kill. */
const drainMs = 10_000

/** The process edge: environment → Config → adapters → relay → listen → drain. Resolves when it listens. With WORKERS,
 *  this process is their primary, and each of them goes this way. */
export async function serve(env: NodeJS.ProcessEnv): Promise<void> {
  const config = readConfig(env)
  const logger = pino({ level: config.logLevel })
  const ending: Ending = []
  let closing: Promise<void> | undefined
  const stop = (code: number, why: string): Promise<void> => {
    closing ??= drain(ending, code, why, logger)
    return closing
  }
  // From here on, so that a signal during start-up does not leave PostgreSQL behind.
  process.on('SIGTERM', () => void stop(0, 'SIGTERM'))
  process.on('SIGINT', () => void stop(0, 'SIGINT'))

  try {
    if (config.workers > 1 && cluster.isPrimary) {
      if (!(await leadWorkers(env, config, logger, ending, (error) => void stop(1, error.message))))
        await stop(1, 'start failed')
      return
    }
    const { relay, database, metrics } = await openRelay(config, logger, ending, (error) => void stop(1, error.message))
    const madeKey = await ensureAdminKey(relay, database, config)
    const { maxPayloadBytes, trustedProxies, role } = config
    const { observer, text } = metrics
    const limits = { maxPayloadBytes, trustedProxies }
    const server = await buildServer({ relay, database, logger, observer, metrics: text, ...limits })
    ending.push(() => server.close())
    await server.listen({ port: config.port, host: config.host })
    relay.start()
    const address = server.server.address()
    const port = typeof address === 'object' && address !== null ? address.port : config.port
    const { host, egressAllow } = config
    if (egressAllow.length > 0) logger.warn({ egressAllow }, 'deliveries may go to these ranges')
    logger.info({ host, port, role, issuer: relay.issuer, origin: relay.origin }, 'listening')
    if (madeKey !== undefined)
      process.stdout.write(welcome({ url: `http://${hostOf(host)}:${port}`, adminKey: madeKey }))
  } catch (error) {
    if (closing === undefined) process.stderr.write(`countersign: ${explain(error, config)}\n`)
    await stop(1, 'start failed')
  }
}

/** Starts PostgreSQL, if it is ours, once for all workers. Resolves with whether they listen. */
async function leadWorkers(
  env: NodeJS.ProcessEnv,
  config: Config,
  logger: pino.Logger,
  ending: Ending,
  onLost: (error: Error) => void,
): Promise<boolean> {
  const { workers, databasePool, egressAllow, databaseUrl } = config
  await makeDataDir(config)
  const settings = { max_connections: String(workers * (databasePool + sessionsBesidePool) + operatorSessions) }
  const url = databaseUrl ?? urlOf(await startPostgres(config, logger, ending, onLost, settings))
  // What follows from having no DATABASE_URL was decided here, where there is none.
  const primary = new Primary({ workers, env: { ...env, DATABASE_URL: url, EGRESS_ALLOW: egressAllow.join() }, logger })
  ending.push(() => primary.stop())
  for (const signal of ['SIGHUP', 'SIGUSR2'] as const) process.on(signal, () => void primary.roll())
  return primary.start()
}

/** Listening for notices, and the brief ones of a start. */
const sessionsBesidePool = 2
const operatorSessions = 20

/** How to close what was opened: last opened, first closed. */
export type Ending = (() => Promise<unknown>)[]

/** Opens the adapters that the configuration names and the relay on them; nothing listens or delivers yet. */
export async function openRelay(
  config: Config,
  logger: pino.Logger,
  ending: Ending,
  onLost: (error: Error) => void,
  keyWrapper?: KeyWrapper,
) {
  await makeDataDir(config)
  const connection = config.databaseUrl
    ? { connectionString: config.databaseUrl }
    : await startPostgres(config, logger, ending, onLost)
  await migrate(connection, migrations)
  const database = openDatabase({ connection, poolSize: config.databasePool, role: relayRole, logger })
  ending.push(() => database.close())
  await checkRole(database)
  await checkDurability(database, logger)

  const wrapper = keyWrapper ?? (await openKeyWrapper(config.keyWrapper, config, logger))
  const policy = await readPolicy(config.keyPolicy)
  if (policy.shortOverlapReason !== undefined) {
    logger.warn({ overlapDays: policy.overlapDays, reason: policy.shortOverlapReason }, 'the key overlap is short')
  }
  const metrics = createMetrics()
  const adapters = {
    database,
    wrapper,
    objectStore: await openObjectStore(config),
    clock: systemClock,
    random: Math.random,
    logger,
    observer: metrics.observer,
    onBroken: (error: Error) => {
      logger.fatal({ err: error }, 'the log is broken; stopping')
      onLost(error)
    },
  }
  const relay = await Relay.open(adapters, { ...config, policy })
  ending.push(() => relay.close())
  metrics.watch({
    queueDepth: () => relay.sequencer.depth,
    deliveries: () => relay.worker.depth,
    endpointsFailing: () => relay.worker.health.failing().length,
    unopenedKeys: () => relay.keyring.unopened,
    keyTicksFailed: () => relay.keyTicksFailed,
    oldestPendingS: async () => {
      const dueAt = await oldestPending(database)
      return dueAt === undefined ? 0 : Math.max(0, (Date.now() - dueAt.getTime()) / 1000)
    },
  })
  return { relay, database, metrics }
}

/** As PostgreSQL's account needs it: what is secret in it has its own mode. */
const makeDataDir = ({ dataDir }: Config) => mkdir(dataDir, { recursive: true, mode: 0o711 })

/** The database of a relay that may be running, to look at: nothing is made or migrated, and nothing said. */
export async function openExisting(config: Config, ending: Ending): Promise<Database> {
  const logger = pino({ level: 'silent' })
  const { databaseUrl, dataDir } = config
  if (databaseUrl === undefined && !existsSync(join(dataDir, 'postgres'))) {
    throw new ConfigError(`there is no database in ${dataDir}: check DATA_DIR and DATABASE_URL`)
  }
  const connection = databaseUrl
    ? { connectionString: databaseUrl }
    : ((await findRunningPostgres(dataDir)) ?? (await startPostgres(config, logger, ending, () => {})))
  const database = openDatabase({ connection, poolSize: 1, role: relayRole, logger })
  ending.push(() => database.close())
  return database
}

/** The wrapper of this name. Rejects if it cannot be used: a relay without its keys must not start. */
export async function openKeyWrapper(
  name: Config['keyWrapper'],
  config: Config,
  logger: pino.Logger = pino({ level: 'silent' }),
): Promise<KeyWrapper> {
  switch (name) {
    case 'local':
      logger.warn({ keyWrapper: name }, 'keys are wrapped by a file on this disk: not for production')
      return openLocalKeyWrapper(join(config.dataDir, 'wrapping-key'))
    case 'aws-kms':
      if (config.kmsKeyId === undefined) throw new ConfigError('KEY_WRAPPER=aws-kms needs KMS_KEY_ID')
      return openAwsKmsKeyWrapper({ keyId: config.kmsKeyId, logger })
  }
}

/** The object store of the configuration. Rejects if it cannot be used: a relay that cannot see what it published must
 *  not start. */
export async function openObjectStore(config: Config): Promise<ObjectStore> {
  switch (config.objectStore) {
    case 'fs':
      return new FsObjectStore(join(config.dataDir, 'objects'))
    case 's3': {
      const { s3Bucket: bucket, s3Prefix: prefix, s3PathStyle: pathStyle } = config
      if (bucket === undefined) throw new ConfigError('OBJECT_STORE=s3 needs S3_BUCKET')
      return openS3ObjectStore({ bucket, prefix, pathStyle, clock: systemClock })
    }
  }
}

async function startPostgres(
  config: Config,
  logger: pino.Logger,
  ending: Ending,
  onLost: (error: Error) => void,
  settings: Record<string, string> = {},
): Promise<EmbeddedPostgres['connection']> {
  const postgres = await startEmbeddedPostgres({ dataDir: config.dataDir, logger, settings })
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
  if (error instanceof OperatorError) return error.message
  if (!(error instanceof Error)) return String(error)
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
