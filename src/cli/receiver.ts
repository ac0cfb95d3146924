/**
 * A receiver as one of our customers would write it. It knows nothing but the URL of the keys, verifies with Node and
 * the stock library `jose`, and imports none of our code, so that it can be copied, and so that what it accepts was
 * accepted by a third party.
 */
import { createHash, createPublicKey, verify } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createRemoteJWKSet, jwtVerify, type RemoteJWKSet } from 'jose'

export interface ReceiverOptions {
  readonly jwks: URL
  /** 0 lets the system choose. */
  readonly port: number
  readonly host: string
}

/** What became of one webhook. It is answered 204 if nothing failed, else 400, and then the relay tries again. */
export interface Reception {
  /** `webhook-id`, if it has the form of one. */
  readonly id: string
  readonly bytes: number
  /** Unix milliseconds, when the body was complete. */
  readonly receivedAtMs: number
  /** Delivery is at least once: this one was verified before, and a real receiver would do nothing now. */
  readonly again: boolean
  readonly verified: readonly CheckName[]
  readonly failed: readonly { readonly check: CheckName; readonly why: string }[]
}

export type CheckName = keyof typeof checks

/** What the parent process is told, where there is one that listens. */
export type ReceiverMessage =
  | { readonly kind: 'listening'; readonly port: number }
  | ({ readonly kind: 'received' } & Reception)

/** `countersign receive`: a line for each webhook, or a message to the parent, until it is stopped. */
export async function receive(options: ReceiverOptions): Promise<void> {
  const totals = { verified: 0, again: 0, failed: 0 }
  const tell = process.send ? (message: ReceiverMessage) => void process.send?.(message) : print
  const server = await startReceiver(options, (reception) => {
    const { failed, again } = reception
    totals[failed.length > 0 ? 'failed' : again ? 'again' : 'verified'] += 1
    tell({ kind: 'received', ...reception })
  })
  const stop = () => {
    if (!process.send) console.log(`\n${totals.verified} verified, ${totals.again} again, ${totals.failed} failed`)
    process.exit()
  }
  process.once('SIGINT', stop).once('SIGTERM', stop).once('disconnect', stop)
  tell({ kind: 'listening', port: (server.address() as AddressInfo).port })

  function print(message: ReceiverMessage): void {
    const isListening = message.kind === 'listening'
    console.log(isListening ? `listening on http://${options.host}:${message.port}/` : lineOf(message))
  }
}

function lineOf({ receivedAtMs, id, bytes, again, verified, failed }: Reception): string {
  const found =
    failed.length > 0 ? failed.map(({ check, why }) => `FAILED ${check}: ${why}`) : [`verified ${verified.join(', ')}`]
  return [new Date(receivedAtMs).toISOString(), id, `${bytes} bytes`, ...(again ? ['again'] : []), ...found].join('  ')
}

/** Listens, and reports what became of each webhook. `now` is unix milliseconds. */
export async function startReceiver(
  { jwks, port, host }: ReceiverOptions,
  report: (reception: Reception) => void,
  now: () => number = Date.now,
): Promise<Server> {
  const keys = createRemoteJWKSet(jwks)
  const known = new Set<string>() // a real receiver keeps this in the database that the webhook changes

  const server = createServer(async (request, response) => {
    const body = await readBody(request).catch(() => undefined)
    if (body === undefined) return void response.writeHead(413, { connection: 'close' }).end()
    const receivedAtMs = now()
    const webhook = { body, keys, receivedAtMs, header: headersOf(request) }
    const { verified, failed } = await runChecks(webhook)
    const id = webhook.header('webhook-id')
    const again = failed.length === 0 && known.has(id)
    if (failed.length === 0) remember(known, id)
    response.writeHead(failed.length === 0 ? 204 : 400).end()
    report({ id: /^[\w-]{1,80}$/.test(id) ? id : '(no id)', bytes: body.length, receivedAtMs, again, verified, failed })
  })
  server.listen(port, host)
  await once(server, 'listening')
  return server
}

