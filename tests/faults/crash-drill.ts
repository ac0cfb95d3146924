/**
 * The crash drill: a real relay on its embedded PostgreSQL is killed with kill -9, the one, the other or both, at
 * random moments under load, and what it promised before is held against what is there after.
 *
 *     strikes.ts         what dies when, from the seed
 *     relay-process.ts   the relay as a child, restarted as a supervisor would
 *     vendors.ts         who posts
 *     ledger.ts          what vendors and the receiver saw, in a file of its own
 *     evidence.ts        what the relay shows afterwards, over HTTP
 *     promises.ts        the judge
 */
import { chmod, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type Arrived, Receiver } from '../support/receiver.ts'
import { type Evidence, gatherEvidence, treeSizeNow } from './evidence.ts'
import { type Fact, factsOf, Ledger } from './ledger.ts'
import { judge, type Violation } from './promises.ts'
import { RelayProcess } from './relay-process.ts'
import { planRounds, targets } from './strikes.ts'
import { type Route, startVendors } from './vendors.ts'

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
  const receiver = await Receiver.start()
  const relay = new RelayProcess(folder, ledger)
  const over = new AbortController()
  let broken = true
  try {
    await relay.ready()
    const route = await furnish(relay, receiver.url)
    const firstLeaf = await treeSizeNow(relay)
    receiver.answer = (arrived, response) => {
      ledger.note(arrivalOf(arrived)) // before the answer: what is answered is in the ledger
      response.writeHead(204).end()
    }
    const load = startVendors(vendors, relay, route, ledger, over.signal)
    for (const { number, strikes } of planRounds(rounds, seed)) {
      ledger.round = number
      await ledger.next('accepted', flowsWithinMs) // the load flows
      for (const strike of strikes) {
        await delay(strike.afterMs)
        await relay.strike(strike)
      }
      await relay.ready()
      say(`round ${number}: ${strikes.map(({ target, afterMs }) => `${target} after ${afterMs} ms`).join(', ')}`)
    }
    await load.stop()
    const evidence = await gatherEvidence(relay, ledger.facts, firstLeaf)
    const violations = judge(evidence)
    broken = violations.length > 0
    const seconds = (performance.now() - startedAt) / 1000
    return { violations, evidence, seconds, kept: broken || dataDir !== undefined ? folder : undefined }
  } catch (cause) {
    const { said = 'nothing, it runs' } = factsOf(ledger.facts, 'exited').at(-1) ?? {}
    throw new Error(`the drill got stuck; everything is kept in ${folder}; the relay's last words: ${said}`, { cause })
  } finally {
    over.abort()
    await relay.stop()
    await receiver.stop()
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

/** A tenant with one source and one endpoint. */
async function furnish(relay: RelayProcess, url: string): Promise<Route> {
  const make = async (path: string, wish: object): Promise<{ id: string; key: string }> => {
    const response = await relay.call(path, wish)
    if (response.status !== 201) throw new Error(`${path} answers ${response.status}: ${await response.text()}`)
    return (await response.json()) as { id: string; key: string }
  }
  const tenant = await make('/v1/tenants', { name: 'drill', tier: 'operation' })
  const within = `/v1/tenants/${tenant.id}`
  const source = await make(`${within}/sources`, { name: 'drill' })
  await make(`${within}/endpoints`, { url })
  const { key } = await make(`${within}/api-keys`, { name: 'vendors', role: 'ingest', source: source.id })
  return { path: `/v1/sources/${source.id}/messages`, ingestKey: key }
}

const kept = [
  'webhook-timestamp',
  'webhook-signature',
  'webhook-key-id',
  'webhook-receipt',
  'webhook-attempt',
  'content-digest',
]

function arrivalOf({ headers, body }: Arrived): Fact {
  const message = String(headers['webhook-id'])
  const told = Object.fromEntries(kept.map((name) => [name, String(headers[name])]))
  return { kind: 'arrived', message, body: body.toString('base64'), headers: told }
}

/** The drill in numbers. */
export function summarize({ evidence: { facts, receipts, messages, log, firstLeaf } }: Pick<DrillResult, 'evidence'>) {
  const accepted = factsOf(facts, 'accepted')
  const arrivals = factsOf(facts, 'arrived')
  const struck = factsOf(facts, 'struck')
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
    arrivedAgain: arrivals.length - new Set(arrivals.map(({ message }) => message)).size,
    leaves: log.treeSize - firstLeaf,
    checkpoints: new Set(receipts.map(({ offline }) => offline.log?.treeSize)).size,
    kills: Object.fromEntries(
      targets.map((target) => [
        target,
        struck.filter((strike) => strike.target === target && strike.killed > 0).length,
      ]),
    ),
    killsWhileOpening: struck.filter(({ killed, opening }) => killed > 0 && opening).length,
    strikesThatMissed: struck.filter(({ killed }) => killed === 0).length,
    relaysThatGaveUpOpening: factsOf(facts, 'exited').length,
  }
}

const help = `Kills a relay and its PostgreSQL under load, again and again, and checks every promise from outside.

usage: node tests/faults/crash-drill.ts [--rounds 20] [--seed 1] [--data-dir FOLDER]

  --rounds N          how many rounds, each with one or two kill -9
  --seed S            a whole number: the same one gives the same schedule of kills
  --data-dir FOLDER   an empty folder to use, and to keep

Exits 0 if every promise was kept, 1 if one was broken or the drill got stuck, 2 if it was called wrongly.
`

async function main(): Promise<number> {
  const options = {
    rounds: { type: 'string', default: '20' },
    seed: { type: 'string', default: '1' },
    'data-dir': { type: 'string' },
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
  const { kills, ...numbers } = summarize(result)
  console.table({ rounds, seed, ...numbers, ...kills })
  for (const { promise, round, what } of result.violations.slice(0, 50)) {
    console.log(`BROKEN: ${promise}${round === undefined ? '' : ` (round ${round})`}: ${what}`)
  }
  if (result.kept !== undefined) console.log(`kept in ${result.kept}`)
  const verdict = result.violations.length === 0 ? 'every promise was kept' : `${result.violations.length} VIOLATIONS`
  console.log(`${rounds} rounds with seed ${seed} in ${result.seconds.toFixed(1)} s: ${verdict}`)
  return result.violations.length === 0 ? 0 : 1
}

if (import.meta.main) {
  process.exitCode = await main().catch((error: unknown) => {
    console.error(error)
    return 1
  })
}
