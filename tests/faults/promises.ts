/**
 * What Countersign promises, as a judge from outside reads it. Each promise is a function that yields whatever broke
 * it; none has side effects. The tree is rebuilt by the RFC's own slow recursion, webhook signatures are checked with
 * node:crypto alone.
 */
import { hash, verify } from 'node:crypto'
import { canonicalJson } from '../../src/message/canonical.ts'
import { parseJson } from '../../src/message/json.ts'
import { rfc6962, sha256 } from '../log/rfc6962.ts'
import { type Evidence, ownersOf } from './evidence.ts'
import { factsOf } from './ledger.ts'
import { canonicalPayload } from './vendors.ts'

export interface Violation {
  readonly promise: PromiseName
  /** The round whose fact shows it; undefined for what only the whole shows. */
  readonly round: number | undefined
  readonly what: string
}

type Findings = Generator<[round: number | undefined, what: string]>

const promises = {
  'every 202 is in the log exactly once, and its receipt verifies': loggedOnce,
  'the log is one tree that only ever grew': oneTree,
  'every 202 is delivered or abandoned, with the right bytes and a signature': delivered,
  'nothing is delivered that is not in the log': nothingUnlogged,
  'no tenant gets a byte of another': nothingForeign,
  'what got no 202 is wholly there or wholly absent': wholeOrAbsent,
  'one post is at most one message': oneMessage,
  'every leaf has one cause': nothingElse,
  'the relay never gives up by itself': neverGivesUp,
} as const satisfies Record<string, (evidence: Evidence) => Findings>

export type PromiseName = keyof typeof promises

export const promiseNames = Object.keys(promises) as PromiseName[]

export function judge(evidence: Evidence, names = promiseNames): Violation[] {
  return names.flatMap((promise) => [...promises[promise](evidence)].map(([round, what]) => ({ promise, round, what })))
}

function* loggedOnce({ receipts, log, facts }: Evidence): Findings {
  const places = placesOf(log.entries)
  const shown = new Set(receipts.map(({ post }) => post))
  for (const { round, post } of factsOf(facts, 'accepted'))
    if (!shown.has(post)) yield [round, `post ${post} has no receipt`]
  for (const { round, post, receipt, offline, online } of receipts) {
    const named = `post ${post} (${receipt.message})`
    const found = places.get(entryOf(receipt.payload)) ?? []
    if (found.length !== 1) yield [round, `${named} is in the log ${found.length} times`]
    else if (found[0] !== offline.log?.leafIndex) yield [round, `${named} is not where its receipt says`]
    const failed = offline.checks.filter(({ ok }) => !ok).map(({ detail }) => detail)
    if (offline.verdict !== 'valid') yield [round, `${named} has a receipt that does not verify: ${failed.join('; ')}`]
    if (online !== 'valid') yield [round, `${named} has a receipt that the relay calls ${online}`]
  }
}

/** Every checkpoint in any receipt is of this tree, at its size: two that contradict each other cannot both be. */
function* oneTree({ receipts, log }: Evidence): Findings {
  const { treeSize, entries } = log
  if (entries.length !== treeSize)
    return yield [undefined, `the log has ${treeSize} leaves and serves ${entries.length}`]
  const leafHashes = entries.map((entry) => sha256(Uint8Array.of(0), entry)) // RFC 6962 §2.1
  const slow = rfc6962((start, end) => (end - start === 1 ? leafHashes[start] : undefined))
  if (!equal(slow.treeHash(0, treeSize), log.rootHash))
    yield [undefined, `the leaves do not hash to the root at ${treeSize}`]
  for (const { level, index, hashes } of log.tiles) {
    const span = 256 ** level
    const first = index * 256
    const rebuilt = Array.from({ length: hashes.length / 32 }, (_, i) =>
      slow.treeHash((first + i) * span, (first + i + 1) * span),
    )
    if (!equal(Buffer.concat(rebuilt), hashes))
      yield [undefined, `tile ${level}/${index} has other hashes than the leaves`]
  }
  for (const { round, receipt, offline } of receipts) {
    if (offline.log === undefined) continue // not a valid receipt, which is said above
    const { treeSize: size, rootHash } = offline.log
    if (size > treeSize) yield [round, `${receipt.message} has a checkpoint of ${size} leaves; the log has ${treeSize}`]
    else if (!equal(slow.treeHash(0, size), Buffer.from(rootHash, 'base64'))) {
      yield [round, `${receipt.message} has a checkpoint of another tree of ${size} leaves`]
    }
  }
}

