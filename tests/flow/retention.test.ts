/** Fourteen months of a relay: what expires, what stays, and that every receipt ever issued keeps its verdict. */
import { afterEach, expect, test } from 'vitest'
import { expiredPartitions } from '../../src/log/partitions.ts'
import { checkTestLog } from '../support/log-check.ts'
import { Receiver } from '../support/receiver.ts'
import { TestClock, TestRelay, type TestTenant } from '../support/relay.ts'

const day = 86_400_000

let relay: TestRelay
let receiver: Receiver | undefined

afterEach(async () => {
  await relay?.stop()
  await receiver?.stop()
  receiver = undefined
})

/** A relay whose clock is behind, since PostgreSQL drops no month that is not over by its own. */
const startAgo = async (days: number, options = {}) => {
  relay = await TestRelay.start(options, undefined, new TestClock(days * day))
}

const keepHouse = async (): Promise<void> => {
  await relay.relay.housekeeping.lookAfterKeys()
  await relay.relay.housekeeping.lookAfterRetention()
}

async function postMany(tenant: TestTenant, count: number): Promise<void> {
  for (let rest = count; rest > 0; rest -= 100) {
    const posts = Array.from({ length: Math.min(rest, 100) }, (_, n) => relay.post(tenant, { n }))
    for (const { status } of await Promise.all(posts)) expect(status).toBe(202)
  }
}

const partitionsOf = async (table: string): Promise<string[]> => {
  const rows = await relay.database.superuser<{ name: string }>(
    `select inhrelid::regclass::text as name from pg_inherits where inhparent = '${table}'::regclass order by 1`,
  )
  return rows.map(({ name }) => name)
}

const rowsOf = async (table: string, tenant: TestTenant): Promise<number> => {
  const joined = table === 'payloads' ? 'payloads join messages using (leaf_index)' : table
  const [row] = await relay.database.superuser<{ count: number }>(
    `select count(*) from ${joined} where tenant_id = $1`,
    [tenant.id],
  )
  return row?.count ?? 0
}

interface Shown {
  payload: unknown
  payload_state: string
}
const read = (message: string, key?: string) =>
  relay.call<Shown & { code?: string }>('GET', `/v1/messages/${message}`, key === undefined ? {} : { key })

const verdictOf = async (message: string) => {
  const receipt = relay.receipts.get(message)
  const { body } = await relay.call<{ verdict: string; content: string; erased_leaf?: number }>('POST', '/v1/verify', {
    key: null,
    body: { receipt },
  })
  return body
}

test('over fourteen months payloads and statements expire by the month, and every receipt goes on verifying', async () => {
  await startAgo(430)
  const ordinary = await relay.makeTenant('Ordinary')
  const patient = await relay.makeTenant('Patient')
  const retention = { payload_days: 180, statement_months: 36 }
  const changed = await relay.call('PATCH', `/v1/tenants/${patient.id}`, { body: { retention } })
  expect(changed.body).toMatchObject({ retention })
  await postMany(ordinary, 20)
  const firsts: Record<'ordinary' | 'patient', string> = {
    ordinary: (await relay.post(ordinary, { first: true })).body.message,
    patient: (await relay.post(patient, { first: true })).body.message,
  }
  const atFirst = await partitionsOf('statements')

  for (let today = 0; today <= 430; today += 5) {
    await keepHouse()
    const age = (message: string) => read(message).then(({ status, body }) => [status, body.payload_state ?? body.code])
    const patientSays = today < 180 ? 'available' : 'expired'
    const ordinarySays = today < 30 ? 'available' : 'expired'
    expect(await age(firsts.patient), `day ${today}`).toEqual([200, patientSays])
    if (today < 365) expect(await age(firsts.ordinary), `day ${today}`).toEqual([200, ordinarySays])
    if (today > 366) expect(await age(firsts.ordinary), `day ${today}`).toEqual([410, 'statement_expired'])
    if (today === 330) await postMany(ordinary, 260) // fills the bundle that the first month ends in
    if (today % 30 === 0) {
      for (const tenant of [ordinary, patient]) expect((await relay.post(tenant, { today })).status).toBe(202)
      await relay.check()
    }
    if (today < 430) relay.clock.advance(5 * day)
  }

  // The months that are over are gone, whole; nobody deleted a row.
  expect(await partitionsOf('statements')).not.toContain(atFirst[0])
  const [{ deleted } = { deleted: -1 }] = await relay.database.superuser<{ deleted: number }>(
    `select sum(n_tup_del)::bigint as deleted from pg_stat_user_tables
      where relname ~ '^(statements|messages|payloads|idempotency_keys|settled_deliveries|answers|tiles|entry_bundles)'`,
  )
  expect(deleted).toBe(0)
  expect(await rowsOf('messages', ordinary)).toBeLessThan(280)
  expect(await rowsOf('messages', patient)).toBe(16)
  expect(await rowsOf('payloads', patient)).toBeLessThan(9)
  expect(await rowsOf('payloads', ordinary)).toBeLessThan(4)

  // What was asked for at the time is true to the end.
  const patientReceipt = await relay.call('GET', `/v1/messages/${firsts.patient}/receipt`)
  expect(patientReceipt.status).toBe(200)
  const ordinaryReceipt = await relay.call('GET', `/v1/messages/${firsts.ordinary}/receipt`)
  expect(ordinaryReceipt).toMatchObject({ status: 410, body: { code: 'statement_expired' } })
  for (const message of Object.values(firsts)) {
    expect(await verdictOf(message)).toMatchObject({ verdict: 'valid', content: 'expired' })
  }
  const applied = await relay.database.superuser(
    `select 1 from statements where kind = 'retention.applied' and tenant_id is null`,
  )
  expect(applied.length).toBeGreaterThan(12)
  await relay.restart()
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
}, 120_000)

