/** Payloads that are no JSON, or none that I-JSON allows: signed, kept and forwarded byte for byte. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { sha256 } from '../../src/message/digest.ts'
import { countersign } from '../cli/run.ts'
import { speak } from '../http/speak.ts'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant
let folder: string

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  folder = await mkdtemp(join(tmpdir(), 'countersign-exact-'))
  tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, receiver.url)
  const change = { canonicalization: 'none' }
  await relay.call('PATCH', `/v1/tenants/${tenant.id}/sources/${tenant.source}`, { body: change })
})

afterAll(async () => {
  await relay?.stop()
  await receiver?.stop()
  await rm(folder, { recursive: true, force: true })
})

const post = (body: Uint8Array | string, type: string, headers: Record<string, string> = {}) =>
  relay.post(tenant, body, { 'content-type': type, ...headers })
const read = (message: string) => relay.call('GET', `/v1/messages/${message}`, { key: tenant.tenantKey })
const verdictOf = async (body: object) =>
  (await relay.call<{ verdict: string; checks: object[] }>('POST', '/v1/verify', { key: null, body })).body

async function arrivalOf(message: string) {
  const isIt = ({ headers }: { headers: object }) => (headers as { [name: string]: unknown })['webhook-id'] === message
  await receiver.until((arrived) => arrived.some(isIt))
  return receiver.arrived.filter(isIt)
}

const bodies: [what: string, type: string, body: Uint8Array | string][] = [
  ['a form', 'application/x-www-form-urlencoded', 'token=xyzz&text=%20a+b'],
  ['bytes that are no text', 'application/octet-stream', Buffer.from([0, 0xff, 0xfe, 0x0a, 0x0d, 0x80])],
  ['numbers that I-JSON refuses', 'application/json; charset=utf-8', '{"big": 12345678901234567890, "n": 1e999}'],
  ['a name twice', 'application/json', '{"a":1,"a":2}'],
  ['JSON that could be canonical and is not', 'application/json', '{ "b": 1.0, "a": "\\u0061" }'],
  ['XML with a byte-order mark', 'text/xml;charset="utf-8"', '\ufeff<order/>'],
  ['parts', 'multipart/form-data; boundary=x', '--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'],
]

describe.each(bodies)('%s', (_what, type, body) => {
  test('is stated, receipted, forwarded and shown as it is', async () => {
    const { status, body: receipt } = await post(body, type)
    expect(status, JSON.stringify(receipt)).toBe(202)
    const raw = Buffer.from(body)
    const digest = sha256(raw).toString('base64url')
    const statement = JSON.parse(Buffer.from(receipt.payload, 'base64url').toString())
    expect(statement.payload).toEqual({
      ...{ bytes: raw.length, sha256: digest, received_sha256: digest, canonicalization: 'none', content_type: type },
    })

    const [arrived] = await arrivalOf(receipt.message)
    expect(arrived?.body).toEqual(raw)
    expect(arrived?.headers['content-type']).toBe(type)
    const { body: message } = await read(receipt.message)
    expect(message).toMatchObject({ payload_base64: raw.toString('base64'), content_type: type })
    expect(message).not.toHaveProperty('payload')
    const webhook = {
      id: receipt.message,
      timestamp: String(arrived?.headers['webhook-timestamp']),
      signature: String(arrived?.headers['webhook-signature']),
    }
    const payload_base64 = raw.toString('base64')
    expect(await verdictOf({ receipt, payload_base64, webhook })).toMatchObject({ verdict: 'valid' })
    await relay.check()
  })

  test('is verified by the command, and one byte less is not', async () => {
    const { body: receipt } = await post(body, type)
    const files = { receipt: join(folder, 'receipt.json'), payload: join(folder, 'payload') }
    await writeFile(files.receipt, JSON.stringify(receipt))
    const keys = ['--jwks', `${relay.url}/.well-known/jwks.json`, '--vkey', `${relay.url}/log/vkey`]
    await writeFile(files.payload, body)
    const valid = await countersign(['verify', files.receipt, files.payload, ...keys])
    expect(valid.stdout).toContain('✓ payload_digest — these are the exact bytes posted')
    expect(valid.code).toBe(0)
    await writeFile(files.payload, Buffer.from(body).subarray(1))
    expect((await countersign(['verify', files.receipt, files.payload, ...keys])).code).toBe(1)
  })
})

test('the same JSON, spelled differently, is other bytes', async () => {
  const { body: receipt } = await post('{"a": 1}', 'application/json')
  expect(await verdictOf({ receipt, payload: '{"a": 1}' })).toMatchObject({ verdict: 'valid' })
  expect(await verdictOf({ receipt, payload: '{"a":1}' })).toMatchObject({ verdict: 'invalid' })
  expect(await verdictOf({ receipt, payload: { a: 1 } })).toMatchObject({ verdict: 'invalid' })
})

test('whatever the bytes are, they arrive', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 300 }), async (bytes) => {
      const { body: receipt } = await post(bytes, 'application/octet-stream')
      const [arrived] = await arrivalOf(receipt.message)
      expect(arrived?.body).toEqual(Buffer.from(bytes))
    }),
    { numRuns: 20 },
  )
  await relay.check()
})

test('a later attempt, by a process that has it from the database, sends the same', async () => {
  receiver.answer = (_arrived, response) => response.writeHead(503).end()
  const { body: receipt } = await post('a,b\n1,2\n', 'text/csv; header=present')
  await arrivalOf(receipt.message)
  const attempts = async () => {
    const { body } = await relay.call<{ data: { attempts: object[] }[] }>(
      ...(['GET', `/v1/messages/${receipt.message}/deliveries`] as const),
    )
    return body.data[0]?.attempts.length
  }
  await expect.poll(attempts, { timeout: 30_000 }).toBe(1)
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  await relay.restart()
  relay.clock.advance(5000)
  await expect.poll(attempts, { timeout: 30_000 }).toBe(2)
  const arrived = await arrivalOf(receipt.message)
  expect(arrived.map(({ body, headers }) => [body.toString(), headers['content-type']])).toEqual(
    Array.from({ length: 2 }, () => ['a,b\n1,2\n', 'text/csv; header=present']),
  )
  await relay.check()
})

test('an Idempotency-Key stands for the bytes and their media type', async () => {
  const keyed = (body: string, type: string) => post(body, type, { 'idempotency-key': 'k1' })
  const first = await keyed('a=1', 'application/x-www-form-urlencoded')
  expect((await keyed('a=1', 'application/x-www-form-urlencoded')).body.message).toBe(first.body.message)
  expect((await keyed('a=2', 'application/x-www-form-urlencoded')).body.code).toBe('idempotency_key_reused')
  expect((await keyed('a=1', 'text/plain')).body.code).toBe('idempotency_key_reused')
})

test('without a media type they are an octet-stream', async () => {
  const head = `POST /v1/sources/${tenant.source}/messages HTTP/1.1\r\nhost: relay.test\r\nconnection: close\r\n`
  const answer = await speak(
    relay.url,
    `${head}authorization: Bearer ${tenant.ingestKey}\r\ncontent-length: 3\r\n\r\n\x01\x02\x03`,
  )
  const receipt = JSON.parse(answer.split('\r\n\r\n')[1] ?? '')
  expect((await read(receipt.message)).body).toMatchObject({
    ...{ content_type: 'application/octet-stream', payload_base64: 'AQID' },
  })
})

test.each(['json', 'text/', '/plain', 'text/plain; charset', 'text/plain, text/html', 'text/plain; a="b', 'a b/c'])(
  'the media type %s is refused: receivers would be sent it',
  async (type) => {
    expect((await post('x', type)).body).toMatchObject({ status: 415, code: 'media_type_unsupported' })
  },
)

test('nothing is still nothing, and too much too much', async () => {
  expect((await post('', 'text/plain')).body.code).toBe('payload_empty')
  expect((await post(Buffer.alloc(1_048_577), 'application/octet-stream')).status).toBe(413)
})

test('a source that canonicalizes refuses all of it, as before', async () => {
  const other = await relay.makeTenant('Strict')
  for (const [what, type, body] of bodies.filter(([, type]) => !type.includes('json'))) {
    expect((await relay.post(other, body, { 'content-type': type })).status, what).toBe(415)
  }
})
