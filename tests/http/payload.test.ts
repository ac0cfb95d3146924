import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { speak } from './speak.ts'

const maxPayloadBytes = 1_048_576

let relay: TestRelay
let tenant: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
})

afterAll(async () => {
  await relay?.stop()
})

const accepted = () => relay.readAudit(tenant, { kind: 'message.accepted' })

describe('a payload is refused with its code, the byte offset, and the pointer', () => {
  const deep = '['.repeat(65) + ']'.repeat(65)
  const refusals: [code: string, status: number, body: string | Uint8Array, offset: number, pointer?: string][] = [
    ['payload_empty', 400, ' \n', 2],
    ['payload_invalid_utf8', 400, Buffer.from('{"ä":"\xff"}', 'latin1'), 2],
    ['payload_byte_order_mark', 400, '\ufeff{}', 0],
    ['payload_invalid_json', 400, '{"ä":}', 6, '/ä'],
    ['payload_not_container', 422, ' "text"', 1, ''],
    ['payload_duplicate_name', 422, '{"amount":1,"\\u0061mount":2}', 12, '/amount'],
    ['payload_lone_surrogate', 422, '{"a":["\\ud800"]}', 7, '/a/0'],
    ['payload_unsafe_integer', 422, '{"a/b":9007199254740992}', 7, '/a~1b'],
    ['payload_number_overflow', 422, '[1e400]', 1, '/0'],
    ['payload_number_underflow', 422, '{"n":-1e-400}', 5, '/n'],
    ['payload_too_deep', 422, deep, 64, '/0'.repeat(64)],
  ]
  test.each(refusals)('%s', async (code, status, body, offset, pointer) => {
    const before = await accepted()
    const answer = await relay.post(tenant, body)
    expect(answer.status).toBe(status)
    expect(answer.body).toMatchObject({ code, status, offset, ...(pointer !== undefined && { pointer }) })
    expect('pointer' in answer.body).toBe(pointer !== undefined)
    expect(await accepted(), 'nothing of it is kept').toEqual(before)
  })

  test('payload_empty, where there is no body at all', async () => {
    const answer = await relay.post(tenant, undefined)
    expect(answer.body).toMatchObject({ status: 400, code: 'payload_empty', offset: 0 })
  })
})

