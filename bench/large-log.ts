/**
 * Does a log get dearer as it grows? Two logs, three orders of magnitude apart, each with some real messages at its very
 * beginning, are measured in turn, so that what the machine does meanwhile happens to both:
 *
 *     start a relay -> fresh receipts of the oldest messages -> append at a modest rate -> stop       three times each
 *
 * The figures are the large log's, and its ratios to the small one; both from medians.
 */
import { statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { FsObjectStore } from '../src/adapters/object-store-fs.ts'
import { latestKey } from '../src/log/published.ts'
import { verifyKept } from './evidence.ts'
import { type FigureName, type Figures, figureNames, showFigure } from './figures.ts'
import type { Helper } from './helper-process.ts'
import { clockMs, percentilesOf } from './ledger.ts'
import type { LoadQuestions } from './load.ts'
import { measureMessages, type Pace } from './message-load.ts'
import { payloadMaker } from './payloads.ts'
import type { ReceiverQuestions } from './receiver.ts'
import { adminKey, type RelayProcess } from './relay-process.ts'
import { measureRequests, postForReading } from './request-load.ts'
import { extendLog } from './synthetic-log.ts'
import { enrol, type FreshDatabase, type Testbed } from './testbed.ts'

const smallLeaves = 10_000
const largeLeaves = 10_000_000
const rounds = 3
/** Appends a second: far from what a relay can do, so that the figures tell of costs and not of queues. */
const appendsPerS = 300
/** Tiles and bundles of the large log are 640 MB; the rest is for as much again in WAL, and for not filling a disk. */
const neededBytes = 3e9

export async function measureLargeLog(testbed: Testbed, pace: Pace, say: (sentence: string) => void): Promise<Figures> {
  const { bavail, bsize } = await statfs(testbed.folder)
  if (bavail * bsize < neededBytes) {
    say(
      `  SKIPPED: ${testbed.folder} has ${Math.round((bavail * bsize) / 1e6)} MB free, ${neededBytes / 1e6} are needed`,
    )
    return {}
  }
  const logs = [await seedLog(testbed, smallLeaves, say), await seedLog(testbed, largeLeaves, say)]
  const generator = await testbed.startGenerator()
  const { receiver } = await testbed.startReceiver(0)
  const halfPace = { ...pace, seconds: pace.seconds / 2 }
  for (let round = 0; round < rounds; round++) {
    for (const log of logs) {
      const figures = await measureLog(testbed, log, { generator, receiver }, halfPace)
      log.found.push(figures)
      say(`  ${log.leaves.toLocaleString('en-US')} leaves: ${shown.map((name) => show(name, figures)).join(', ')}`)
    }
  }
  const [small = {}, large = {}] = logs.map(({ found }) => medians(found))
  return {
    ...large,
    appendOfSmall: ratio(large.relayAndPostgresUs, small.relayAndPostgresUs),
    acceptOfSmall: ratio(large.acceptP50Ms, small.acceptP50Ms),
    receiptOfSmall: ratio(large.receiptUs, small.receiptUs),
    receiptTimeOfSmall: ratio(small.answeredPerS, large.answeredPerS), // what is a rate of one is the time of the other
    startOfSmall: ratio(large.startMs, small.startMs),
  }
}

interface SeededLog {
  readonly leaves: number
  readonly database: FreshDatabase
  /** Of the messages at its beginning. */
  readonly receipts: readonly [post: number, receipt: string][]
  readonly found: Figures[]
}

/** A log that begins with real messages and goes on with synthetic leaves. */
async function seedLog(testbed: Testbed, leaves: number, say: (sentence: string) => void): Promise<SeededLog> {
  say(`  making a log of ${leaves.toLocaleString('en-US')} leaves`)
  const database = await testbed.createDatabase()
  const relay = await testbed.startRelay(database)
  const receipts = await postForReading(relay)
  await relay.stop()
  const checkpoint = await extendLog(database, leaves, say)
  // As if it had been published all along: putting 80,000 tiles at once is not what a log of this size does.
  await new FsObjectStore(join(database.dataDir, 'objects')).put(latestKey, Buffer.from(checkpoint))
  return { leaves, database, receipts, found: [] }
}

/**
 * The start compares the log with the checkpoint published last. Reading comes before appending, which waits until everything is done: so no read is cut off when the relay stops.
 */
async function measureLog(
  testbed: Testbed,
  { database, receipts }: SeededLog,
  { generator, receiver }: { generator: Helper<LoadQuestions>; receiver: Helper<ReceiverQuestions> },
  pace: Pace,
): Promise<Figures> {
  const beganMs = clockMs()
  const relay = await testbed.startRelay(database)
  await relay.call('GET', '/readyz')
  const startMs = clockMs() - beganMs

  const postmasterPid = testbed.postgres.pid ?? 0
  const paths = receipts.map(([, receipt]) => `/v1/messages/${messageOf(receipt)}/receipt`)
  const verified = await verifyFresh(relay, receipts, paths)
  const reading = await measureRequests({ relay, generator, postmasterPid }, pace, {
    requests: paths.map((path) => ({ path })),
    headers: { authorization: `Bearer ${adminKey}` },
    expect: '"tlog-proof"',
  })

  const cast = { target: await enrol([relay], []), generator, receiver, database: { ...database, postmasterPid } }
  const load = { ...pace, payload: 1024, connections: 512, rate: appendsPerS }
  const { figures: appending } = await measureMessages(cast, load)
  await relay.stop()
  return {
    ...appending,
    verified: verified + (appending.verified ?? 0),
    startMs,
    answeredPerS: reading.answeredPerS,
    receiptUs: reading.relayAndPostgresUs,
  }
}

const messageOf = (receipt: string): string => (JSON.parse(receipt) as { message: string }).message

/** A stranger must find the oldest messages in the large log. Resolves with how many were looked for. */
async function verifyFresh(
  relay: RelayProcess,
  receipts: SeededLog['receipts'],
  paths: readonly string[],
): Promise<number> {
  const fresh: [number, string][] = []
  for (const [i, [post]] of receipts.entries()) {
    if (i % 16 === 0) fresh.push([post, JSON.stringify(await relay.call('GET', paths[i] ?? ''))])
  }
  return verifyKept(relay, { receipts: fresh, webhooks: [] }, payloadMaker(1024))
}

const medians = (found: readonly Figures[]): Figures =>
  Object.fromEntries(
    figureNames.flatMap((name) => {
      const values = Float64Array.from(found.flatMap((figures) => figures[name] ?? []))
      return values.length === 0 ? [] : [[name, percentilesOf(values)?.p50]]
    }),
  )

const ratio = (one: number | undefined, other: number | undefined): number | undefined =>
  one === undefined || other === undefined ? undefined : one / other

/** What progress says of each round. */
const shown = ['startMs', 'relayAndPostgresUs', 'acceptP50Ms', 'answeredPerS', 'receiptUs'] as const

const show = (name: FigureName, figures: Figures): string => {
  const value = figures[name]
  return value === undefined ? '-' : showFigure(name, value)
}