interface Webhook {
  readonly body: Buffer
  readonly receivedAtMs: number
  readonly keys: RemoteJWKSet
  /** A header's value, '' if absent. */
  readonly header: (name: string) => string
}

/** Each throws an Error that says what is wrong. */
const checks = {
  digest: verifyDigest,
  timestamp: verifyTimestamp,
  v1a: verifySignature,
  receipt: verifyReceipt,
}

async function runChecks(webhook: Webhook): Promise<Pick<Reception, 'verified' | 'failed'>> {
  const verified: CheckName[] = []
  const failed: { check: CheckName; why: string }[] = []
  for (const check of Object.keys(checks) as CheckName[]) {
    try {
      await checks[check](webhook)
      verified.push(check)
    } catch (error) {
      failed.push({ check, why: error instanceof Error ? error.message : String(error) })
    }
  }
  return { verified, failed }
}

/** RFC 9530 §2. */
function verifyDigest({ header, body }: Webhook): void {
  if (header('content-digest') !== `sha-256=:${sha256(body, 'base64')}:`)
    throw new Error('the digest is of another body')
}

const toleranceS = 5 * 60

/** Standard Webhooks: an old request may be a replay. */
function verifyTimestamp({ header, receivedAtMs }: Webhook): void {
  const apartS = Math.abs(receivedAtMs / 1000 - Number(header('webhook-timestamp') || Number.NaN))
  if (!(apartS <= toleranceS)) throw new Error(`the timestamp is more than ${toleranceS / 60} minutes off`)
}

/** Standard Webhooks, `v1a`: Ed25519 over id, timestamp and body. There may be a signature for each key of an overlap. */
async function verifySignature({ header, body, keys }: Webhook): Promise<void> {
  const signed = Buffer.concat([Buffer.from(`${header('webhook-id')}.${header('webhook-timestamp')}.`), body])
  const [kid = ''] = header('webhook-key-id').split(' ') // in an overlap a second one may follow: the key before
  const key = await findKey(keys, kid)
  const signatures = header('webhook-signature')
    .split(' ')
    .filter((signature) => signature.startsWith('v1a,'))
  const holds = signatures.some((signature) => verify(null, signed, key, Buffer.from(signature.slice(4), 'base64')))
  if (!holds) throw new Error('no v1a signature is by this key over these bytes')
}

async function findKey(keys: RemoteJWKSet, kid: string) {
  await keys({ alg: 'EdDSA', kid }) // fetches the set where it must; rejects if it has no such key
  const jwk = keys.jwks()?.keys.find((candidate) => candidate.kid === kid)
  if (jwk === undefined) throw new Error('no such key is published')
  return createPublicKey({ key: { ...jwk }, format: 'jwk' })
}

/** The receipt is a JWT: what the relay states about this message, and keeps in its log. */
async function verifyReceipt({ header, body, keys }: Webhook): Promise<void> {
  const expected = { algorithms: ['EdDSA'], typ: 'receipt+jwt', subject: header('webhook-id') }
  const { payload: statement } = await jwtVerify<{ payload?: { sha256?: unknown } }>(
    header('webhook-receipt'),
    keys,
    expected,
  )
  if (statement.payload?.sha256 !== sha256(body, 'base64url')) throw new Error('the receipt is for another body')
}

const sha256 = (bytes: Uint8Array, encoding: 'base64' | 'base64url'): string =>
  createHash('sha256').update(bytes).digest(encoding)

const headersOf =
  ({ headers }: IncomingMessage) =>
  (name: string): string =>
    [headers[name] ?? ''].flat().join(', ')

/** The largest payload that any relay may be configured to take. */
const maxBodyBytes = 16 * 1024 * 1024

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > maxBodyBytes) throw new Error('the body is too large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

const maxKnownIds = 100_000

/** A Set keeps the order of insertion, so its first is its oldest. */
function remember(known: Set<string>, id: string): void {
  known.add(id)
  const [oldest] = known
  if (known.size > maxKnownIds && oldest !== undefined) known.delete(oldest)
}
