import { cpuUs, cpuUsOfFamily, residentMiB } from './cpu.ts'
import { type Figures, percentileFigures } from './figures.ts'
import type { Helper } from './helper-process.ts'
import { percentilesOf } from './ledger.ts'
import type { LoadQuestions, Requesting } from './load.ts'
import type { Pace } from './message-load.ts'
import { payloadMaker } from './payloads.ts'
import type { RelayProcess } from './relay-process.ts'
import { enrol } from './testbed.ts'

/** Who takes part where a relay is asked and nothing is delivered. */
export interface RequestCast {
  readonly relay: RelayProcess
  readonly generator: Helper<LoadQuestions>
  readonly postmasterPid: number
}

const connections = 32
const mostSeconds = 10

/** Sends requests in turn, in a closed loop, and makes figures of the answers. Rejects when one is not as expected. */
export async function measureRequests(
  { relay, generator, postmasterPid }: RequestCast,
  { seconds, warmUpSeconds }: Pace,
  what: Pick<Requesting, 'requests' | 'headers' | 'expect'>,
): Promise<Figures> {
  const requesting: Omit<Requesting, 'seconds'> = { ...what, origin: relay.url, connections }
  const readCosts = () => Promise.all([cpuUs(relay.pid), cpuUsOfFamily(postmasterPid)])
  await generator.ask('request', { ...requesting, seconds: warmUpSeconds })
  relay.forgetStalls()
  const [relayBeforeUs, postgresBeforeUs] = await readCosts()
  const log = await generator.ask('request', { ...requesting, seconds: Math.min(seconds, mostSeconds) })
  const [relayAfterUs, postgresAfterUs] = await readCosts()
  const answered = log.status.filter((status) => status === 200).length
  const latencies = log.startMs.map((start, post) => (log.answeredMs[post] ?? 0) - start).filter((ms) => ms > 0)
  const each = (from: number | undefined, to: number | undefined) =>
    from === undefined || to === undefined ? undefined : (to - from) / answered
  const relayUs = each(relayBeforeUs, relayAfterUs)
  const postgresUs = each(postgresBeforeUs, postgresAfterUs)
  const stalls = await relay.stalls()
  return {
    answeredPerS: (answered * 1000) / (log.endedMs - log.beganMs),
    ...percentileFigures('accept', percentilesOf(latencies)),
    relayUs,
    postgresUs,
    relayAndPostgresUs: relayUs === undefined || postgresUs === undefined ? undefined : relayUs + postgresUs,
    residentMaxMiB: await residentMiB(relay.pid),
    stallP99Ms: stalls.p99Ms,
    stallMaxMs: stalls.maxMs,
  }
}

/** Enough leaves for a full tile and its bundle. */
const leavesForReading = 300

/** Posts so many messages of 1 KB that the log can be read from. Resolves with their receipts. */
export async function postForReading(relay: RelayProcess): Promise<[post: number, receipt: string][]> {
  const { urls, headers } = await enrol([relay], [])
  const payload = payloadMaker(1024)
  const receipts: [number, string][] = []
  for (let post = 0; post < leavesForReading; post++) {
    const answer = await fetch(urls[0] ?? '', { method: 'POST', headers, body: Buffer.from(payload(post)) })
    receipts.push([post, await answer.text()])
  }
  return receipts
}
