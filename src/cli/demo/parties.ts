import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { type JsonObject, type JsonValue, parseJson } from '../../message/json.ts'
import type { ReceiverMessage, Reception } from '../receiver.ts'
import { type Child, DemoStopped, startChild, until } from './child.ts'

/** A relay with a database of its own. */
export interface RunningRelay extends AsyncDisposable {
  /** The issuer of its receipts. */
  readonly url: string
  readonly adminKey: string
}

/** A receiver that verifies by itself, and what it has received so far. */
export interface RunningReceiver extends AsyncDisposable {
  readonly url: string
  readonly receptions: readonly Reception[]
}

/** Who posts: the address of a source, and its key. */
export interface Vendor {
  readonly url: string
  readonly key: string
}

/** What became of one post. */
export interface Post {
  readonly payload: Uint8Array
  /** Unix milliseconds. */
  readonly postedAtMs: number
  /** Until the answer was read. */
  readonly durationMs: number
  readonly answer: { kind: 'accepted'; id: string; receipt: JsonObject } | { kind: 'refused'; why: string }
}

/** A new cluster of PostgreSQL is set up first. */
const startTimeoutMs = 60_000

export async function startRelay(dataDir: string, stop: AbortController): Promise<RunningRelay> {
  const port = await findFreePort()
  const url = `http://localhost:${port}`
  const adminKey = `cs_demoadmin_${randomBytes(24).toString('hex')}`
  const env = { PORT: String(port), DATA_DIR: dataDir, COUNTERSIGN_ADMIN_KEY: adminKey, LOG_LEVEL: 'warn' }
  const child = startChild('relay', { path: new URL('../../main.ts', import.meta.url), env }, stop)
  const isReady = async (): Promise<boolean> => {
    const response = await fetch(`${url}/readyz`).catch(() => undefined)
    await response?.body?.cancel()
    return response?.status === 200
  }
  await started('relay', child, isReady, stop)
  return { ...child, url, adminKey }
}

export async function startReceiver(jwks: string, stop: AbortController): Promise<RunningReceiver> {
  const args = ['receive', '--jwks', jwks, '--port', '0']
  const child = startChild('receiver', { path: new URL('../main.ts', import.meta.url), args }, stop)
  const receptions: Reception[] = []
  let port = 0
  child.onMessage((message) => {
    const told = message as ReceiverMessage
    if (told.kind === 'listening') port = told.port
    else receptions.push(told)
  })
  await started('receiver', child, () => port !== 0, stop)
  return { ...child, url: `http://127.0.0.1:${port}/`, receptions }
}

/** A child that does not get so far has no owner yet who would end it. */
async function started(
  name: string,
  child: Child,
  condition: () => boolean | Promise<boolean>,
  stop: AbortController,
): Promise<void> {
  try {
    if (await until(condition, startTimeoutMs, stop.signal)) return
    throw new DemoStopped(`the ${name} was not ready within ${startTimeoutMs / 1000} seconds`)
  } catch (error) {
    await child[Symbol.asyncDispose]()
    throw error
  }
}

/** Should another program take the port before the relay does, the relay says so and the demo ends. */
async function findFreePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** A tenant with a source, a key to post with, and `endpointUrl` as its endpoint. */
export async function createVendor(relay: RunningRelay, endpointUrl: string, signal: AbortSignal): Promise<Vendor> {
  const create = async (path: string, wish: object): Promise<Record<string, JsonValue>> => {
    const url = `${relay.url}/v1/tenants${path}`
    const { status, body } = await postJson(url, relay.adminKey, Buffer.from(JSON.stringify(wish)), signal)
    if (status !== 201) throw new DemoStopped(`the relay refused to create ${path || 'a tenant'}: ${status} ${body}`)
    return parseJson(body) as JsonObject
  }
  const tenant = await create('', { name: 'GitHub', tier: 'operation' })
  const source = await create(`/${tenant.id}/sources`, { name: 'webhooks' })
  const apiKey = await create(`/${tenant.id}/api-keys`, { name: 'vendor', role: 'ingest', source: source.id })
  await create(`/${tenant.id}/endpoints`, { url: endpointUrl })
  return { url: `${relay.url}/v1/sources/${source.id}/messages`, key: String(apiKey.key) }
}

/** Posts as a vendor does, and keeps the receipt. */
export async function postPayload(vendor: Vendor, payload: Uint8Array, signal: AbortSignal): Promise<Post> {
  const postedAtMs = Date.now()
  const startedAtMs = performance.now()
  const { status, body } = await postJson(vendor.url, vendor.key, payload, signal)
  const durationMs = performance.now() - startedAtMs
  if (status !== 202) return { payload, postedAtMs, durationMs, answer: { kind: 'refused', why: `${status} ${body}` } }
  const receipt = parseJson(body) as JsonObject
  return { payload, postedAtMs, durationMs, answer: { kind: 'accepted', id: String(receipt.message), receipt } }
}

async function postJson(
  url: string,
  key: string,
  payload: Uint8Array,
  signal: AbortSignal,
): Promise<{ status: number; body: Buffer }> {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const response = await fetch(url, { method: 'POST', headers, body: Buffer.from(payload), signal })
  return { status: response.status, body: Buffer.from(await response.arrayBuffer()) }
}
