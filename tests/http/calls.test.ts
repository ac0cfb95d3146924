/** Every call with a key is in the log before it is answered; of those without, as many as an attacker may not multiply. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DatabaseUnavailable } from '../../src/ports/database.ts'
import { type AuditItem, adminKey, TestRelay, type TestTenant } from '../support/relay.ts'
import { speak } from './speak.ts'

let relay: TestRelay
let tenant: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start({ trustedProxies: ['127.0.0.0/8', '10.0.0.0/8'] })
  tenant = await relay.makeTenant()
})

afterAll(async () => {
  await relay?.check()
  await relay?.stop()
})

/** What the log says about the call that was answered with this id. */
async function stated(id: string | null, whose: { id: string } | null = tenant): Promise<AuditItem['statement'][]> {
  const items = await relay.readAudit(whose)
  return items.map(({ statement }) => statement).filter(({ sub }) => sub === id)
}
const idOf = ({ headers }: { headers: Headers }) => headers.get('x-request-id')
const actorOf = (key: string) => `key_${key.split('_')[1]}`

describe('a call with a key is stated with who, what, from where, and what came of it', () => {
  test.each([
    ['a read', 'GET', () => `/v1/tenants/${tenant.id}`, '/v1/tenants/:tenant', 200, {}],
    ['a page of the audit log', 'GET', () => `/v1/tenants/${tenant.id}/audit`, '/v1/tenants/:tenant/audit', 200, {}],
    ['a HEAD', 'HEAD', () => `/v1/tenants/${tenant.id}`, '/v1/tenants/:tenant', 200, {}],
    ['a call that may not be', 'GET', () => '/v1/tenants', '/v1/tenants', 403, { code: 'forbidden' }],
    [
      'a search for what is not there',
      'GET',
      () => '/v1/messages/msg_1',
      '/v1/messages/:message',
      404,
      { code: 'not_found' },
    ],
    [
      'a body that is refused',
      'POST',
      () => `/v1/tenants/${tenant.id}/sources`,
      '/v1/tenants/:tenant/sources',
      415,
      { code: 'media_type_unsupported' },
    ],
    ['a path that is no route', 'GET', () => '/v1/nowhere/secret', undefined, 404, { code: 'not_found' }],
    ['a method that is not taken', 'PUT', () => '/v1/tenants', undefined, 405, { code: 'method_not_allowed' }],
  ])('%s', async (_what, method, path, route, status, facts) => {
    const body = status === 415 ? { body: 'name', headers: { 'content-type': 'text/plain' } } : {}
    const answer = await relay.call(method, path(), { key: tenant.tenantKey, ...body })
    expect(answer.status).toBe(status)
    const request = {
      method,
      status,
      actor: actorOf(tenant.tenantKey),
      address: '127.0.0.1',
      tenant: tenant.id,
      ...facts,
    }
    const [statement, ...others] = await stated(idOf(answer))
    expect(others).toEqual([])
    expect(statement).toMatchObject({ kind: 'api.called', ...request })
    expect(statement?.route).toBe(route)
    expect(JSON.stringify(statement)).not.toContain('secret')
  })

  test('an administrative act has its own statement, and its call another', async () => {
    const answer = await relay.call<{ id: string }>('POST', `/v1/tenants/${tenant.id}/sources`, {
      body: { name: 'new' },
    })
    const items = await relay.readAudit(tenant, { actor: 'key_testadmin' })
    const [act, call] = items.map(({ statement }) => statement).slice(-2)
    expect(act).toMatchObject({ kind: 'source.created', sub: answer.body.id })
    expect(call).toMatchObject({ kind: 'api.called', sub: idOf(answer), status: 201, actor: 'key_testadmin' })
  })

  test('an accepted post is stated once, by the statement that its receipt shows', async () => {
    const answer = await relay.post(tenant, { order: 1 })
    const { request } = JSON.parse(Buffer.from(answer.body.payload, 'base64url').toString())
    expect(request).toEqual({ id: idOf(answer), address: '127.0.0.1' })
    expect(await stated(idOf(answer))).toEqual([])
  })

  test('a refused post and a repeated one are calls', async () => {
    const refused = await relay.post(tenant, '{"a":1,"a":2}')
    expect(await stated(idOf(refused))).toMatchObject([
      { kind: 'api.called', status: 422, code: 'payload_duplicate_name' },
    ])
    const once = await relay.post(tenant, {}, { 'idempotency-key': 'k' })
    const again = await relay.post(tenant, {}, { 'idempotency-key': 'k' })
    expect(await stated(idOf(again))).toMatchObject([{ kind: 'api.called', status: 202, message: once.body.message }])
  })

  test('a verification that a key holder asks for is stated with its verdict, and anybody else’s is not', async () => {
    const { body: receipt } = await relay.post(tenant, { order: 2 })
    const verify = (key: string | null, body: object) => relay.call('POST', '/v1/verify', { key, body })
    const valid = await verify(tenant.tenantKey, { receipt })
    expect(await stated(idOf(valid))).toMatchObject([{ status: 200, verdict: 'valid', about: receipt.message }])
    const invalid = await verify(tenant.tenantKey, { receipt: { ...receipt, signature: 'A'.repeat(86) } })
    expect(await stated(idOf(invalid))).toMatchObject([{ status: 200, verdict: 'invalid' }])
    const before = (await relay.relay.head()).treeSize
    expect((await verify(null, { receipt })).status).toBe(200)
    expect((await relay.relay.head()).treeSize).toBe(before)
    expect((await verify(`${tenant.tenantKey}x`, { receipt })).status).toBe(401)
  })

  test('what an administrator does to a tenant’s things, the tenant can read', async () => {
    const { body } = await relay.post(tenant, { order: 3 })
    const answers = [
      await relay.call('GET', `/v1/tenants/${tenant.id}/endpoints`),
      await relay.call('GET', `/v1/messages/${body.message}`),
    ]
    for (const answer of answers) expect(await stated(idOf(answer))).toMatchObject([{ actor: 'key_testadmin' }])
    const elsewhere = [
      await relay.call('GET', '/v1/tenants'),
      await relay.call('GET', `/v1/tenants/ten_${'7'.repeat(26)}`),
    ]
    for (const answer of elsewhere) {
      expect(await stated(idOf(answer))).toEqual([])
      expect(await stated(idOf(answer), null)).toMatchObject([{ actor: 'key_testadmin' }])
    }
  })
})