function* delivered({ receipts, facts, keys, messages }: Evidence): Findings {
  const arrived = new Map<string, Set<string>>() // message -> bodies
  const taken = new Set<string>()
  for (const { round, message, body, headers, taken: answered } of factsOf(facts, 'arrived')) {
    if (answered) taken.add(message)
    const bytes = Buffer.from(body, 'base64')
    arrived.set(message, (arrived.get(message) ?? new Set()).add(bytes.toString()))
    const key = keys.get(headers['webhook-key-id'] ?? '')
    const signed = Buffer.concat([Buffer.from(`${message}.${headers['webhook-timestamp']}.`), bytes])
    const [version, signature = ''] = headers['webhook-signature']?.split(',') ?? []
    const holds = version === 'v1a' && key !== undefined && verify(null, signed, key, Buffer.from(signature, 'base64'))
    if (!holds) yield [round, `${message} arrived without a valid v1a signature`]
    const digest = `sha-256=:${hash('sha256', bytes, 'base64')}:` // RFC 9530
    if (headers['content-digest'] !== digest) yield [round, `${message} arrived with the digest of another body`]
  }
  for (const { round, post, receipt } of receipts) {
    const bodies = [...(arrived.get(receipt.message) ?? [])]
    const states = messages
      .get(receipt.message)
      ?.deliveries.map(({ state }) => state)
      .join()
    if (states === 'delivered' && !taken.has(receipt.message))
      yield [round, `post ${post} (${receipt.message}) is called delivered, and nobody took it`]
    if (bodies.length === 0 && states !== 'abandoned') yield [round, `post ${post} (${receipt.message}) never arrived`]
    else if (bodies.length > 1 || (bodies.length === 1 && bodies[0] !== canonicalPayload(post)))
      yield [round, `${receipt.message} arrived as other bytes`]
  }
}

function* nothingUnlogged({ receipts, facts, log }: Evidence): Findings {
  const places = placesOf(log.entries)
  const shown = new Set(receipts.map(({ receipt }) => receipt.message))
  for (const { round, message, body, headers } of factsOf(facts, 'arrived')) {
    if (!shown.has(message)) yield [round, `${message} arrived, and the relay shows no receipt for a payload we posted`]
    const statement = headers['webhook-receipt']?.split('.')[1] ?? ''
    if (!places.has(entryOf(statement))) yield [round, `${message} arrived with a receipt that is not in the log`]
    else if (!states(statement, message, body)) yield [round, `${message} arrived with the receipt of another message`]
  }
}

function* nothingForeign({ facts, tenants, trespasses }: Evidence): Findings {
  const owners = new Map(factsOf(facts, 'posted').map(({ post, tenant }) => [canonicalPayload(post), tenant]))
  for (const { round, message, tenant, body, headers } of factsOf(facts, 'arrived')) {
    const bytes = Buffer.from(body, 'base64').toString()
    const owner = owners.get(bytes)
    if (owner !== undefined && owner !== tenant) yield [round, `${message} of ${owner} arrived at ${tenant}`]
    const statement = Buffer.from(headers['webhook-receipt']?.split('.')[1] ?? '', 'base64url').toString()
    const all = [bytes, statement, ...Object.values(headers)]
    for (const other of tenants.filter(({ name }) => name !== tenant)) {
      const trace = [other.name, ...other.ids].find((mark) => all.some((text) => text.includes(mark)))
      if (trace !== undefined) yield [round, `${message} brought ${trace} of ${other.name} to ${tenant}`]
    }
  }
  for (const { by, path, status } of trespasses) {
    if (status !== 404) yield [undefined, `${by} asked for ${path} of another tenant, and was answered ${status}`]
  }
}

