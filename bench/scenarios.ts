import { mkdtemp } from 'node:fs/promises'
import { join } from 'node:path'
import type { FloorQuestions } from './baseline-floor.ts'
import type { ForwarderQuestions } from './baseline-forwarder.ts'
import { measureSignatures } from './baseline-signatures.ts'
import { cpuUsOfFamily } from './cpu.ts'
import { measureExport } from './export.ts'
import type { Figures } from './figures.ts'
import { measureHeadOfLine } from './head-of-line.ts'
import { measureLargeLog } from './large-log.ts'
import { clockMs } from './ledger.ts'
import { type Cast, type MessageLoad, measureMessages, type Pace } from './message-load.ts'
import { payloadMaker } from './payloads.ts'
import { measurePendingDeliveries } from './pending-deliveries.ts'
import { readCounters } from './postgres-counters.ts'
import { RelayProcess } from './relay-process.ts'
import { measureRequests, postForReading } from './request-load.ts'
import { measureSoak } from './soak.ts'
import { enrol, type Target, type Testbed } from './testbed.ts'

export interface Scenario {
  readonly title: string
  /** Part of `--quick`. */
  readonly quick?: true
  /** Takes so long that it runs only when named. */
  readonly long?: true
  measure(testbed: Testbed, pace: ScenarioPace, say: (sentence: string) => void): Promise<Figures>
}

/** How long, or how much of what has an end by itself. */
export interface ScenarioPace extends Pace {
  /** In the log that is exported. */
  readonly statements: number
}

/** A closed loop of enough posts that neither core waits for one, and few enough that deliveries keep up with them. */
export const fullSpeed = { payload: 1024, connections: 128 } as const

/** What is measured, in this order. Baselines come first, since the ratios are to them. */
export const scenarios: Readonly<Record<string, Scenario>> = {
  signatures: {
    title: 'baseline: Ed25519 on one core',
    quick: true,
    measure: (_testbed, { seconds }) => measureSignatures(Math.min(3, seconds / 3)),
  },
  floor: { title: 'baseline: one insert and commit per 256 × 1 KB', quick: true, measure: measureFloor },
  forwarder: { title: 'baseline: Fastify and undici, 1 KB', quick: true, measure: measureForwarder },
  'end-to-end': messages('end to end, full speed, 1 KB', { quick: true }),
  sustained: messages('end to end, full speed for 60 s, 1 KB', { seconds: 60 }),
  'rate-200': messages('end to end, 200 a second, 1 KB', { rate: 200 }),
  'rate-1000': messages('end to end, 1,000 a second, 1 KB', { rate: 1000, quick: true }),
  'rate-2000': messages('end to end, 2,000 a second, 1 KB', { rate: 2000 }),
  'accept-only': messages('accept only, full speed, 1 KB', { endpoints: 0, quick: true }),
  'fan-out': messages('10 endpoints, 1 KB', { endpoints: 10, connections: 6 }),
  'slow-receiver': messages('receiver answers after 100 ms, 300 a second, 1 KB', { rate: 300, receiverDelayMs: 100 }),
  github: messages('end to end, full speed, GitHub payloads of 1 to 27 KB', { payload: 'github' }),
  'payload-10k': messages('end to end, full speed, 10 KB', { payload: 10 * 1024 }),
  'payload-100k': messages('end to end, full speed, 100 KB', { payload: 100 * 1024, connections: 16 }),
  'payload-900k': messages('end to end, full speed, 900 KB', { payload: 900 * 1024, connections: 4 }),
  'two-relays': messages('two relays on one database, full speed, 1 KB', { relays: 2 }),
  verify: { title: 'verify a receipt with its payload', quick: true, measure: measureVerify },
  jwks: reads('read the JWKS', '/.well-known/jwks.json', '"keys"', { quick: true }),
  checkpoint: reads('read the checkpoint', '/log/checkpoint', 'relay.bench/log'),
  tile: reads('read a full tile', '/log/tile/0/000', ''),
  entries: reads('read a full bundle of entries', '/log/tile/entries/000', ''),
  'large-log': { title: 'a log of 10 million leaves beside one of 10 thousand', measure: measureLargeLog },
  'pending-deliveries': {
    title: '10 million pending deliveries beside 10 thousand',
    measure: measurePendingDeliveries,
  },
  'head-of-line': {
    title: '1 dead and 1 slow endpoint among 50, 1,000 a second',
    measure: measureHeadOfLine,
  },
  soak: {
    title: 'end to end, 1,000 a second, for minutes instead of seconds',
    long: true,
    measure: async (testbed, pace, say) => measureSoak(await assemble(testbed, {}), pace, say),
  },
  export: {
    title: 'audit-log export of one tenant, and its verification',
    long: true,
    measure: (testbed, { statements }, say) => measureExport(testbed, statements, say),
  },
  start: { title: 'cold start, PostgreSQL made included', measure: (testbed) => measureStart(testbed, 'cold') },
  restart: { title: 'warm start on the same folder', measure: (testbed) => measureStart(testbed, 'warm') },
}

interface MessageOptions extends Partial<Pick<MessageLoad, 'payload' | 'connections' | 'rate'>> {
  readonly endpoints?: number
  readonly relays?: number
  readonly receiverDelayMs?: number
  /** Instead of what the command line says. */
  readonly seconds?: number
  readonly quick?: true
}

