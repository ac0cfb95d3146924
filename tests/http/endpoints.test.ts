/** What can be asked of an endpoint, what is refused, and what of it is ever shown again. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { DataKeys } from '../../src/keyring/data-keys.ts'
import { openStatement } from '../../src/log/reader.ts'
import { makeCertificate } from '../support/certificate.ts'
import { Receiver } from '../support/receiver.ts'
import { openWrapper, TestRelay, type TestTenant } from '../support/relay.ts'

interface Shown extends Record<string, unknown> {
  id: string
  secret?: string
  headers: Record<string, string>
}

const certificate = makeCertificate('relay.test', new Date(Date.now() - 1000), new Date(Date.now() + 3_600_000))
const stranger = makeCertificate('relay.test', new Date(Date.now() - 1000), new Date(Date.now() + 3_600_000))

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
})

afterAll(async () => {
  await relay?.check()
  await relay?.stop()
  await receiver?.stop()
})

describe('options', () => {
  const wish = {
    name: 'billing',
    events: ['invoice.*'],
    filter: [{ path: '$.data.amount', gt: 100 }],
    timeout_ms: 5000,
    retry_schedule: '5s,90s,2h,1d',
    rate_limit: { per_second: 2.5, burst: 10 },
    concurrency: 3,
    ordering: { key: '$.data.customer' },
    signatures: { rfc9421: true, hmac: false, retiring_key: true },
  }

  test('are shown as they were asked for, and read the same after a restart', async () => {
    const made = await make(wish)
    expect(made).toMatchObject(wish)
    await relay.restart()
    expect((await call('GET', `/${made.id}`)).body).toEqual(made)
    const { body } = await call<{ data: Shown[] }>('GET', '')
    expect(body.data).toContainEqual(made)
  })

  test('that nobody asked for are the defaults', async () => {
    expect(await make({})).toMatchObject({
      ...{ name: '', state: 'active', events: [], filter: [], timeout_ms: 15_000, retry_schedule: null },
      ...{ rate_limit: null, concurrency: null, ordering: 'none', headers: {}, tls: null },
      signatures: { rfc9421: false, hmac: false, retiring_key: false },
    })
  })

  test('that a change does not name stay, and null brings the default back', async () => {
    const { id } = await make(wish)
    const { body } = await call('PATCH', `/${id}`, {
      signatures: { rfc9421: false },
      rate_limit: null,
      ordering: 'fifo',
    })
    expect(body).toMatchObject({
      ...wish,
      ...{ rate_limit: null, ordering: 'fifo', signatures: { rfc9421: false, hmac: false, retiring_key: true } },
    })
  })

  test('are listed in pages', async () => {
    const other = await relay.makeTenant('Paged')
    const path = `/v1/tenants/${other.id}/endpoints`
    const ids: string[] = []
    for (let i = 0; i < 5; i++) ids.push((await relay.make(path, { url: receiver.url })).id)
    type Listed = { data: { id: string }[]; next?: string }
    const first = (await relay.call<Listed>('GET', `${path}?limit=3`)).body
    const second = (await relay.call<Listed>('GET', `${path}?limit=3&after=${first.next}`)).body
    expect([...first.data, ...second.data].map(({ id }) => id)).toEqual(ids)
    expect(second.next).toBeUndefined()
  })

  test.each([
    ['/events/1', { events: ['fine.*', 'not fine'] }],
    ['/filter/0/path', { filter: [{ path: '$..amount', equals: 1 }] }],
    ['/ordering/key', { ordering: { key: 'customer' } }],
    ['/retry_schedule', { retry_schedule: '5 seconds' }],
    ['/retry_schedule', { retry_schedule: '8d' }],
    ['/headers', { headers: { 'content-type': 'text/plain' } }],
    ['/headers', { headers: { 'webhook-id': 'msg_forged' } }],
    ['/headers', { headers: { host: 'other.example' } }],
    ['/headers', { headers: { 'X-Forwarded-For': '127.0.0.1' } }],
    ['/headers', { headers: { 'x-aws-ec2-metadata-token': 'a' } }],
    ['/headers', { headers: { authorization: 'Bearer a\r\nx-more: b' } }],
    ['/headers', { headers: { authorization: 'Bearer ä' } }],
    ['/headers', { headers: { authorization: '' } }],
    ['/headers', { headers: Object.fromEntries(Array.from({ length: 21 }, (_, n) => [`x-${n}`, 'a'])) }],
    ['/headers', { headers: { 'x-a': 'a'.repeat(4000), 'x-b': 'b'.repeat(4000) } }],
    ['/tls', { tls: { certificate: certificate.cert } }],
    ['/tls', { tls: { certificate: certificate.cert, key: stranger.key } }],
    ['/tls', { tls: { ca: 'nobody' } }],
    ['/tls', { tls: { ca: certificate.cert.replace(/[A-Z]{8}/g, 'AAAAAAAA') } }],
  ])('at %s that cannot be used are refused: %j', async (pointer, wish) => {
    const answer = await call('POST', '', { url: receiver.url, ...wish })
    expect(answer.body).toMatchObject({ status: 422, code: 'endpoint_option_invalid', pointer })
    expect(answer.body.detail, 'no secret is repeated').not.toMatch(/PRIVATE|Bearer/)
  })

  test.each([
    { timeout_ms: 999 },
    { timeout_ms: 60_001 },
    { concurrency: 0 },
    { rate_limit: { per_second: 0, burst: 1 } },
    { filter: [{ path: '$.a' }] },
    { filter: [{ path: '$.a', equals: 1, not: 2 }] },
    { filter: [{ path: '$.a', equals: {} }] },
    { filter: [{ path: '$.a', equals: 'nul \u0000' }] },
    { filter: Array(21).fill({ path: '$.a', equals: 1 }) },
    { events: Array(101).fill('a') },
    { ordering: 'lifo' },
    { signatures: { md5: true } },
    { name: 'nul \u0000' },
    { colour: 'red' },
  ])('out of bounds are refused: %j', async (wish) => {
    const answer = await call('POST', '', { url: receiver.url, ...wish })
    expect(answer.body).toMatchObject({ status: 400, code: 'request_invalid' })
  })
})

test('there are at most 1000 of a tenant', async () => {
  const { id } = await relay.makeTenant('Many')
  await relay.database.database.query(
    `insert into endpoints (id, tenant_id, name, sealed, options, created_at)
     select 'ep_' || n, $1, '', '', '{}', now() from generate_series(1, 999) as n`,
    [id],
  )
  const path = `/v1/tenants/${id}/endpoints`
  await relay.make(path, { url: receiver.url })
  const { body } = await relay.call('POST', path, { body: { url: receiver.url } })
  expect(body).toMatchObject({ status: 409, code: 'endpoint_limit_reached' })
})

describe('what is secret', () => {
  test('is shown once or never, and not a byte of it lies plain in the database or the logs of acts', async () => {
    const url = `${receiver.url}?token=t0ken-in-the-url`
    const made = await make({
      url,
      headers: { authorization: 'Bearer b3arer-t0ken', 'x-plain': 'x-va1ue' },
      signatures: { hmac: true },
      tls: { certificate: certificate.cert, key: certificate.key },
    })
    expect(made.secret).toMatch(/^whsec_[A-Za-z0-9+/]{43}=$/)
    expect(made).toMatchObject({ url, headers: { authorization: '***', 'x-plain': '***' } })
    expect(made.tls).toEqual({ certificate: certificate.cert, ca: null })

    const read = await call('GET', `/${made.id}`)
    expect(read.body.secret).toBeUndefined()
    const changed = await call('PATCH', `/${made.id}`, { name: 'renamed' })
    expect(changed.body.secret).toBeUndefined()
    const rows = await relay.database.database.query('select * from endpoints where id = $1', [made.id])
    const plain =
      JSON.stringify([rows, read.body.headers, changed.body.headers]) + Buffer.from(bytesOf(rows)).toString('latin1')
    for (const secret of ['t0ken-in-the-url', 'b3arer-t0ken', 'x-va1ue', made.secret?.slice(6, 30), 'PRIVATE KEY']) {
      expect(plain).not.toContain(secret)
    }
  })

  test('headers are changed one by one, and removed by null', async () => {
    const { id } = await make({ headers: { authorization: 'Bearer a', 'x-a': 'a' } })
    const { body } = await call('PATCH', `/${id}`, { headers: { 'X-A': null, 'x-b': 'b' } })
    expect(body.headers).toEqual({ authorization: '***', 'x-b': '***' })
  })

  test('a secret is made when HMAC is switched on, and another when it is switched on again', async () => {
    const { id, secret } = await make({})
    expect(secret).toBeUndefined()
    expect((await call('POST', `/${id}/secret/rotate`)).body).toMatchObject({ code: 'endpoint_option_invalid' })
    const first = await call('PATCH', `/${id}`, { signatures: { hmac: true } })
    await call('PATCH', `/${id}`, { signatures: { hmac: false } })
    const second = await call('PATCH', `/${id}`, { signatures: { hmac: true } })
    expect(new Set([first.body.secret, second.body.secret, undefined]).size).toBe(3)
  })

  test('goes with the endpoint when it is deleted', async () => {
    const { id } = await make({ headers: { authorization: 'Bearer a' } })
    expect((await call('DELETE', `/${id}`)).status).toBe(204)
    const [row] = await relay.database.database.query<{ bytes: number }>(
      'select length(sealed) as bytes from endpoints where id = $1',
      [id],
    )
    expect(row?.bytes).toBe(0)
  })
})

describe('changes', () => {
  test('at the same time: one is made and the other refused, and the log has only the one that was made', async () => {
    const { id } = await make({ name: 'start' })
    const wishes = Array.from({ length: 8 }, (_, n) => ({ name: `name ${n}`, headers: { [`x-${n}`]: 'a' } }))
    const answers = await Promise.all(wishes.map((wish) => call('PATCH', `/${id}`, wish)))
    const made = answers.filter(({ status }) => status === 200)
    for (const { status, body } of answers) if (status !== 200) expect(body).toMatchObject({ code: 'endpoint_changed' })
    expect(made.length).toBeGreaterThanOrEqual(1)
    const { body } = await call('GET', `/${id}`)
    expect(Object.keys(body.headers)).toHaveLength(made.length)
    const kinds = (await statementsAbout(id)).map(({ kind }) => kind)
    expect(kinds).toEqual(['endpoint.created', ...made.map(() => 'endpoint.updated')])
  })

  test('each is stated with who made it, and with no secret', async () => {
    const { id } = await make({ headers: { authorization: 'Bearer b3arer' }, signatures: { hmac: true } })
    await call('POST', `/${id}/pause`, { reason: 'receiver moves' })
    await call('POST', `/${id}/pause`, { reason: 'twice is once' })
    await call('POST', `/${id}/resume`)
    await call('POST', `/${id}/resume`)
    await call('POST', `/${id}/secret/rotate`)
    await call('DELETE', `/${id}`)
    const statements = await statementsAbout(id)
    const actor = `key_${tenant.tenantKey.split('_')[1]}`
    for (const statement of statements) expect(statement).toMatchObject({ actor, tenant: tenant.id })
    expect(statements).toMatchObject([
      { kind: 'endpoint.created', headers: ['authorization'], options: { timeout_ms: 15_000 } },
      { kind: 'endpoint.paused', reason: 'receiver moves' },
      { kind: 'endpoint.resumed' },
      { kind: 'endpoint.secret_rotated' },
      { kind: 'endpoint.deleted' },
    ])
    expect(JSON.stringify(statements)).not.toMatch(/b3arer|whsec_|127\.0\.0\.1/)
  })

  test('a paused endpoint says since when and why, until it is resumed', async () => {
    const { id } = await make({})
    const paused = await call('POST', `/${id}/pause`, { reason: 'receiver moves' })
    const since = relay.clock.now().toISOString()
    expect(paused.body).toMatchObject({ state: 'paused', paused_at: since, paused_reason: 'receiver moves' })
    expect((await call('GET', `/${id}`)).body).toEqual(paused.body)
    const { body } = await call('POST', `/${id}/resume`)
    expect(body).toMatchObject({ state: 'active' })
    expect(body).not.toHaveProperty('paused_at')
  })

  test('what was secret stays as it was through a pause and a change of the name', async () => {
    const { id } = await make({ headers: { authorization: 'Bearer kept' } })
    await call('POST', `/${id}/pause`, { reason: 'a while' })
    await call('PATCH', `/${id}`, { name: 'other' })
    await call('POST', `/${id}/resume`)
    const { body } = await relay.post(tenant, { n: 1 })
    const mine = () => receiver.arrived.find(({ headers }) => headers.authorization === 'Bearer kept')
    await receiver.until(() => mine() !== undefined)
    expect(mine()?.headers['webhook-id']).toBe(body.message)
  })
})

const make = (wish: object): Promise<Shown> =>
  relay.make<Shown>(`/v1/tenants/${tenant.id}/endpoints`, { url: receiver.url, ...wish }, tenant.tenantKey)

const call = <T = Shown>(method: string, path: string, body?: object) =>
  relay.call<T>(method, `/v1/tenants/${tenant.id}/endpoints${path}`, {
    key: tenant.tenantKey,
    ...(body !== undefined && { body }),
  })

/** The statements about one endpoint, oldest first, opened as their tenant could. */
async function statementsAbout(id: string): Promise<Record<string, unknown>[]> {
  const { database } = relay.database
  const dataKeys = new DataKeys(await openWrapper(relay.folder), relay.relay.issuer)
  const rows = await database.query<{ tenantId: string; sealed: Uint8Array }>(
    `select tenant_id as "tenantId", sealed from statements where kind like 'endpoint.%' order by leaf_index`,
  )
  const all = await Promise.all(rows.map((row) => openStatement(database, dataKeys, row)))
  return all
    .map((statement) => JSON.parse(Buffer.from(statement).toString()) as Record<string, unknown>)
    .filter(({ sub }) => sub === id)
}

const bytesOf = (rows: object[]): Uint8Array =>
  Buffer.concat(rows.flatMap((row) => Object.values(row).filter((value) => value instanceof Uint8Array)))