test('a stranger cannot tell what expired from what never was', async () => {
  await startAgo(430)
  const acme = await relay.makeTenant('Acme')
  const rival = await relay.makeTenant('Rival')
  await relay.call('PATCH', `/v1/tenants/${acme.id}`, { body: { retention: { statement_months: 24 } } })
  const { message: kept } = (await relay.post(acme, {})).body
  const { message: gone } = (await relay.post(rival, {})).body
  relay.clock.advance(400 * day)
  const never = `${kept.slice(0, -3)}000`
  const answers = await Promise.all([kept, gone, never].map((message) => read(message, rival.tenantKey)))
  for (const { status, body } of answers) expect([status, body.code]).toEqual([410, 'statement_expired'])
  expect((await read(kept, acme.tenantKey)).status).toBe(200)
})

test('leaves that are in no full bundle hold their month, until the bundle is full', async () => {
  await startAgo(430)
  const tenant = await relay.makeTenant()
  await postMany(tenant, 10)
  const before = await partitionsOf('statements')
  relay.clock.advance(429 * day)
  await relay.relay.housekeeping.retention.tick()
  expect(await partitionsOf('statements')).toEqual(expect.arrayContaining(before))
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
  await postMany(tenant, 260)
  await relay.relay.housekeeping.retention.tick()
  expect(await partitionsOf('statements')).not.toEqual(expect.arrayContaining(before.slice(0, 1)))
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('a delivery still owed when its payload expires is abandoned, and holds nobody’s month', async () => {
  await startAgo(100, { retrySchedule: [80 * day] })
  receiver = await Receiver.start()
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  const tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, receiver.url)
  const { message } = (await relay.post(tenant, {})).body
  const deliveries = async () => {
    const { body } = await relay.call<{ data: { state: string; attempts: object[] }[] }>(
      'GET',
      `/v1/messages/${message}/deliveries`,
    )
    return body.data
  }
  await expect.poll(async () => (await deliveries())[0]?.attempts.length, { timeout: 10_000 }).toBe(1)
  const [payloads = ''] = await partitionsOf('payloads')
  relay.clock.advance(99 * day - 80 * day)
  await keepHouse()
  expect((await deliveries())[0]?.state).toBe('pending')
  relay.clock.advance(60 * day)
  await keepHouse()
  expect((await deliveries())[0]?.state).toBe('abandoned')
  relay.clock.advance(20 * day)
  await keepHouse()
  expect(await partitionsOf('payloads')).not.toContain(payloads)
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('what became of deliveries goes with its message, and what was answered with the payloads of then', async () => {
  await startAgo(430, { retrySchedule: [] })
  receiver = await Receiver.start()
  receiver.answer = (_arrived, response) => response.writeHead(500).end('no room')
  const tenants = { ordinary: await relay.makeTenant('Ordinary'), patient: await relay.makeTenant('Patient') }
  const retention = { payload_days: 90, statement_months: 24 }
  await relay.call('PATCH', `/v1/tenants/${tenants.patient.id}`, { body: { retention } })
  const settled = async (tenant: TestTenant): Promise<{ id: string; message: string }[]> => {
    const path = `/v1/deliveries?state=abandoned&tenant=${tenant.id}`
    return (await relay.call<{ data: { id: string; message: string }[] }>('GET', path)).body.data
  }
  const deliveries = { ordinary: '', patient: '' }
  for (const name of ['ordinary', 'patient'] as const) {
    await relay.makeEndpoint(tenants[name], receiver.url)
    await relay.post(tenants[name], {})
    await expect.poll(() => settled(tenants[name])).toHaveLength(1)
    deliveries[name] = (await settled(tenants[name]))[0]?.id ?? ''
  }
  // What is shown of a delivery, as its age grows: with the answer, without it, not at all.
  const shown = async (name: keyof typeof deliveries) => {
    const { status, body } = await relay.call('GET', `/v1/deliveries/${deliveries[name]}`)
    expect(await settled(tenants[name])).toHaveLength(status === 200 ? 1 : 0)
    return status === 200 ? JSON.stringify(body).includes('no room') : body.code
  }
  const expected = (name: keyof typeof deliveries, age: number) => {
    const [answerDays, days] = name === 'ordinary' ? [30, 366] : [90, 731]
    return age < answerDays ? true : age < days ? false : 'not_found'
  }
  let today = 0
  for (const age of [0, 29, 31, 89, 91, 364, 367, 429]) {
    relay.clock.advance((age - today) * day)
    today = age
    for (const name of ['ordinary', 'patient'] as const) {
      expect(await shown(name), `${name} on day ${age}`).toBe(expected(name, age))
    }
    await relay.relay.housekeeping.retention.tick()
    for (const name of ['ordinary', 'patient'] as const) {
      expect(await shown(name), `${name} on day ${age}, after the run`).toBe(expected(name, age))
    }
  }
  expect(await rowsOf('answers', tenants.ordinary)).toBe(0)
  expect(await rowsOf('answers', tenants.patient)).toBe(0)
  expect(await rowsOf('settled_deliveries', tenants.ordinary)).toBe(0)
  expect(await rowsOf('settled_deliveries', tenants.patient)).toBe(1)

  const { body } = await relay.call<{ data: { statement: { sub: string; rows: number } }[] }>(
    'GET',
    '/v1/audit?kind=retention.applied&limit=1000',
  )
  for (const [table, rows] of Object.entries({ answers: 2, settled_deliveries: 1 })) {
    const dropped = body.data.filter(({ statement }) => statement.sub === table)
    expect(
      dropped.reduce((sum, { statement }) => sum + statement.rows, 0),
      table,
    ).toBe(rows)
  }
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('the month of settled deliveries waits while one is owed that will need its place there', async () => {
  await startAgo(430)
  const tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, 'http://127.0.0.1:65000/')
  const { message } = (await relay.post(tenant, {})).body
  relay.clock.advance(429 * day)
  const held = async () => {
    const expired = await expiredPartitions(relay.database.database, relay.clock.now())
    return expired.find(({ table }) => table === 'settled_deliveries')?.heldBy
  }
  expect(await held()).toBe('delivery')
  await relay.relay.housekeeping.retention.tick() // abandons it first
  expect(await held()).toBeUndefined()
  const abandoned = await relay.database.superuser(`select 1 from statements where kind = 'delivery.abandoned'`)
  expect(abandoned).toHaveLength(1)
  expect((await read(message)).status).toBe(410)
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('several processes look at once, and each month is dropped and stated once', async () => {
  await startAgo(100)
  const other = await TestRelay.start({}, relay)
  const tenant = await relay.makeTenant()
  await postMany(tenant, 5)
  relay.clock.advance(99 * day)
  await Promise.all([relay, other, relay, other].map(({ relay }) => relay.housekeeping.retention.tick()))
  const stated = await relay.database.superuser(`select 1 from statements where kind = 'retention.applied'`)
  expect(stated.length).toBe(1)
  await other.close()
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('an Idempotency-Key is remembered for thirty days, after the payload itself was dropped too', async () => {
  await startAgo(70)
  const tenant = await relay.makeTenant()
  const key = { 'idempotency-key': 'order-4711' }
  const { message } = (await relay.post(tenant, { a: 1 }, key)).body
  relay.clock.advance(29 * day)
  expect((await relay.post(tenant, { a: 1 }, key)).body.message).toBe(message)
  expect((await relay.post(tenant, { a: 2 }, key)).body).toMatchObject({ code: 'idempotency_key_reused' })
  relay.clock.advance(2 * day)
  expect((await relay.post(tenant, { a: 2 }, key)).body.message).not.toBe(message)
})

test('the policy is public, and a tenant can choose longer and nothing shorter', async () => {
  await startAgo(0)
  const { status, body } = await relay.call('GET', '/v1/retention', { key: null })
  expect(status).toBe(200)
  expect(body).toMatchObject({ payloads: { days: 30 }, statements: { months: 12 } })
  const { id } = await relay.makeTenant()
  for (const retention of [{ payload_days: 7 }, { statement_months: 6 }, { statement_months: 13 }, {}]) {
    expect((await relay.call('PATCH', `/v1/tenants/${id}`, { body: { retention } })).status).toBe(400)
  }
  const changed = await relay.call('PATCH', `/v1/tenants/${id}`, { body: { name: 'Acme & Co', tier: 'standard' } })
  expect(changed.body).toMatchObject({ name: 'Acme & Co', tier: 'standard', retention: { payload_days: 30 } })
})
