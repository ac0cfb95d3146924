import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { VerifiedCheckpoint } from '../log/checkpoint.ts'
import { NoteError } from '../log/note.ts'
import { type JsonValue, parseJson } from '../message/json.ts'
import { type TrustMaterial, verifyEvidence } from '../receipt/verify.ts'
import { DemoStopped, until } from './demo/child.ts'
import { acceptedOf, deliveredOf, type Outcome, problemsOf, tabulate } from './demo/outcome.ts'
import {
  createVendor,
  type Post,
  postPayload,
  type RunningReceiver,
  type RunningRelay,
  startReceiver,
  startRelay,
  type Vendor,
} from './demo/parties.ts'
import { bar, showProgress } from './demo/progress.ts'
import { readInput } from './input.ts'
import { readTrust } from './trust.ts'

export interface DemoOptions {
  /** Posts under way at once. */
  readonly concurrency: number
  /** Only the first so many payloads; undefined is all. */
  readonly limit: number | undefined
  /** Leaves the data folder behind. */
  readonly keep: boolean
}

/**
 * The whole journey with real parts: a relay and a receiver, each a process of its own; every example payload posted;
 * every delivery verified by the receiver, which has none of our code; every receipt verified offline. Resolves to the
 * exit code. However it ends, Ctrl-C included, the processes are ended and the folder is removed.
 */
export async function demo(options: DemoOptions): Promise<0 | 1> {
  const stop = new AbortController()
  const interrupt = (signal: string): void => stop.abort(new DemoStopped(`stopped by ${signal}`))
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, interrupt)
  try {
    const outcome = await play(options, stop)
    const problems = problemsOf(outcome)
    process.stdout.write(`\n${tabulate(outcome)}\n${conclude(problems)}\n`)
    return problems.length === 0 ? 0 : 1
  } catch (error) {
    // What was under way when the demo was stopped fails in its own words; why it was stopped is what matters.
    const reason: unknown = stop.signal.aborted ? stop.signal.reason : error
    if (!(reason instanceof DemoStopped)) throw reason
    process.stderr.write(`\ncountersign: ${reason.message}\n`)
    return 1
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.off(signal, interrupt)
  }
}

async function play({ limit, keep, concurrency }: DemoOptions, stop: AbortController): Promise<Outcome> {
  const startedAtMs = performance.now()
  const payloads = (await readExamples()).slice(0, limit)

  await using folder = await makeFolder(keep)
  console.log(`starting a relay with its data in ${folder.path}`)
  await using relay = await startRelay(folder.path, stop)
  const jwks = `${relay.url}/.well-known/jwks.json`
  console.log(`starting a receiver that knows nothing but ${jwks}`)
  await using receiver = await startReceiver(jwks, stop)

  const vendor = await createVendor(relay, receiver.url, stop.signal)
  const posts = await postAll(payloads, { vendor, receiver, concurrency }, stop.signal)
  const trust = await fetchTrust(relay, jwks)
  const verdicts = new Map(acceptedOf(posts).map(({ id, ...evidence }) => [id, verifyEvidence(evidence, trust)]))
  const checkpoint = await fetchCheckpoint(relay, trust)
  return { posts, receptions: receiver.receptions, verdicts, checkpoint, tookMs: performance.now() - startedAtMs }
}

/** Every example of every event that GitHub documents, as a vendor serializes it. */
async function readExamples(): Promise<Uint8Array[]> {
  const path = createRequire(import.meta.url).resolve('@octokit/webhooks-examples')
  // Not by `require`, which is JSON.parse: bytes from outside have one door.
  const events = parseJson(await readFile(path)) as unknown as { examples: JsonValue[] }[]
  return events.flatMap(({ examples }) => examples.map((example) => Buffer.from(JSON.stringify(example))))
}

async function makeFolder(keep: boolean): Promise<{ readonly path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'countersign-demo-'))
  const remove = () => rm(path, { recursive: true, force: true })
  return { path, [Symbol.asyncDispose]: async () => (keep ? console.log(`\nkept ${path}`) : remove()) }
}

/** A failed attempt is made again within seconds, at first. */
const stalledMs = 30_000

/** Posts every payload, and waits until each that was accepted was delivered, or none has come for 30 seconds. */
async function postAll(
  payloads: readonly Uint8Array[],
  { vendor, receiver, concurrency }: { vendor: Vendor; receiver: RunningReceiver; concurrency: number },
  signal: AbortSignal,
): Promise<Post[]> {
  const posts: Post[] = []
  const { receptions } = receiver
  using _progress = showProgress(() => {
    const received = deliveredOf(receptions).size
    return `${bar(received, payloads.length)} ${posts.length} of ${payloads.length} posted, ${received} received`
  })
  const queue = payloads.values() // shared, so that each payload has one poster
  const poster = async (): Promise<void> => {
    for (const payload of queue) posts.push(await postPayload(vendor, payload, signal))
  }
  await Promise.all(Array.from({ length: concurrency }, poster))

  const missing = (): number => {
    const delivered = deliveredOf(receptions)
    return acceptedOf(posts).filter(({ id }) => !delivered.has(id)).length
  }
  let before: number
  do before = missing()
  while (before > 0 && (await until(() => missing() < before, stalledMs, signal)))
  return posts
}

/** What the relay publishes, fetched once; from here on nothing is asked of it about a receipt. */
async function fetchTrust({ url }: RunningRelay, jwks: string): Promise<TrustMaterial> {
  const vkeys = `${url}/log/vkey`
  return readTrust({
    jwks: { where: jwks, bytes: await readInput(jwks) },
    vkeys: { where: vkeys, bytes: await readInput(vkeys) },
    issuer: url,
  })
}

async function fetchCheckpoint({ url }: RunningRelay, trust: TrustMaterial): Promise<VerifiedCheckpoint | undefined> {
  const note = Buffer.from(await readInput(`${url}/log/checkpoint`)).toString()
  try {
    return trust.openCheckpoint?.(note)
  } catch (error) {
    if (error instanceof NoteError) return undefined
    throw error
  }
}

const mostProblemsShown = 10

function conclude(problems: readonly string[]): string {
  if (problems.length === 0) return 'everything verified'
  const more = problems.length - mostProblemsShown
  const shown = problems.slice(0, mostProblemsShown)
  return [...shown, ...(more > 0 ? [`and ${more} more`] : []), 'NOT everything verified'].join('\n')
}
