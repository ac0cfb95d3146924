import { setTimeout as delay } from 'node:timers/promises'
import type { Session } from '../src/adapters/database.ts'
import { cpuUs, cpuUsOfFamily, mainThreadUs, residentMiB } from './cpu.ts'
import { verifyKept } from './evidence.ts'
import { type Figures, percentileFigures } from './figures.ts'
import type { Helper } from './helper-process.ts'
import { clockMs, percentilesOf } from './ledger.ts'
import type { LoadQuestions, PostLog } from './load.ts'
import { type PayloadKind, payloadMaker } from './payloads.ts'
import { type PostgresCounters, readCounters } from './postgres-counters.ts'
import type { ReceiverQuestions } from './receiver.ts'
import type { Target } from './testbed.ts'

/** How long to measure. */
export interface Pace {
  readonly seconds: number
  /** Unmeasured, before that, until V8 has compiled what is hot. */
  readonly warmUpSeconds: number
}

/** How messages are posted. */
export interface MessageLoad extends Pace {
  readonly payload: PayloadKind
  readonly connections: number
  /** Posts a second in an open loop; absent: a closed loop, as fast as it goes. */
  readonly rate?: number
}

/** Who takes part. */
export interface Cast {
  readonly target: Target
  readonly generator: Helper<LoadQuestions>
  readonly receiver: Helper<ReceiverQuestions>
  /** Absent for the plain forwarder, which has no database. */
  readonly database?: { readonly session: Session; readonly postmasterPid: number }
}

/** A run as it was: its figures, and when it was, for a profile that covers more. */
export interface Measured {
  readonly figures: Figures
  readonly messages: number
  /** clockMs of the first post and of the moment when nothing was left to do. */
  readonly beganMs: number
  readonly settledMs: number
}

/**
 * Posts, waits until every accepted message has arrived and everything is recorded, and makes figures of it. The costs
 * are those of the whole time, so work put off is not work saved. Rejects when a message is missing or refused, or when
 * anything in the sample does not verify. `warmedUp` is called just before what is measured begins.
 */
export async function measureMessages(
  cast: Cast,
  load: MessageLoad,
  warmedUp: () => Promise<void> = async () => {},
): Promise<Measured> {
  const { target, receiver } = cast
  const warmUp = await post(cast, { ...load, seconds: load.warmUpSeconds }, 0)
  await settle(cast, warmUp, 0)
  await receiver.ask('sample')
  await warmedUp()

  const firstPost = warmUp.startMs.length
  for (const relay of target.relays) relay.forgetStalls()
  const before = await readCosts(cast)
  const memory = watchMemory(target.pids)
  const log = await post(cast, load, firstPost)
  const arrivals = await settle(cast, log, firstPost)
  const settledMs = clockMs()
  const residentMaxMiB = memory.stop()
  const after = await readCosts(cast)

  const accepted = count(log.status, (status) => status === 202)
  const refused = count(log.status, (status) => status !== 202 && status !== 0)
  if (refused > 0) throw new Error(`${refused} of ${log.status.length} posts were refused`)
  const [relay] = target.relays
  const kept = { receipts: log.receipts, webhooks: await receiver.ask('sample') }
  const verified = relay === undefined ? 0 : await verifyKept(relay, kept, payloadMaker(load.payload))
  const stalls = await Promise.all(target.relays.map((one) => one.stalls()))

  const elapsedS = (log.endedMs - log.beganMs) / 1000
  const messages = target.endpoints === 0 ? accepted : count(arrivals.counts, (times) => times > 0)
  const latest = arrivals.lastMs.reduce((last, atMs) => Math.max(last, atMs), 0)
  const figures: Figures = {
    acceptedPerS: accepted / elapsedS,
    ...percentileFigures('accept', percentilesOf(latencies(log, log.answeredMs))),
    ...(target.endpoints > 0 && {
      deliveredPerS: (total(arrivals.counts) * 1000) / (latest - log.beganMs),
      ...percentileFigures('endToEnd', percentilesOf(latencies(log, arrivals.lastMs))),
      behindAtEnd: count(
        log.status,
        (status, post) => status === 202 && !((arrivals.lastMs[post] ?? 0) <= log.endedMs),
      ),
      duplicates: total(arrivals.counts) - messages * target.endpoints,
    }),
    ...perMessage(before, after, messages),
    ...batchFigures(before, after),
    residentMaxMiB,
    ...(stalls.length > 0 && {
      stallP99Ms: Math.max(...stalls.map((s) => s.p99Ms)),
      stallMaxMs: Math.max(...stalls.map((s) => s.maxMs)),
    }),
    generatorBusy: coresOf(before.generatorUs, after.generatorUs, settledMs - log.beganMs),
    verified,
  }
  return { figures, messages, beganMs: log.beganMs, settledMs }
}

function post({ target, generator }: Cast, { rate, ...load }: MessageLoad, firstPost: number): Promise<PostLog> {
  const { payload, seconds, connections } = load
  const posting = { urls: target.urls, headers: target.headers, firstPost, payload, seconds, connections }
  return rate === undefined ? generator.ask('closedLoop', posting) : generator.ask('openLoop', { ...posting, rate })
}

/** How long deliveries may make no progress before what has not arrived counts as missing. */
const patienceMs = 30_000
const pollMs = 50