function messages(title: string, { quick, ...options }: MessageOptions): Scenario {
  const { payload = fullSpeed.payload, rate } = options
  // An open loop must never wait for a connection, or it is not open.
  const connections = options.connections ?? (rate === undefined ? fullSpeed.connections : 512)
  const measure = async (testbed: Testbed, pace: Pace) => {
    const cast = await assemble(testbed, options)
    const { figures } = await measureMessages(cast, {
      payload,
      connections,
      ...pace,
      ...(options.seconds !== undefined && { seconds: options.seconds }),
      ...(rate !== undefined && { rate }),
    })
    return figures
  }
  return { title, measure, ...(quick && { quick }) }
}

/** A relay under load, with whatever of it the options ask for. */
export async function assemble(
  testbed: Testbed,
  { endpoints = 1, relays: howMany = 1, receiverDelayMs = 0 }: MessageOptions,
  profileFolder?: string,
): Promise<Cast & Required<Pick<Cast, 'database'>>> {
  const database = await testbed.createDatabase()
  const { session } = database
  const { receiver, urls } = await testbed.startReceiver(endpoints, receiverDelayMs)
  const relays: RelayProcess[] = []
  while (relays.length < howMany) relays.push(await testbed.startRelay(database, profileFolder))
  const target = await enrol(relays, urls)
  const generator = await testbed.startGenerator()
  return { target, generator, receiver, database: { session, postmasterPid: testbed.postgres.pid ?? 0 } }
}

async function measureForwarder(testbed: Testbed, pace: Pace): Promise<Figures> {
  const { receiver, urls } = await testbed.startReceiver(1)
  const forwarder = await testbed.startHelper<ForwarderQuestions>('baseline-forwarder.ts')
  const url = await forwarder.ask('listen', { receiverUrl: urls[0] ?? '' })
  const headers = { 'content-type': 'application/json' }
  const target: Target = { urls: [url], headers, pids: [forwarder.pid], relays: [], endpoints: 1 }
  const generator = await testbed.startGenerator()
  return (await measureMessages({ target, generator, receiver }, { ...fullSpeed, ...pace })).figures
}

async function measureFloor(testbed: Testbed, { seconds }: Pace): Promise<Figures> {
  const { url, session } = await testbed.createDatabase()
  const floor = await testbed.startHelper<FloorQuestions>('baseline-floor.ts')
  const postmaster = testbed.postgres.pid ?? 0
  const before = { counters: await readCounters(session), us: await cpuUsOfFamily(postmaster) }
  const { rows, commits, elapsedMs } = await floor.ask('insert', { url, seconds: Math.min(seconds, 10) })
  const after = { counters: await readCounters(session), us: await cpuUsOfFamily(postmaster) }
  const paced = await floor.ask('pace', { url, seconds: Math.ceil(seconds / 3) })
  return {
    ...(paced && { pacedCommitP50Ms: paced.p50, pacedCommitP99Ms: paced.p99, pacedCommitP999Ms: paced.p999 }),
    rowsPerS: (rows * 1000) / elapsedMs,
    commitMs: elapsedMs / commits,
    postgresUs: after.us === undefined || before.us === undefined ? undefined : (after.us - before.us) / rows,
    walBytes: (after.counters.walBytes - before.counters.walBytes) / rows,
    fsyncs: (after.counters.fsyncs - before.counters.fsyncs) / rows,
  }
}

async function relayForReading(testbed: Testbed) {
  const relay = await testbed.startRelay(await testbed.createDatabase())
  const receipts = await postForReading(relay)
  const cast = { relay, generator: await testbed.startGenerator(), postmasterPid: testbed.postgres.pid ?? 0 }
  return { receipts, cast }
}

async function measureVerify(testbed: Testbed, pace: Pace): Promise<Figures> {
  const { receipts, cast } = await relayForReading(testbed)
  const payload = payloadMaker(1024)
  const bodies = receipts.map(([post, receipt]) => `{"receipt":${receipt},"payload":${payload(post)}}`)
  const requests = bodies.map((body) => ({ path: '/v1/verify', body }))
  return measureRequests(cast, pace, { requests, expect: '"verdict":"valid"' })
}

function reads(title: string, path: string, expect: string, { quick }: { quick?: true } = {}): Scenario {
  const measure = async (testbed: Testbed, pace: Pace) => {
    const { cast } = await relayForReading(testbed)
    return measureRequests(cast, pace, { requests: [{ path }], expect })
  }
  return { title, measure, ...(quick && { quick }) }
}

/** From spawn to ready with a PostgreSQL of its own: made anew (cold), or found there (warm). */
async function measureStart(testbed: Testbed, kind: 'cold' | 'warm'): Promise<Figures> {
  const dataDir = await mkdtemp(join(testbed.folder, 'start-'))
  if (kind === 'warm') await (await RelayProcess.start({ dataDir })).stop()
  const beganMs = clockMs()
  const relay = await RelayProcess.start({ dataDir })
  try {
    await relay.call('GET', '/readyz')
    const startMs = clockMs() - beganMs
    const { urls, headers } = await enrol([relay], [])
    const postedMs = clockMs()
    const answer = await fetch(urls[0] ?? '', { method: 'POST', headers, body: Buffer.from(payloadMaker(1024)(0)) })
    if (answer.status !== 202) throw new Error(`the first post was answered ${answer.status}`)
    return { startMs, firstAcceptMs: clockMs() - postedMs }
  } finally {
    await relay.stop()
  }
}