describe('the address is the peer’s, unless that is a proxy we trust', () => {
  test.each([
    ['nobody forwarded it', undefined, '127.0.0.1'],
    ['our proxy did', '203.0.113.7', '203.0.113.7'],
    ['two proxies of ours did', '203.0.113.7, 10.1.2.3', '203.0.113.7'],
    ['the caller claims to be somebody else', '198.51.100.1, 203.0.113.7', '203.0.113.7'],
    ['what is forwarded is no address', 'unknown', '127.0.0.1'],
    ['it is an IPv4 address in IPv6', '::ffff:203.0.113.7', '203.0.113.7'],
  ])('%s', async (_how, forwarded, address) => {
    const headers = forwarded === undefined ? {} : { 'x-forwarded-for': forwarded }
    const answer = await relay.call('GET', `/v1/tenants/${tenant.id}`, { key: tenant.tenantKey, headers })
    expect(await stated(idOf(answer))).toMatchObject([{ address }])
  })

  test('without trusted proxies the header is not looked at', async () => {
    const plain = await TestRelay.start({}, relay)
    const headers = { 'x-forwarded-for': '203.0.113.7' }
    const answer = await plain.call('GET', `/v1/tenants/${tenant.id}`, { key: tenant.tenantKey, headers })
    expect(await stated(idOf(answer))).toMatchObject([{ address: '127.0.0.1' }])
    await plain.close()
  })
})