/** A message is its row, its leaf and its delivery. `storage_unavailable` and `overloaded` promise that there is none. */
function* wholeOrAbsent({ receipts, facts, log, messages }: Evidence): Findings {
  const absent = new Map(factsOf(facts, 'refused').map(({ post, code }) => [post, code]))
  const retried = new Set(factsOf(facts, 'posted').flatMap(({ post, key }) => (key === null ? [] : [post])))
  for (const { round, post, receipt } of receipts) {
    const { message } = receipt
    const known = messages.get(message)
    if (known === undefined) {
      yield [round, `post ${post} (${message}) has a receipt, and the relay does not know it`]
      continue
    }
    const entry = log.entries[known.leaf_index]
    if (entry === undefined || hex(entry) !== entryOf(receipt.payload))
      yield [round, `${message} has a row that names another leaf`]
    const payload = Buffer.from(canonicalJson(known.payload)).toString()
    if (payload !== canonicalPayload(post)) yield [round, `${message} is kept with another payload`]
    const states = known.deliveries.map(({ state }) => state)
    if (!['delivered', 'abandoned'].includes(states.join()))
      yield [round, `${message} has deliveries [${states}], not one that is over`]
    const code = absent.get(post)
    if (code !== undefined && code !== 'outcome_unknown' && !retried.has(post)) {
      yield [round, `post ${post} was refused as ${code}, and is ${message} all the same`]
    }
  }
}

function* oneMessage({ receipts, facts }: Evidence): Findings {
  const became = new Map<number, Set<string>>()
  for (const { post, receipt } of receipts) became.set(post, (became.get(post) ?? new Set()).add(receipt.message))
  for (const [post, { size }] of became) if (size > 1) yield [undefined, `post ${post} has become ${size} messages`]
  for (const { round, post, key } of factsOf(facts, 'posted')) {
    if (key !== null && !became.has(post)) yield [round, `post ${post} was sent until it was accepted, and is nowhere`]
  }
}

/** So the number of leaves is that of messages, attempts and calls, and of what was there before. */
function* nothingElse({ log, messages, firstLeaf, calls }: Evidence): Findings {
  const owners = ownersOf(messages)
  for (let leaf = firstLeaf; leaf < log.treeSize; leaf++) {
    const named = calls.has(leaf) ? ['a call', ...(owners.get(leaf) ?? [])] : (owners.get(leaf) ?? [])
    if (named.length !== 1)
      yield [undefined, `leaf ${leaf} belongs to ${named.length === 0 ? 'nobody' : named.join(' and ')}`]
  }
}

/** A relay may end itself while it opens, if its database is gone then: its supervisor starts another. */
function* neverGivesUp({ facts }: Evidence): Findings {
  for (const { round, name, exitCode, said, opening, asked } of factsOf(facts, 'exited')) {
    if (!opening && !asked) yield [round, `${name} exited with ${exitCode} without being killed: ${said}`]
  }
  for (const { round, post, status, code } of factsOf(facts, 'refused')) {
    if (status !== 503) yield [round, `post ${post} was answered ${status} ${code}`]
  }
}

/** Where in the log an entry stands, by the entry in hexadecimal. */
function placesOf(entries: readonly Uint8Array[]): Map<string, number[]> {
  const places = new Map<string, number[]>()
  for (const [index, entry] of entries.entries()) places.set(hex(entry), [...(places.get(hex(entry)) ?? []), index])
  return places
}

/** The log entry of a statement in base64url. */
const entryOf = (statement: string): string => hex(sha256(Buffer.from(statement, 'base64url')))

function states(statement: string, message: string, body: string): boolean {
  const { sub, payload } = parseJson(Buffer.from(statement, 'base64url')) as {
    sub?: unknown
    payload?: { sha256?: unknown }
  }
  return sub === message && payload?.sha256 === hash('sha256', Buffer.from(body, 'base64'), 'base64url')
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const equal = (left: Uint8Array, right: Uint8Array): boolean => Buffer.compare(left, right) === 0