describe('the limit is 1 MiB', () => {
  const ofLength = (bytes: number) => `{"a":"${'x'.repeat(bytes - '{"a":""}'.length)}"}`

  test('exactly that is accepted', async () => {
    expect((await relay.post(tenant, ofLength(maxPayloadBytes))).status).toBe(202)
  })

  const head = () => requestHead('content-type: application/json')
  const body = ofLength(maxPayloadBytes + 1)
  test.each([
    ['announced, and refused before it is sent', () => `${head()}content-length: ${maxPayloadBytes + 1}\r\n\r\n{`],
    ['announced, and sent', () => `${head()}content-length: ${maxPayloadBytes + 1}\r\n\r\n${body}`],
    [
      'in chunks, announced nowhere',
      () => `${head()}transfer-encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
    ],
  ])('a byte more is payload_too_large: %s', async (_how, request) => {
    const answer = await speak(relay.url, request())
    expect(answer).toMatch(/^HTTP\/1\.1 413 /)
    expect(answer).toContain('"code":"payload_too_large"')
  })
})

describe.runIf(vectorsPresent)('the JSON parsing test suite, posted', () => {
  const folder = vectorPath('json/test_parsing')
  const files = vectorsPresent ? readdirSync(folder).filter((file) => file.endsWith('.json')) : []
  /** RFC 8259 allows them; I-JSON and we do not. */
  const refusedByPolicy = ['y_object_duplicated_key.json', 'y_object_duplicated_key_and_value.json']

  test('what must be accepted is, what must be refused is, and nothing is a fault of ours', async () => {
    const answers = await Promise.all(
      files.map(async (file) => {
        const bytes = readFileSync(join(folder, file))
        const { status, body } = await relay.post(tenant, bytes)
        return { file, bytes, status, code: body.code }
      }),
    )
    expect(answers).toHaveLength(318)
    for (const { file, bytes, status, code } of answers) {
      const isContainer = /^\s*[[{]/.test(bytes.toString('latin1'))
      if (status !== 202) expect(code, file).toMatch(/^payload_/)
      expect([202, 400, 422], file).toContain(status)
      if (file.startsWith('n_')) expect(status, file).not.toBe(202)
      if (!file.startsWith('y_')) continue
      if (refusedByPolicy.includes(file)) expect(code, file).toBe('payload_duplicate_name')
      else if (!isContainer) expect(code, file).toBe('payload_not_container')
      else expect(status, file).toBe(202)
    }
    await relay.check()
  })
})

test('one text’s escaped names do not change another’s, as JSON.parse lets them (nodejs/node#63785)', async () => {
  const receiver = await Receiver.start()
  try {
    const other = await relay.makeTenant('Other')
    await relay.makeEndpoint(other, receiver.url)
    await relay.post(other, '{"id":"x","am\\\\u00":0}')
    await relay.post(other, '{"id":"evt_1","am\\u006funt":100}')
    await receiver.until((arrived) => arrived.length === 2)
    const bodies = receiver.arrived.map(({ body }) => body.toString()).sort()
    expect(bodies).toEqual(['{"am\\\\u00":0,"id":"x"}', '{"amount":100,"id":"evt_1"}'])
  } finally {
    await receiver.stop()
  }
})

describe('the content type', () => {
  test.each([
    'application/json',
    'application/json; charset=utf-8',
    'Application/JSON',
    'application/vnd.vendor.order+json',
  ])('%s is taken', async (type) => {
    expect((await relay.post(tenant, '{}', { 'content-type': type })).status).toBe(202)
  })

  test.each([
    'text/plain',
    'application/jsonx',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'text/json, application/json',
    'json',
  ])('%s is refused', async (type) => {
    const answer = await relay.post(tenant, '{}', { 'content-type': type })
    expect(answer.body).toMatchObject({ status: 415, code: 'media_type_unsupported' })
  })

  test('a body without one is refused', async () => {
    const answer = await speak(relay.url, `${requestHead('connection: close')}content-length: 2\r\n\r\n{}`)
    expect(answer).toMatch(/^HTTP\/1\.1 415 /)
  })

  test.each(['gzip', 'br', 'gzip, identity', 'deflate'])(
    'content-encoding %s is refused, never undone',
    async (encoding) => {
      const answer = await relay.post(tenant, '{}', { 'content-encoding': encoding })
      expect(answer.body).toMatchObject({ status: 415, code: 'media_type_unsupported' })
    },
  )
})

// Where a proxy and we could disagree on where a request ends, there must be no second request (RFC 9112 §11.2).
describe('a request whose end is in doubt is refused and its connection closed', () => {
  const chunked = '2\r\n{}\r\n0\r\n\r\n'
  const shapes: [name: string, headers: string, body: string][] = [
    ['a length and chunks', 'content-length: 2\r\ntransfer-encoding: chunked', chunked],
    ['chunks and a length', 'transfer-encoding: chunked\r\ncontent-length: 2', chunked],
    ['two lengths', 'content-length: 2\r\ncontent-length: 3', '{} '],
    ['one length twice', 'content-length: 2\r\ncontent-length: 2', '{}'],
    ['a list of lengths', 'content-length: 2, 2', '{}'],
    ['a length with a sign', 'content-length: +2', '{}'],
    ['a negative length', 'content-length: -2', '{}'],
    ['a folded header', 'x-folded: a\r\n b\r\ncontent-length: 2', '{}'],
    ['a folded length', 'content-length:\r\n 2', '{}'],
    ['a space before the colon', 'content-length : 2', '{}'],
    ['an unknown transfer coding', 'transfer-encoding: xchunked', chunked],
    ['a transfer coding after chunked', 'transfer-encoding: chunked, identity', chunked],
    ['chunks twice', 'transfer-encoding: chunked\r\ntransfer-encoding: chunked', chunked],
    ['a chunk size that is none', 'transfer-encoding: chunked', '0x2\r\n{}\r\n0\r\n\r\n'],
    ['bare line feeds between chunks', 'transfer-encoding: chunked', '2\n{}\n0\n\n'],
    ['a NUL in a header', 'x-null: a\0b\r\ncontent-length: 2', '{}'],
    ['a bare line feed after a header', 'content-length: 2\nx-smuggled: 1', '{}'],
  ]
  test.each(shapes)('%s', { timeout: 5000 }, async (_name, headers, body) => {
    const before = await accepted()
    const smuggled = `${requestHead('content-type: application/json')}content-length: 2\r\n\r\n{}`
    const request = `${requestHead('content-type: application/json')}${headers}\r\n\r\n${body}${smuggled}`
    const answer = await speak(relay.url, request)
    expect(answer).toMatch(/^HTTP\/1\.1 400 /)
    expect(answer).toContain('"code":"request_invalid"')
    expect(answer.match(/HTTP\/1\.1/g), 'one answer').toHaveLength(1)
    expect(await accepted(), 'nothing of it is kept').toEqual(before)
  })
})

test('headers beyond 16 KiB are refused', { timeout: 5000 }, async () => {
  const answer = await speak(relay.url, `${requestHead(`x-large: ${'a'.repeat(20_000)}`)}\r\n`)
  expect(answer).toMatch(/^HTTP\/1\.1 431 /)
  expect(answer).toContain('"code":"headers_too_large"')
})

test('a client has seconds, not for ever, to send its headers and its body', () => {
  const server: object = relay.server.server
  const limits = server as Record<
    'headersTimeout' | 'requestTimeout' | 'connectionsCheckingInterval' | 'timeout',
    number
  >
  // Zero would mean no limit.
  for (const [limit, mostMs] of Object.entries({
    ...{ headersTimeout: 10_000, requestTimeout: 30_000, connectionsCheckingInterval: 5_000, timeout: 60_000 },
  })) {
    expect(limits[limit as keyof typeof limits], limit).toBeGreaterThan(0)
    expect(limits[limit as keyof typeof limits], limit).toBeLessThanOrEqual(mostMs)
  }
})

/** A POST to the tenant's source, up to the headers that a test adds. */
function requestHead(header: string): string {
  const line = `POST /v1/sources/${tenant.source}/messages HTTP/1.1`
  return `${[line, 'host: relay.test', `authorization: Bearer ${tenant.ingestKey}`, header].join('\r\n')}\r\n`
}
