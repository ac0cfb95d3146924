/**
 * Does one bad receiver slow down the others? Fifty tenants with an endpoint each are posted to in turn, 1,000 messages a
 * second in all. In one run two of them have no endpoint; in the other, one of the two never answers and one answers
 * after 10 s. The runs take turns, each on a fresh relay and database, and what counts is the 99th percentile, from post
 * to arrival, of the forty-eight that are well in both.
 */
import { setTimeout as delay } from 'node:timers/promises'
import type { Figures } from './figures.ts'
import type { Helper } from './helper-process.ts'
import { percentilesOf } from './ledger.ts'
import type { LoadQuestions, PostLog } from './load.ts'
import type { Pace } from './message-load.ts'
import type { ReceiverQuestions } from './receiver.ts'
import type { RelayProcess } from './relay-process.ts'
import type { Testbed } from './testbed.ts'

const tenants = 50
const healthy = 48
const postsPerS = 1000
const rounds = 2
const slowMs = 10_000
/** Longer than any timeout: it never answers. */
const deadMs = 3_600_000

export async function measureHeadOfLine(
  testbed: Testbed,
  pace: Pace,
  say: (sentence: string) => void,
): Promise<Figures> {
  const alone: number[] = []
  const beside: number[] = []
  for (let round = 0; round < rounds; round++) {
    alone.push(await measureRun(testbed, pace, []))
    beside.push(await measureRun(testbed, pace, [deadMs, slowMs]))
    say(`  p99 of the healthy: ${show(alone.at(-1))} alone, ${show(beside.at(-1))} beside a dead and a slow one`)
  }
  const healthyP99Ms = mean(beside)
  return { healthyP99Ms, healthyOfAlone: healthyP99Ms / mean(alone) }
}

/** The 99th percentile, in milliseconds, of the healthy endpoints beside bad ones that answer after `badMs`. */
async function measureRun(testbed: Testbed, pace: Pace, badMs: readonly number[]): Promise<number> {
  const relay = await testbed.startRelay(await testbed.createDatabase())
  const { receiver, urls } = await testbed.startReceiver(healthy)
  for (const delayMs of badMs) urls.push(...(await testbed.startReceiver(1, delayMs)).urls)
  const sources: { url: string; key: string }[] = []
  while (sources.length < tenants) sources.push(await enrolTenant(relay, urls[sources.length]))
  const generator = await testbed.startGenerator()
  const warmUp = await post(generator, sources, 0, pace.warmUpSeconds)
  const firstPost = warmUp.startMs.length
  const log = await post(generator, sources, firstPost, pace.seconds)
  const latencies = await settle(receiver, log, firstPost)
  await relay.stop()
  return percentilesOf(latencies)?.p99 ?? Number.NaN
}

async function enrolTenant(relay: RelayProcess, endpointUrl: string | undefined) {
  const { id: tenant } = await relay.call<{ id: string }>('POST', '/v1/tenants', { name: 'bench', tier: 'standard' })
  const at = `/v1/tenants/${tenant}`
  const { id: source } = await relay.call<{ id: string }>('POST', `${at}/sources`, { name: 'orders' })
  const wish = { name: 'vendor', role: 'ingest', source }
  const { key } = await relay.call<{ key: string }>('POST', `${at}/api-keys`, wish)
  if (endpointUrl !== undefined) await relay.call('POST', `${at}/endpoints`, { url: endpointUrl })
  return { url: `${relay.url}/v1/sources/${source}/messages`, key }
}

const post = (
  generator: Helper<LoadQuestions>,
  sources: readonly { url: string; key: string }[],
  firstPost: number,
  seconds: number,
): Promise<PostLog> =>
  generator.ask('openLoop', {
    urls: sources.map(({ url }) => url),
    keys: sources.map(({ key }) => key),
    headers: { 'content-type': 'application/json' },
    ...{ payload: 1024, connections: 16, rate: postsPerS, firstPost, seconds },
  })

/** Milliseconds from post to arrival of every message to a healthy endpoint, once all have arrived. */
async function settle(receiver: Helper<ReceiverQuestions>, log: PostLog, firstPost: number): Promise<Float64Array> {
  const mine = (post: number) => post % tenants < healthy
  for (let looks = 0; looks < 600; looks++) {
    const { lastMs } = await receiver.ask('arrivals', firstPost)
    const missing = log.status.filter((status, i) => mine(i) && !(status === 202 && (lastMs[i] ?? 0) > 0)).length
    if (missing === 0) return log.startMs.map((ms, i) => (lastMs[i] ?? 0) - ms).filter((_, i) => mine(i))
    await delay(100)
  }
  throw new Error('messages to healthy endpoints are missing')
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length

const show = (ms = Number.NaN): string => `${ms.toFixed(1)} ms`
