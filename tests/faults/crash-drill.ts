/**
 * The crash drill: three real relays on one PostgreSQL are killed, cut off, filled up and asked to leave at random
 * moments under load, and what they promised before is held against what is there after.
 *
 *     strikes.ts         what is struck when, from the seed
 *     fleet.ts           the relays, their database, network and disk, and how each is struck
 *     relay-process.ts   one relay as a child, restarted as a supervisor would
 *     disk.ts            a disk that can be full
 *     tenants.ts         who receives, and fails at times
 *     vendors.ts         who posts
 *     ledger.ts          what vendors and receivers saw, in a file of its own
 *     evidence.ts        what the relay shows afterwards, over HTTP
 *     promises.ts        the judge
 */
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { describeMachine } from '../../bench/report.ts'
import { resultsFile, withDrill } from '../../bench/results-page.ts'
import { type Evidence, gatherEvidence, treeSizeNow } from './evidence.ts'
import { Fleet } from './fleet.ts'
import { factsOf, Ledger } from './ledger.ts'
import { judge, type Violation } from './promises.ts'
import { planRounds, targets } from './strikes.ts'
import { furnish } from './tenants.ts'
import { startVendors } from './vendors.ts'

export interface DrillOptions {
  readonly rounds: number
  readonly seed: number
  /** Made if absent, and must be empty. Kept afterwards. Undefined: a temporary folder, kept only if a promise broke. */
  readonly dataDir?: string | undefined
}

export interface DrillResult {
  readonly violations: readonly Violation[]
  readonly evidence: Evidence
  readonly seconds: number
  /** Where DATA_DIR, the ledger and the relay's log are kept. */
  readonly kept: string | undefined
}

const vendors = 16
const flowsWithinMs = 60_000

export async function drill(
  { rounds, seed, dataDir }: DrillOptions,
  say = (_line: string) => {},
): Promise<DrillResult> {
  const startedAt = performance.now()
  const folder = await makeFolder(dataDir)
  const ledger = new Ledger(join(folder, 'drill-ledger.ndjson'))
  const fleet = await Fleet.start(folder, ledger)
  if (!fleet.hasDisk) say('SKIPPED: "disk full", since this process may not mount a disk of its own (it takes root)')
  const tenants = await furnish(fleet.owner, ledger)
  const over = new AbortController()
  let broken = true
  try {
    const firstLeaf = await treeSizeNow(fleet.owner)
    const load = startVendors(vendors, fleet, tenants, ledger, over.signal)
    for (const { number, strikes } of planRounds(rounds, seed)) {
      ledger.round = number
      await ledger.next('accepted', flowsWithinMs) // the load flows
      for (const strike of strikes) {
        await delay(strike.afterMs)
        await fleet.strike(strike, tenants)
      }
      await fleet.ready()
      say(`round ${number}: ${strikes.map(({ target, afterMs }) => `${target} after ${afterMs} ms`).join(', ')}`)
    }
    await load.stop()
    const evidence = await gatherEvidence(fleet.owner, tenants, ledger.facts, firstLeaf)
    const violations = judge(evidence)
    broken = violations.length > 0
    const seconds = (performance.now() - startedAt) / 1000
    return { violations, evidence, seconds, kept: broken || dataDir !== undefined ? folder : undefined }
  } catch (cause) {
    const { said = 'nothing, it runs' } = factsOf(ledger.facts, 'exited').at(-1) ?? {}
    throw new Error(`the drill got stuck; everything is kept in ${folder}; a relay's last words: ${said}`, { cause })
  } finally {
    over.abort()
    await fleet.stop(broken || dataDir !== undefined)
    await Promise.all(tenants.map(({ receiver }) => receiver.stop()))
    ledger.close()
    if (!broken && dataDir === undefined) await rm(folder, { recursive: true })
  }
}

async function makeFolder(dataDir: string | undefined): Promise<string> {
  if (dataDir !== undefined) {
    await mkdir(dataDir, { recursive: true })
    if ((await readdir(dataDir)).length > 0) throw new Error(`${dataDir} is not empty`)
  }
  const folder = dataDir ?? (await mkdtemp(join(tmpdir(), 'countersign-drill-')))
  await chmod(folder, 0o711) // started by root, PostgreSQL may have to run as another user
  return folder
}