test('every answer has an id, and a problem repeats it', async () => {
  const answers = [
    await relay.call('GET', '/healthz', { key: null }),
    await relay.call('GET', '/log/checkpoint', { key: null }),
    await relay.call<{ request_id?: string }>('GET', '/nowhere', { key: null }),
    await relay.call<{ request_id?: string }>('GET', '/%', { key: null }),
  ]
  for (const answer of answers) expect(idOf(answer)).toMatch(/^req_[0-9a-z]{26}$/)
  for (const answer of answers.slice(2)) expect(answer.body.request_id).toBe(idOf(answer))
  expect(await speak(relay.url, 'GET / SPDY/9\r\n\r\n')).toMatch(
    /\r\nx-request-id: (req_\w{26})\r\n[\s\S]*"request_id":"\1"/,
  )
})

describe('calls without a valid key', () => {
  const guess = (address: string) =>
    relay.call('GET', `/v1/tenants/${tenant.id}`, {
      key: `cs_guess_${'A'.repeat(43)}`,
      headers: { 'x-forwarded-for': address },
    })
  const refusals = async () => (await relay.readAudit(null, { kind: 'api.refused' })).map(({ statement }) => statement)

  test('are stated five times for each address and then once a minute, and the rest are counted', async () => {
    const before = (await refusals()).length
    for (let n = 0; n < 50; n++) expect((await guess('203.0.113.9')).status).toBe(401)
    let said = (await refusals()).slice(before)
    expect(said).toHaveLength(5)
    expect(said[0]).toMatchObject({
      address: '203.0.113.9',
      method: 'GET',
      route: '/v1/tenants/:tenant',
      code: 'unauthenticated',
    })
    relay.clock.advance(60_000)
    await guess('203.0.113.9')
    await guess('203.0.113.9')
    said = (await refusals()).slice(before)
    expect(said.slice(5)).toMatchObject([{ address: '203.0.113.9', suppressed: 45 }])
  })

  test('do not make the log grow faster because they come from many addresses', async () => {
    const before = (await relay.relay.head()).treeSize
    const addresses = Array.from({ length: 1000 }, (_, n) => `2001:db8::${n.toString(16)}`)
    await Promise.all(addresses.map(guess))
    const { treeSize } = await relay.relay.head()
    expect(treeSize - before).toBeGreaterThan(50)
    expect(treeSize - before).toBeLessThanOrEqual(100)
    relay.clock.advance(6_000)
    await guess('192.0.2.77')
    const last = (await refusals()).at(-1)
    expect(Number(last?.suppressed)).toBeGreaterThanOrEqual(900)
  })
})

test('an answer whose statement cannot be committed does not leave', async () => {
  const { database } = relay.database
  let armed = false
  const strike = <T>(work: () => Promise<T>) => (armed ? Promise.reject(new DatabaseUnavailable('cut')) : work())
  await relay.close()
  await relay.open({
    query: (text, params) => database.query(text, params), // so that there is something to read
    transaction: (work) => strike(() => database.transaction(work)),
    readAs: (tenantId, work) => database.readAs(tenantId, work),
    listen: (channel, onNotice) => database.listen(channel, onNotice),
    close: () => database.close(),
  })
  const read = () => relay.call<{ code?: string; name?: string }>('GET', `/v1/tenants/${tenant.id}`, { key: adminKey })
  expect((await read()).body.name).toBe('Acme')
  armed = true
  const answer = await read()
  expect(answer).toMatchObject({ status: 503, body: { code: 'storage_unavailable' } })
  expect(answer.body.name).toBeUndefined()
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/)
  expect(answer.headers.get('retry-after')).toBe('1')
  armed = false
  await relay.restart()
  expect(await stated(idOf(answer))).toEqual([])
  expect(await stated(idOf(answer), null)).toEqual([])
})
