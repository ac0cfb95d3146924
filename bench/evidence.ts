import { createHash, createPublicKey, verify } from 'node:crypto'
import { compactVerify, createLocalJWKSet, flattenedVerify, type JSONWebKeySet } from 'jose'
import { type LogTrust, openCheckpoint, parseCheckpoint } from '../src/log/checkpoint.ts'
import { parseVerifierKey } from '../src/log/note.ts'
import { parseProof } from '../src/log/tlog-proof.ts'
import { hashLeaf, verifyInclusion } from '../src/log/tree.ts'
import type { MessageReceipt } from '../src/receipt/receipt.ts'
import type { PayloadMaker } from './payloads.ts'
import type { Webhook } from './receiver.ts'
import type { RelayProcess } from './relay-process.ts'

/** What the vendor and the receiver kept of some posts. */
export interface Kept {
  readonly receipts: readonly [post: number, text: string][]
  readonly webhooks: readonly [post: number, webhook: Webhook][]
}

/**
 * Verifies the sample of a run as strangers would, with nothing but what the relay publishes: receipts and the tokens in
 * webhooks by jose, `v1a` by node:crypto, the place in the log by the proof that the receipt carries. Resolves with how many held;
 * rejects with the first that does not.
 */
export async function verifyKept(
  relay: RelayProcess,
  { receipts, webhooks }: Kept,
  payload: PayloadMaker,
): Promise<number> {
  const published = await readPublished(relay)
  const bodies = new Map(webhooks.map(([post, { body }]) => [post, body]))
  for (const [post, text] of receipts) {
    await verifyReceipt(JSON.parse(text) as MessageReceipt, payload(post), bodies.get(post), published).catch(
      explain('receipt', post),
    )
  }
  for (const [post, webhook] of webhooks) await verifyWebhook(webhook, published).catch(explain('webhook', post))
  return receipts.length + webhooks.length
}

/** All that a stranger has: what the relay publishes. */
interface Published {
  readonly jwks: JSONWebKeySet
  readonly log: LogTrust
}

async function readPublished(relay: RelayProcess): Promise<Published> {
  const jwks = await relay.call<JSONWebKeySet>('GET', '/.well-known/jwks.json')
  const vkeys = (await relay.call<string>('GET', '/log/vkey')).trim().split('\n').map(parseVerifierKey)
  const [checkpoint] = (await relay.call<string>('GET', '/log/checkpoint')).split('\n\n')
  return { jwks, log: { origin: parseCheckpoint(`${checkpoint}\n`).origin, vkeys } }
}

async function verifyReceipt(
  receipt: MessageReceipt,
  posted: Uint8Array,
  forwarded: Uint8Array | undefined,
  { jwks, log }: Published,
): Promise<void> {
  const { payload } = await flattenedVerify(receipt, createLocalJWKSet(jwks))
  const statement = JSON.parse(Buffer.from(payload).toString()) as Stated
  check(statement.sub === receipt.message, 'it is about another message')
  check(statement.payload.received_sha256 === sha256(posted), 'other bytes were posted')
  check(forwarded === undefined || statement.payload.sha256 === sha256(forwarded), 'other bytes were forwarded')
  const { leafIndex, proof, checkpoint } = parseProof(receipt.header['tlog-proof'])
  const { treeSize, rootHash } = openCheckpoint(checkpoint, log)
  const leafHash = hashLeaf(Buffer.from(sha256(payload), 'base64url'))
  check(verifyInclusion({ leafHash, leafIndex, treeSize, proof, rootHash }), 'it is not in the log')
}

async function verifyWebhook({ headers, body }: Webhook, { jwks }: Published): Promise<void> {
  const header = (name: string) => String(headers[`webhook-${name}`])
  const signed = Buffer.concat([Buffer.from(`${header('id')}.${header('timestamp')}.`), body])
  const [version, signature = ''] = header('signature').split(',')
  const jwk = jwks.keys.find(({ kid }) => kid === header('key-id'))
  if (jwk === undefined) throw new Error('its key is not published')
  const key = createPublicKey({ key: { ...jwk }, format: 'jwk' })
  check(version === 'v1a' && verify(null, signed, key, Buffer.from(signature, 'base64')), 'its signature is false')
  const { payload } = await compactVerify(header('receipt'), createLocalJWKSet(jwks))
  const statement = JSON.parse(Buffer.from(payload).toString()) as Stated
  check(statement.sub === header('id'), 'it carries the receipt of another message')
  check(statement.payload.sha256 === sha256(body), 'its receipt is about other bytes')
}

interface Stated {
  readonly sub: string
  readonly payload: { readonly sha256: string; readonly received_sha256: string }
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('base64url')

function check(holds: boolean, otherwise: string): void {
  if (!holds) throw new Error(otherwise)
}

const explain = (what: string, post: number) => (error: Error) => {
  throw new Error(`the ${what} of post ${post} does not verify: ${error.message}`, { cause: error })
}
