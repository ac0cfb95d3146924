import { type Config, readConfig } from '../../config.ts'
import { OperatorError } from '../../errors.ts'
import { listDataKeys } from '../../keyring/data-keys.ts'
import { type Ending, openKeyWrapper, openRelay } from '../../main.ts'
import type { Database } from '../../ports/database.ts'
import type { KeyWrapper } from '../../ports/key-wrapper.ts'
import { CommandError } from '../command.ts'
import { bar, showProgress } from '../demo/progress.ts'

/**
 * Moves every key from the wrapper in KEY_WRAPPER to `to`, on the environment of a relay that is stopped. The other
 * wrapper is tried first: if that cannot be used, nothing was touched. Resolves to the exit code; CommandError, in a
 * sentence, where the move cannot be made.
 */
export async function rewrapKeys(to: Config['keyWrapper'], env: NodeJS.ProcessEnv): Promise<0> {
  const config = readConfig(env)
  const { keyWrapper: from } = config
  if (from === to) throw new CommandError(`KEY_WRAPPER is ${to} already: it must name the wrapper to move away from`)
  const ending: Ending = []
  // A relay whose keys are half moved does not start: better to wait for the end than to have to run this again.
  const hold = (): void => void process.stderr.write('finishing: with keys half moved the relay would not start\n')
  for (const signal of signals) process.on(signal, hold)
  try {
    const target = await openKeyWrapper(to, config, logger)
    const both = eitherOf(target, await openKeyWrapper(from, config, logger))
    const lost = (error: Error) => logger.error({}, error.message)
    const { relay, database } = await openRelay(config, logger, ending, lost, both)
    if (relay.created)
      throw new CommandError('there was no relay here, so one was made: check DATA_DIR and DATABASE_URL')
    await refuseBesideOthers(database, new Date())
    const moved = await move(relay, database, target)
    process.stdout.write(`${moved} keys are wrapped by ${to}, and no kid changed. ${startWith[to]}\n`)
    return 0
  } catch (error) {
    throw error instanceof OperatorError ? new CommandError(error.message) : error
  } finally {
    for (const end of ending.reverse()) await end().catch(() => {})
    for (const signal of signals) process.off(signal, hold)
  }
}

/** Opens what either wrapper holds: a move that was cut short left some keys with each, and is finished from there. */
const eitherOf = (target: KeyWrapper, source: KeyWrapper): KeyWrapper => ({
  wrap: (plain, context) => source.wrap(plain, context),
  unwrap: (wrapped, context) => target.unwrap(wrapped, context).catch(() => source.unwrap(wrapped, context)),
  generateDataKey: (context) => source.generateDataKey(context),
  generateSigningKey: (context) => source.generateSigningKey(context),
})

const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

const startWith: Record<Config['keyWrapper'], string> = {
  'aws-kms': 'From now on start with KEY_WRAPPER=aws-kms and the same KMS_KEY_ID.',
  local: 'From now on start with KEY_WRAPPER=local.',
}

type Opened = Awaited<ReturnType<typeof openRelay>>

async function move(relay: Opened['relay'], database: Database, target: KeyWrapper): Promise<number> {
  const all = relay.keyring.kids.length + (await listDataKeys(database)).length
  let wrapped = 0
  using _progress = showProgress(() => `${bar(wrapped, all)} ${wrapped} of ${all} keys`)
  const counting: KeyWrapper = {
    wrap(plain, context) {
      wrapped += 1
      return target.wrap(plain, context)
    },
    unwrap: (key, context) => target.unwrap(key, context),
    generateDataKey: (context) => target.generateDataKey(context),
    generateSigningKey: (context) => target.generateSigningKey(context),
  }
  try {
    return await relay.rotation.rewrap(counting)
  } catch (error) {
    if (wrapped === 0 || !(error instanceof Error)) throw error
    throw new CommandError(`${error.message} Keys are half moved: run the same command again to finish the move.`)
  }
}

/** A relay that runs would go on making keys under the old wrapper. One that was killed is on record for a while. */
async function refuseBesideOthers(database: Database, now: Date): Promise<void> {
  const since = new Date(now.getTime() - aliveMs)
  const alive = await database.query('select id from processes where seen_at > $1 limit 1', [since])
  if (alive.length === 0) return
  throw new CommandError('a relay on this database was alive a minute ago: stop it, or if it was killed wait a minute')
}

/** As KeyRotation believes a process to be alive. */
const aliveMs = 60_000

/** The command speaks for itself; of what it stands on, only what goes wrong is news. Of pino's logger this is all that
 *  is called between opening a relay and closing it. */
const tell = (_facts: object | string, what = ''): void => void process.stderr.write(`countersign: ${what}\n`)
const silent = (): void => {}
const quiet = { debug: silent, info: silent, warn: silent, error: tell, fatal: tell }
const logger = quiet as unknown as Parameters<typeof openRelay>[1]
