import { createPublicKey, type KeyObject, type webcrypto } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { parseCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { decodeBundle, tilePath } from '../../src/log/tile.ts'
import { type JsonValue, parseJson } from '../../src/message/json.ts'
import type { MessageReceipt } from '../../src/receipt/receipt.ts'
import { trustLog, type Verdict, verifyEvidence } from '../../src/receipt/verify.ts'
import { type Fact, type FactOf, factsOf } from './ledger.ts'
import type { RelayProcess } from './relay-process.ts'
import type { Tenant, TenantName } from './tenants.ts'
import { canonicalPayload, spelledPayload, tenantOf } from './vendors.ts'

/** All that promises.ts judges: what the ledger saw, and what the relay shows anyone who asks, once faults are over. */
export interface Evidence {
  readonly facts: readonly FactOf<Fact['kind']>[]
  /** Each 202, and for messages whose 202 was lost a fresh receipt. */
  readonly receipts: readonly ShownReceipt[]
  /** Every message heard of, as the relay knows it. */
  readonly messages: ReadonlyMap<string, KnownMessage>
  readonly log: ShownLog
  /** Leaves before this one are not the vendors' doing. */
  readonly firstLeaf: number
  /** Leaves about calls of the API: evidence is gathered by such calls, and refused posts are some. */
  readonly calls: ReadonlySet<number>
  /** The published keys, by kid. */
  readonly keys: ReadonlyMap<string, KeyObject>
  readonly tenants: readonly Pick<Tenant, 'name' | 'ids'>[]
  /** What tenants were answered who asked for the messages of others. */
  readonly trespasses: readonly Trespass[]
}

export interface Trespass {
  readonly by: TenantName
  readonly path: string
  readonly status: number
}

export interface ShownReceipt {
  readonly round: number
  readonly post: number
  readonly receipt: MessageReceipt
  /** By receipt/verify.ts against the JWKS and the vkey, and by POST /v1/verify; the payload as posted included. */
  readonly offline: Verdict
  readonly online: string
}

export interface KnownMessage {
  readonly leaf_index: number
  readonly payload: JsonValue
  readonly deliveries: readonly {
    readonly state: string
    readonly attempts: readonly { readonly leaf_index: number }[]
  }[]
}

export interface ShownLog {
  readonly treeSize: number
  readonly rootHash: Uint8Array
  readonly entries: readonly Uint8Array[]
  /** Every tile of every level: hashes in a row. */
  readonly tiles: readonly { readonly level: number; readonly index: number; readonly hashes: Uint8Array }[]
}

/** How long the backlog may stand still before it counts as stuck: longer than a lease. */
const backlogWithinMs = 90_000
const backlogPollMs = 1_000

/**
 * Asks for everything, over HTTP. Receipts are verified first and the backlog is waited for second, since what a killed
 * relay had claimed takes its lease to fall due again.
 */
export async function gatherEvidence(
  relay: RelayProcess,
  tenants: readonly Tenant[],
  facts: Evidence['facts'],
  firstLeaf: number,
): Promise<Evidence> {
  const keys = await publishedKeys(relay)
  const verify = await verifier(relay, keys)
  const accepted = await each(factsOf(facts, 'accepted'), ({ round, post, receipt }) => verify(round, post, receipt))
  const answered = new Set(accepted.map(({ receipt }) => receipt.message))

  const messages = await untilBacklogEnds(relay, facts, answered, firstLeaf)
  const posts = new Map(factsOf(facts, 'posted').map(({ post }) => [canonicalPayload(post), post]))
  const lost = new Map(factsOf(facts, 'arrived').map((fact) => [fact.message, fact]))
  for (const message of answered) lost.delete(message)
  const recovered = await each([...lost.values()], async ({ round, message, body }) => {
    const response = await relay.call(`/v1/messages/${message}/receipt`)
    const post = posts.get(Buffer.from(body, 'base64').toString())
    return response.ok && post !== undefined ? [await verify(round, post, await response.text())] : []
  })
  const receipts = [...accepted, ...recovered.flat()]
  const trespasses = await trespass(relay, tenants, receipts)
  const log = await readLog(relay)
  // Asked after the log was read, so that every leaf of it is answered for, our own questions among them.
  const calls = new Set(
    [...(await readKinds(relay, firstLeaf))].flatMap(([leaf, kind]) => (isCall(kind) ? [leaf] : [])),
  )
  return { facts, receipts, messages, log, firstLeaf, calls, keys, tenants, trespasses }
}

/** Messages of each tenant that the others ask for. */
const coveted = 5

function trespass(relay: RelayProcess, tenants: readonly Tenant[], receipts: readonly ShownReceipt[]) {
  const asked = tenants.flatMap((tenant) => {
    const foreign = tenants.flatMap(({ name }) =>
      name === tenant.name ? [] : receipts.filter(({ post }) => tenantOf(post) === name).slice(-coveted),
    )
    return foreign.flatMap(({ receipt: { message } }) =>
      ['', '/receipt', '/deliveries'].map((part) => ({ tenant, path: `/v1/messages/${message}${part}` })),
    )
  })
  return each(asked, async ({ tenant, path }): Promise<Trespass> => {
    const response = await relay.call(path, undefined, tenant.tenantKey)
    await response.text()
    return { by: tenant.name, path, status: response.status }
  })
}

/** The size of the log now: what the vendors add starts there. */
export async function treeSizeNow(relay: RelayProcess): Promise<number> {
  return (await latestCheckpoint(relay)).treeSize
}

async function publishedKeys(relay: RelayProcess): Promise<Map<string, KeyObject>> {
  const { keys } = (await (await relay.call('/.well-known/jwks.json')).json()) as {
    keys: (webcrypto.JsonWebKey & { kid: string })[]
  }
  return new Map(keys.map((jwk) => [jwk.kid, createPublicKey({ key: jwk, format: 'jwk' })]))
}

/** Verifies a receipt both ways: as its holder would, without us, and by asking us. */
async function verifier(relay: RelayProcess, publicKeys: ReadonlyMap<string, KeyObject>) {
  const lines = (await (await relay.call('/log/vkey')).text()).trim().split('\n')
  const vkeys = lines.map(parseVerifierKey)
  const openCheckpoint = trustLog({ origin: vkeys[0]?.name ?? '', vkeys })
  const times = { validFrom: new Date(0), validUntil: undefined, revoked: undefined }
  const keys = [...publicKeys].map(([kid, publicKey]) => ({ kid, publicKey, ...times }))
  const findKey = (kid: string) => keys.find((key) => key.kid === kid)
  const trust = { keys: () => keys, findKey, openCheckpoint, issuer: undefined }

  return async (round: number, post: number, text: string): Promise<ShownReceipt> => {
    const value = parseJson(Buffer.from(text))
    const offline = verifyEvidence({ receipt: value, payload: Buffer.from(spelledPayload(post)) }, trust)
    const response = await relay.call('/v1/verify', `{"receipt":${text},"payload":${spelledPayload(post)}}`)
    const { verdict } = (await response.json()) as { verdict: string }
    return { round, post, receipt: value as unknown as MessageReceipt, offline, online: verdict }
  }
}

/**
 * Resolves when nothing is left to do: every message heard of has only deliveries in their last state, and every leaf
 * but those about calls is the acceptance of such a message or one of its attempts. Any other leaf belongs to a message
 * that nobody has heard of yet: accepted, its 202 lost, and still to arrive. Also resolves when nothing moves any more,
 * with what there is.
 */
async function untilBacklogEnds(
  relay: RelayProcess,
  facts: Evidence['facts'],
  answered: ReadonlySet<string>,
  firstLeaf: number,
): Promise<Map<string, KnownMessage>> {
  const messages = new Map<string, KnownMessage>()
  let movedAt = performance.now()
  for (let before = -1; performance.now() < movedAt + backlogWithinMs; await delay(backlogPollMs)) {
    const heardOf = new Set([...answered, ...factsOf(facts, 'arrived').map(({ message }) => message)])
    const open = [...heardOf].filter((message) => !isSettled(messages.get(message)))
    await each(open, async (message) => {
      const known = await readMessage(relay, message)
      if (known !== undefined) messages.set(message, known)
    })
    const settled = [...heardOf].filter((message) => isSettled(messages.get(message))).length
    if (settled > before) movedAt = performance.now()
    before = settled
    if (settled < heardOf.size) continue
    const owners = ownersOf(messages)
    const stated = [...(await readKinds(relay, firstLeaf))].filter(([, kind]) => !isCall(kind))
    if (stated.every(([leaf]) => owners.has(leaf))) break
  }
  return messages
}

const isSettled = (message: KnownMessage | undefined): boolean =>
  message?.deliveries.every(({ state }) => state !== 'pending') ?? false

/** Which messages a leaf belongs to, by leaf. */
export function ownersOf(messages: ReadonlyMap<string, KnownMessage>): Map<number, string[]> {
  const owners = new Map<number, string[]>()
  for (const [message, { leaf_index, deliveries }] of messages) {
    const attempts = deliveries.flatMap((delivery) => delivery.attempts.map((attempt) => attempt.leaf_index))
    for (const leaf of [leaf_index, ...attempts]) owners.set(leaf, [...(owners.get(leaf) ?? []), message])
  }
  return owners
}

const isCall = (kind: string): boolean => kind === 'api.called' || kind === 'api.refused'

/** What each leaf from `firstLeaf` on states, as the audit log of every tenant and of the deployment has it. */
async function readKinds(relay: RelayProcess, firstLeaf: number): Promise<Map<number, string>> {
  const kinds = new Map<number, string>()
  const ask = async (path: string) =>
    parseJson(new Uint8Array(await (await relay.call(path)).arrayBuffer())) as unknown as Page
  const { data: tenants } = await ask('/v1/tenants')
  for (const path of ['/v1/audit', ...tenants.map(({ id }) => `/v1/tenants/${id}/audit`)]) {
    for (let after: string | undefined = String(firstLeaf - 1); after !== undefined; ) {
      const page: Page = await ask(`${path}?limit=1000&after=${after}`)
      for (const { index, statement } of page.data) kinds.set(index, statement.kind)
      after = page.next
    }
  }
  return kinds
}

interface Page {
  readonly data: readonly {
    readonly id: string
    readonly index: number
    readonly statement: { readonly kind: string }
  }[]
  readonly next?: string
}

async function readMessage(relay: RelayProcess, message: string): Promise<KnownMessage | undefined> {
  const read = async (path: string): Promise<object | undefined> => {
    const response = await relay.call(path)
    return response.ok
      ? (parseJson(new Uint8Array(await response.arrayBuffer())) as object)
      : void (await response.text())
  }
  const facts = await read(`/v1/messages/${message}`)
  const deliveries = (await read(`/v1/messages/${message}/deliveries`)) as { data: unknown } | undefined
  return facts && deliveries && ({ ...facts, deliveries: deliveries.data } as KnownMessage)
}

async function latestCheckpoint(relay: RelayProcess) {
  const note = await (await relay.call('/log/checkpoint')).text()
  return parseCheckpoint(note.slice(0, note.indexOf('\n\n') + 1))
}

/** The whole log as c2sp.org/tlog-tiles serves it. */
async function readLog(relay: RelayProcess): Promise<ShownLog> {
  const { treeSize, rootHash } = await latestCheckpoint(relay)
  const read = async (level: number | 'entries', index: number, width: number): Promise<Uint8Array> => {
    const path = `/log/${tilePath(level, index, width)}`
    const response = await relay.call(path)
    if (!response.ok) throw new Error(`${path} answers ${response.status}, and the log has ${treeSize} leaves`)
    return new Uint8Array(await response.arrayBuffer())
  }
  const bundles = await each(tilesOf(treeSize), async ([index, width]) =>
    decodeBundle(await read('entries', index, width)),
  )
  const tiles: { level: number; index: number; hashes: Uint8Array }[] = []
  for (let level = 0, hashes = treeSize; hashes > 0; level++, hashes = Math.floor(hashes / 256)) {
    const row = await each(tilesOf(hashes), async ([index, width]) => ({
      level,
      index,
      hashes: await read(level, index, width),
    }))
    tiles.push(...row)
  }
  return { treeSize, rootHash, entries: bundles.flatMap((bundle) => bundle ?? []), tiles }
}

/** Index and width of each tile over so many hashes. */
const tilesOf = (hashes: number): [number, number][] =>
  Array.from({ length: Math.ceil(hashes / 256) }, (_, index) => [index, Math.min(256, hashes - index * 256)])

const inFlight = 16

/** `work` for each item, some at a time; results in order. */
async function each<Item, Result>(items: readonly Item[], work: (item: Item) => Promise<Result>): Promise<Result[]> {
  const results: Result[] = []
  const queue = items.entries()
  const worker = async () => {
    for (const [index, item] of queue) results[index] = await work(item)
  }
  await Promise.all(Array.from({ length: inFlight }, worker))
  return results
}