/** Waits until every accepted message arrived everywhere and the relays have nothing left to record. */
async function settle({ target, receiver }: Cast, log: PostLog, firstPost: number) {
  const deadline = progressDeadline()
  for (;;) {
    const idle = (await Promise.all(target.relays.map(isIdle))).every(Boolean)
    const arrivals = await receiver.ask('arrivals', firstPost)
    const missing = count(
      log.status,
      (status, post) => status === 202 && (arrivals.counts[post] ?? 0) < target.endpoints,
    )
    if (missing === 0 && idle) return arrivals
    if (deadline.passed(total(arrivals.counts))) throw new Error(`${missing} accepted messages did not arrive`)
    await delay(pollMs)
  }
}

function progressDeadline(): { passed: (progress: number) => boolean } {
  let reached = -1
  let atMs = 0
  return {
    passed(progress) {
      if (progress !== reached) [reached, atMs] = [progress, clockMs()]
      return clockMs() - atMs > patienceMs
    },
  }
}

async function isIdle(relay: Target['relays'][number]): Promise<boolean> {
  const metrics = await relay.metrics()
  return ['queue_depth', 'deliveries_queued', 'deliveries_in_flight'].every((name) => metrics.get(name) === 0)
}

/** Everything that only ever grows, read at one moment. */
interface Costs {
  readonly relayUs: number | undefined
  readonly mainThreadUs: number | undefined
  readonly postgresUs: number | undefined
  readonly receiverUs: number | undefined
  readonly generatorUs: number | undefined
  readonly postgres: PostgresCounters | undefined
  readonly batches: number
  readonly statements: number
  readonly batchSeconds: number
}

async function readCosts({ target, generator, receiver, database }: Cast): Promise<Costs> {
  const [relays, mainThreads, receiverUs, generatorUs, postgresUs, postgres, metrics] = await Promise.all([
    Promise.all(target.pids.map(cpuUs)),
    Promise.all(target.pids.map(mainThreadUs)),
    cpuUs(receiver.pid),
    cpuUs(generator.pid),
    database && cpuUsOfFamily(database.postmasterPid),
    database && readCounters(database.session),
    Promise.all(target.relays.map((relay) => relay.metrics())),
  ])
  const metric = (name: string) => metrics.reduce((sum, one) => sum + (one.get(name) ?? 0), 0)
  return {
    relayUs: sumOf(relays),
    mainThreadUs: sumOf(mainThreads),
    ...{ postgresUs, receiverUs, generatorUs, postgres },
    batches: metric('batch_statements_count'),
    statements: metric('batch_statements_sum'),
    batchSeconds: metric('batch_seconds_sum'),
  }
}

/** Undefined as soon as one is. */
const sumOf = (values: readonly (number | undefined)[]): number | undefined =>
  values.reduce((sum, value) => (sum === undefined || value === undefined ? undefined : sum + value), 0)

function perMessage(before: Costs, after: Costs, messages: number): Figures {
  const each = (to: number | undefined, from: number | undefined) =>
    to === undefined || from === undefined || messages === 0 ? undefined : (to - from) / messages
  const relayUs = each(after.relayUs, before.relayUs)
  const postgresUs = each(after.postgresUs, before.postgresUs)
  return {
    relayUs,
    mainThreadUs: each(after.mainThreadUs, before.mainThreadUs),
    postgresUs,
    relayAndPostgresUs: relayUs === undefined || postgresUs === undefined ? undefined : relayUs + postgresUs,
    receiverUs: each(after.receiverUs, before.receiverUs),
    generatorUs: each(after.generatorUs, before.generatorUs),
    walBytes: each(after.postgres?.walBytes, before.postgres?.walBytes),
    fsyncs: each(after.postgres?.fsyncs, before.postgres?.fsyncs),
  }
}

/** How much of a core a process used. Near 1, the generator is what was measured. */
const coresOf = (fromUs: number | undefined, toUs: number | undefined, elapsedMs: number): number | undefined =>
  fromUs === undefined || toUs === undefined ? undefined : (toUs - fromUs) / (elapsedMs * 1000)

function batchFigures(before: Costs, after: Costs): Figures {
  const batches = after.batches - before.batches
  if (batches === 0) return {}
  return {
    batchStatements: (after.statements - before.statements) / batches,
    batchMs: ((after.batchSeconds - before.batchSeconds) / batches) * 1000,
  }
}

/** Looks four times a second; resolves nothing shorter, but a heap does not grow and shrink faster than that. */
function watchMemory(pids: readonly number[]): { stop: () => number | undefined } {
  let max: number | undefined
  const look = async () => {
    const sizes = await Promise.all(pids.map(residentMiB))
    for (const size of sizes) if (size !== undefined) max = Math.max(max ?? 0, size)
  }
  const timer = setInterval(() => void look(), 250)
  return {
    stop() {
      clearInterval(timer)
      return max
    },
  }
}

/** Milliseconds from start to `untilMs` of each post that has both. */
function latencies({ startMs }: PostLog, untilMs: Float64Array): Float64Array {
  return startMs
    .map((start, post) => (untilMs[post] ? untilMs[post] - start : Number.NaN))
    .filter((ms) => !Number.isNaN(ms))
}

const total = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0)

const count = (values: Float64Array, holds: (value: number, post: number) => boolean): number =>
  values.reduce((sum, value, post) => sum + (holds(value, post) ? 1 : 0), 0)
