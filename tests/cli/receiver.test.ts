import { sign } from 'node:crypto'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { type Reception, startReceiver } from '../../src/cli/receiver.ts'
import { webhookSigningInput } from '../../src/keyring/signing-input.ts'
import { sha256 } from '../../src/message/digest.ts'
import { makePayloadKey, now, signReceipt, stateAccepted } from './published.ts'

const key = makePayloadKey()
const stranger = makePayloadKey()
const timestampS = now.getTime() / 1000
const body = Buffer.from('{"order":4711}')

const publisher = createServer((_request, response) => {
  response.setHeader('content-type', 'application/jwk-set+json').end(JSON.stringify({ keys: [key.published] }))
})
let receiver: Awaited<ReturnType<typeof startReceiver>>
let receptions: Reception[] = []

beforeAll(async () => {
  await once(publisher.listen(0, '127.0.0.1'), 'listening')
  const jwks = new URL(`http://127.0.0.1:${portOf(publisher)}/`)
  const report = (reception: Reception) => void receptions.push(reception)
  receiver = await startReceiver({ jwks, port: 0, host: '127.0.0.1' }, report, () => now.getTime())
})
beforeEach(() => {
  receptions = []
})
afterAll(() => {
  receiver.close()
  publisher.close()
})

const portOf = (server: typeof publisher): number => (server.address() as AddressInfo).port

/** The headers of a forwarded request, as DESIGN.md section 2 has them. */
function headersFor(id: string, bytes: Uint8Array, signer = key, atS = timestampS): Record<string, string> {
  const receipt = signReceipt(stateAccepted(id, bytes), signer)
  const signature = sign(null, webhookSigningInput(id, atS, bytes), signer.privateKey)
  return {
    'content-type': 'application/json',
    'content-digest': `sha-256=:${sha256(bytes).toString('base64')}:`,
    'webhook-id': id,
    'webhook-timestamp': String(atS),
    'webhook-signature': `v1a,${signature.toString('base64')}`,
    'webhook-key-id': signer.kid,
    'webhook-receipt': `${receipt.protected}.${receipt.payload}.${receipt.signature}`,
    'webhook-attempt': '1',
  }
}

/** Answers the status, and what the receiver found. */
async function deliver(headers: Record<string, string>, bytes: Uint8Array = body) {
  const response = await fetch(`http://127.0.0.1:${portOf(receiver)}/`, {
    method: 'POST',
    headers,
    body: Buffer.from(bytes),
  })
  const [reception] = receptions.splice(0)
  return { status: response.status, ...reception, failed: reception?.failed.map(({ check }) => check) }
}

test('what the relay forwards is verified in every respect', async () => {
  expect(await deliver(headersFor('msg_fine', body))).toMatchObject({
    status: 204,
    id: 'msg_fine',
    bytes: body.length,
    again: false,
    verified: ['digest', 'timestamp', 'v1a', 'receipt'],
    failed: [],
  })
})

test('a second delivery is accepted and noticed, and one that failed before is no first', async () => {
  const headers = headersFor('msg_twice', body)
  expect(await deliver({ ...headers, 'content-digest': '' })).toMatchObject({ status: 400, again: false })
  expect(await deliver(headers)).toMatchObject({ status: 204, again: false })
  expect(await deliver(headers)).toMatchObject({ status: 204, again: true })
})

test('one of several signatures of an overlap is enough', async () => {
  const headers = headersFor('msg_overlap', body)
  const other = headersFor('msg_overlap', body, stranger)
  const both = `v1,AAAA ${other['webhook-signature']} ${headers['webhook-signature']}`
  expect(await deliver({ ...headers, 'webhook-signature': both })).toMatchObject({ status: 204 })
})

const fine = headersFor('msg_lie', body)
const elsewhere = headersFor('msg_lie', Buffer.from('{"order":4712}'))
test.each<[string, Record<string, string>, string[]]>([
  ['a body that was exchanged', elsewhere, ['digest', 'v1a', 'receipt']],
  ['a digest of another body', { 'content-digest': elsewhere['content-digest'] ?? '' }, ['digest']],
  ['a signature over another body', { 'webhook-signature': elsewhere['webhook-signature'] ?? '' }, ['v1a']],
  ['a receipt for another body', { 'webhook-receipt': elsewhere['webhook-receipt'] ?? '' }, ['receipt']],
  ['another id', { 'webhook-id': 'msg_other' }, ['v1a', 'receipt']],
  ['a replay after five minutes', headersFor('msg_lie', body, key, timestampS - 301), ['timestamp']],
  ['a timestamp of the future', headersFor('msg_lie', body, key, timestampS + 301), ['timestamp']],
  ['a timestamp that was moved', { 'webhook-timestamp': String(timestampS + 1) }, ['v1a']],
  ['a timestamp that is none', { 'webhook-timestamp': 'now' }, ['timestamp', 'v1a']],
  ['a stranger with everything else right', headersFor('msg_lie', body, stranger), ['v1a', 'receipt']],
  [
    'a stranger who claims our kid',
    { ...headersFor('msg_lie', body, stranger), 'webhook-key-id': key.kid },
    ['v1a', 'receipt'],
  ],
  ['no receipt', { 'webhook-receipt': '' }, ['receipt']],
  ['no signature', { 'webhook-signature': '' }, ['v1a']],
])('%s is answered 400', async (_what, changed, failed) => {
  expect(await deliver({ ...fine, ...changed })).toMatchObject({ status: 400, failed })
})

test('a token that is no receipt is answered 400, though the right key signed it', async () => {
  const header = Buffer.from(JSON.stringify({ alg: 'EdDSA', kid: key.kid, typ: 'JWT' })).toString('base64url')
  const payload = fine['webhook-receipt']?.split('.')[1] ?? ''
  const signature = sign(null, Buffer.from(`${header}.${payload}`), key.privateKey).toString('base64url')
  const headers = { ...fine, 'webhook-receipt': `${header}.${payload}.${signature}` }
  expect(await deliver(headers)).toMatchObject({ status: 400, failed: ['receipt'] })
})

test('a request of another kind altogether is answered 400', async () => {
  expect(await deliver({})).toMatchObject({ status: 400, id: '(no id)' })
})

test('the receiver is a third party: it imports nothing of ours', async () => {
  const source = await readFile(new URL('../../src/cli/receiver.ts', import.meta.url), 'utf8')
  const imported = [...source.matchAll(/from '([^']+)'/g)].map(([, module]) => module)
  expect(imported).toContain('jose')
  expect(imported.filter((module) => module !== 'jose' && !module?.startsWith('node:'))).toEqual([])
})