/** The drill in numbers. */
export function summarize({ evidence }: Pick<DrillResult, 'evidence'>) {
  const { facts, receipts, messages, log, firstLeaf, trespasses } = evidence
  const accepted = factsOf(facts, 'accepted')
  const arrivals = factsOf(facts, 'arrived')
  const taken = arrivals.filter((arrival) => arrival.taken)
  const struck = factsOf(facts, 'struck')
  const exited = factsOf(facts, 'exited')
  const answered = new Set(accepted.map(({ post }) => post))
  const unsure = new Set([...factsOf(facts, 'unanswered'), ...factsOf(facts, 'refused')].map(({ post }) => post))
  const open = [...unsure].filter((post) => !answered.has(post))
  const known = new Set(receipts.map(({ post }) => post))
  return {
    posts: factsOf(facts, 'posted').length,
    accepted: accepted.length,
    messages: messages.size,
    withoutAnswer: open.length,
    withoutAnswerYetAccepted: open.filter((post) => known.has(post)).length,
    refusals: factsOf(facts, 'refused').length,
    connectionsLost: factsOf(facts, 'unanswered').length,
    arrivals: arrivals.length,
    arrivalsRefused: arrivals.filter(({ taken }) => !taken).length,
    arrivedAgain: taken.length - new Set(taken.map(({ message }) => message)).size,
    abandoned: [...messages.values()].filter(({ deliveries }) => deliveries.some(({ state }) => state === 'abandoned'))
      .length,
    tenantsKeptOut: trespasses.length,
    leaves: log.treeSize - firstLeaf,
    checkpoints: new Set(receipts.map(({ offline }) => offline.log?.treeSize)).size,
    hits: Object.fromEntries(
      targets.map((target) => [target, struck.filter((strike) => strike.target === target && strike.hits > 0).length]),
    ),
    strikesWhileOpening: struck.filter(({ hits, opening }) => hits > 0 && opening).length,
    strikesThatMissed: struck.filter(({ hits }) => hits === 0).length,
    relaysDrained: exited.filter(({ asked, exitCode }) => asked && exitCode === 0).length,
    drainsCutShort: exited.filter(({ asked, exitCode }) => asked && exitCode !== 0).length,
    relaysThatGaveUpOpening: exited.filter(({ asked }) => !asked).length,
  }
}

const help = `Strikes three relays, their PostgreSQL, network and disk under load, again and again, and checks every promise
from outside.

usage: node tests/faults/crash-drill.ts [--rounds 20] [--seed 1] [--data-dir FOLDER]

  --rounds N          how many rounds, each with one or two faults
  --seed S            a whole number: the same one gives the same schedule of faults
  --data-dir FOLDER   an empty folder to use, and to keep
  --write-results     put what it found into bench/RESULTS.md

Exits 0 if every promise was kept, 1 if one was broken or the drill got stuck, 2 if it was called wrongly.
`

/** As bench/RESULTS.md has it. */
const tableOf = (numbers: Record<string, number>): string =>
  ['| drill | |', '| --- | ---: |', ...Object.entries(numbers).map(([name, number]) => `| ${name} | ${number} |`)].join(
    '\n',
  )

async function main(): Promise<number> {
  const options = {
    rounds: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    'data-dir': { type: 'string' },
    'write-results': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  } as const
  let values: ReturnType<typeof parseArgs<{ options: typeof options }>>['values']
  try {
    values = parseArgs({ options }).values
    for (const name of ['rounds', 'seed'] as const) {
      if (!/^\d{1,9}$/.test(values[name] ?? '')) throw new Error(`--${name} takes a whole number`)
    }
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${help}`)
    return 2
  }
  if (values.help) return Number(!process.stdout.write(help))

  const [rounds, seed] = [Number(values.rounds), Number(values.seed)]
  const result = await drill({ rounds, seed, dataDir: values['data-dir'] }, console.log)
  const { hits, ...numbers } = summarize(result)
  const table = tableOf({ rounds, seed, ...numbers, ...hits })
  console.log(table)
  for (const { promise, round, what } of result.violations.slice(0, 50)) {
    console.log(`BROKEN: ${promise}${round === undefined ? '' : ` (round ${round})`}: ${what}`)
  }
  if (result.kept !== undefined) console.log(`kept in ${result.kept}`)
  const verdict = result.violations.length === 0 ? 'every promise was kept' : `${result.violations.length} VIOLATIONS`
  const sentence = `${rounds} rounds with seed ${seed} in ${result.seconds.toFixed(1)} s: ${verdict}`
  console.log(sentence)
  if (values['write-results']) {
    const { commit, at, machine } = describeMachine()
    const found = `${sentence}. Commit ${commit}, ${at}, on ${machine}.\n\n${table}`
    await writeFile(resultsFile, withDrill(await readFile(resultsFile, 'utf8'), found))
  }
  return result.violations.length === 0 ? 0 : 1
}

if (import.meta.main) {
  process.exitCode = await main().catch((error: unknown) => {
    console.error(error)
    return 1
  })
}
