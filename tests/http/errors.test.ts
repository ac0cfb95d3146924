import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { errorTable } from '../../src/errors.ts'
import { DatabaseUnavailable } from '../../src/ports/database.ts'
import { type Answer, adminKey, TestRelay, type TestTenant } from '../support/relay.ts'
import { speak } from './speak.ts'

const repository = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url))

let relay: TestRelay
let tenant: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
})

afterAll(async () => {
  await relay?.stop()
})

describe('the table of codes', () => {
  test('is the table of the README, row by row', () => {
    const [, section = ''] = readFileSync(repository('README.md'), 'utf8').split('\n## Errors\n')
    const rows = (section.split('\n## ')[0] ?? '').match(/^\| `.*$/gm)
    expect(rows).toEqual(
      Object.entries(errorTable).map(([code, [status, title]]) => `| \`${code}\` | ${status} | ${title} |`),
    )
  })

  test('has no code that the sources never use', () => {
    const sources = readdirSync(repository('src'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts') && file !== 'errors.ts')
      .map((file) => readFileSync(repository(`src/${file}`), 'utf8'))
    const unused = Object.keys(errorTable).filter((code) => !sources.some((source) => source.includes(`'${code}'`)))
    expect(unused).toEqual([])
  })
})

/** One way to each refusal that a request alone brings about. Payload refusals are in payload.test.ts. */
const provocations: [code: string, method: string, path: string, how?: Parameters<TestRelay['call']>[2]][] = [
  ['not_found', 'GET', '/nowhere', { key: null }],
  ['not_found', 'GET', '/v1/tenants/ten_7zzzzzzzzzzzzzzzzzzzzzzzzz'],
  ['not_found', 'GET', '/%'],
  ['not_found', 'GET', '/v1/messages/%ff'],
  ['not_found', 'GET', `/v1/messages/msg_${'0'.repeat(200)}`],
  ['method_not_allowed', 'PUT', '/v1/tenants'],
  ['method_not_allowed', 'DELETE', '/log/checkpoint', { key: null }],
  ['unauthenticated', 'GET', '/v1/tenants', { key: null }],
  ['request_invalid', 'GET', '/v1/tenants?limit=many'],
  ['request_invalid', 'GET', '/v1/tenants?limit=1001'],
  ['request_invalid', 'GET', '/v1/tenants?before=ten_1'],
  ['request_invalid', 'POST', '/v1/tenants', { body: { name: 'Acme', tier: 'golden' } }],
  ['request_invalid', 'POST', '/v1/tenants', { body: [] }],
  ['request_invalid', 'POST', '/v1/tenants'],
  ['request_invalid', 'POST', '/v1/verify', { key: null, body: {} }],
  ['media_type_unsupported', 'POST', '/v1/tenants', { body: 'a', headers: { 'content-type': 'text/plain' } }],
  ['payload_invalid_json', 'POST', '/v1/tenants', { body: '{"name":' }],
  ['payload_duplicate_name', 'POST', '/v1/tenants', { body: '{"name":"a","name":"b","tier":"standard"}' }],
  ['payload_duplicate_name', 'POST', '/v1/verify', { key: null, body: '{"receipt":1,"receip\\u0074":2}' }],
  ['payload_empty', 'POST', '/v1/tenants', { body: '' }],
  ['payload_byte_order_mark', 'POST', '/v1/tenants', { body: '\ufeff{}' }],
]

test.each(provocations)('%s for %s %s is a problem', async (code, method, path, how) => {
  expectProblem(await relay.call(method, path, how), code)
})

test('problems about a tenant’s own things are problems too', async () => {
  const call = (method: string, path: string, how: object = {}) =>
    relay.call(method, path, { key: tenant.tenantKey, ...how })
  expectProblem(await call('GET', '/v1/tenants'), 'forbidden')
  const endpoints = `/v1/tenants/${tenant.id}/endpoints`
  expectProblem(await call('POST', endpoints, { body: { url: 'ftp://example.com/' } }), 'endpoint_url_invalid')
  expectProblem(await call('POST', endpoints, { body: { url: 'https://10.0.0.1/' } }), 'endpoint_address_forbidden')
})

test('a path that exists says which methods it takes', async () => {
  const answer = await relay.call('PUT', `/v1/tenants/${tenant.id}/endpoints/ep_1`)
  expect(answer.status).toBe(405)
  expect(answer.headers.get('allow')?.split(', ').sort()).toEqual(['DELETE', 'GET', 'HEAD', 'PATCH'])
})

test('what a body has wrong is pointed at', async () => {
  const post = (body: unknown) => relay.call('POST', '/v1/tenants', { body })
  expect((await post({ name: '', tier: 'standard' })).body).toMatchObject({ pointer: '/name' })
  const extra = await post({ name: 'Acme', tier: 'standard', colour: 'red' })
  expect(extra.body).toMatchObject({ status: 400, code: 'request_invalid', pointer: '' })
  expect(extra.body.detail).toContain('"colour"')
  const proto = await post('{"name":"Acme","tier":"standard","__proto__":{"admin":true}}')
  expect(proto.body).toMatchObject({ status: 400, code: 'request_invalid' })
})

test('bytes that are no request are answered with a problem', { timeout: 5000 }, async () => {
  const [head = '', body = ''] = (await speak(relay.url, 'GET / SPDY/9\r\n\r\n')).split('\r\n\r\n')
  expect(head).toMatch(/^HTTP\/1\.1 400 Bad Request\r\n/)
  const headers = new Headers(
    head
      .split('\r\n')
      .slice(1)
      .map((line) => line.split(': ') as [string, string]),
  )
  expectProblem({ status: 400, headers, body: JSON.parse(body) }, 'request_invalid')
})

describe('a fault inside', () => {
  const inside = 'relation "api_keys" does not exist at /srv/countersign/src/tenant/store.ts:1'

  test.each([
    ['storage_unavailable', new DatabaseUnavailable(inside)],
    ['internal', new Error(inside)],
  ])('is answered as %s and with nothing of its story', async (code, fault) => {
    let armed = false
    const { database } = relay.database
    const strike = <T>(work: () => Promise<T>): Promise<T> => (armed ? Promise.reject(fault) : work())
    await relay.close()
    await relay.open({
      query: (text, params) => strike(() => database.query(text, params)),
      transaction: (work) => strike(() => database.transaction(work)),
      readAs: (tenantId, work) => strike(() => database.readAs(tenantId, work)),
      listen: (channel, onNotice) => database.listen(channel, onNotice),
      close: () => database.close(),
    })
    armed = true
    for (const [method, path, how] of [
      ['GET', `/v1/tenants/${tenant.id}`, { key: adminKey }],
      ['POST', `/v1/sources/${tenant.source}/messages`, { key: tenant.ingestKey, body: {} }],
      ['GET', '/log/checkpoint', { key: null }],
    ] as const) {
      const answer = await relay.call(method, path, how)
      expectProblem(answer, code)
      expect(answer.headers.get('retry-after')).toBe(code === 'internal' ? null : '1')
      expect(JSON.stringify(answer.body)).not.toMatch(/api_keys|srv|store\.ts|select|Error|stack/)
    }
    expectProblem(await relay.call('GET', '/readyz', { key: null }), 'storage_unavailable')
    expect((await relay.call('GET', '/healthz', { key: null })).status).toBe(200)
    await relay.restart()
  })
})

/** RFC 9457: nothing but the members that we document, and what the table says of the code. */
function expectProblem({ status, headers, body }: Answer, code: string): void {
  expect(body).toMatchObject({ code })
  const [tableStatus, title] = errorTable[code as keyof typeof errorTable]
  expect(headers.get('content-type')).toMatch(/^application\/problem\+json/)
  expect(body).toMatchObject({ type: `urn:countersign:problem:${code}`, title, status: tableStatus })
  expect(status).toBe(tableStatus)
  const documented = ['type', 'title', 'status', 'code', 'detail', 'offset', 'pointer', 'request_id']
  expect(Object.keys(body).filter((name) => !documented.includes(name))).toEqual([])
}
