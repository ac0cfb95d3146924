/** Erasing a tenant: unreadable at once, everywhere and for good; proven as before. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { checkTestLog } from '../support/log-check.ts'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let other: TestRelay
let receiver: Receiver
let acme: TestTenant
let rival: TestTenant

beforeEach(async () => {
  relay = await TestRelay.start()
  other = await TestRelay.start({}, relay)
  receiver = await Receiver.start()
  acme = await relay.makeTenant('Acme')
  rival = await relay.makeTenant('Rival')
})

afterEach(async () => {
  await other?.close()
  await relay?.stop()
  await receiver?.stop()
})

interface Erased {
  erased_at: string
  erased_leaf: number
}

const erase = (tenant: TestTenant) => relay.call<Erased>('DELETE', `/v1/tenants/${tenant.id}`)

const ask = async (at: TestRelay, path: string) => {
  const { status, body } = await at.call<{ code?: string }>('GET', path)
  return { status, ...body }
}

test('nothing of an erased tenant can be read, in any process, and its receipts say where it was erased', async () => {
  const { message } = (await relay.post(acme, { secret: 'of acme' })).body
  const { message: neighbour } = (await relay.post(rival, { secret: 'of rival' })).body
  expect(await ask(other, `/v1/messages/${message}`)).toMatchObject({ payload: { secret: 'of acme' } })

  const { status, body } = await erase(acme)
  expect(status).toBe(200)
  const { erased_leaf } = body
  relay.clock.advance(1000) // the other process asks again after a second
  for (const at of [relay, other]) {
    expect(await ask(at, `/v1/messages/${message}`)).toMatchObject({
      payload: null,
      payload_state: 'erased',
      erased_leaf,
    })
    expect(await ask(at, `/v1/messages/${message}/receipt`)).toMatchObject({ status: 410, code: 'tenant_erased' })
    expect(await ask(at, `/v1/messages/${neighbour}`)).toMatchObject({ payload: { secret: 'of rival' } })
    expect(await ask(at, `/v1/tenants/${acme.id}`)).toMatchObject({ name: '', erased_leaf })
    expect(await ask(at, `/v1/tenants/${acme.id}/endpoints`)).toMatchObject({ status: 410, code: 'tenant_erased' })
    const asked = { key: null, body: { receipt: relay.receipts.get(message) } }
    const { body: verdict } = await at.call('POST', '/v1/verify', asked)
    expect(verdict).toMatchObject({ verdict: 'valid', content: 'erased', erased_leaf })
    for (const key of [acme.tenantKey, acme.ingestKey]) {
      expect((await at.call('GET', `/v1/messages/${message}`, { key })).status).toBe(401)
    }
  }
  const [row] = await relay.database.superuser<{ kind: string }>('select kind from statements where leaf_index = $1', [
    erased_leaf,
  ])
  expect(row).toEqual({ kind: 'tenant.erased' })
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
  await other.check()
  await relay.restart()
  expect(await ask(relay, `/v1/messages/${message}`)).toMatchObject({ payload_state: 'erased', erased_leaf })
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('a process that has not heard of the erasure yet accepts nothing for the tenant either', async () => {
  await other.post(acme, { before: true })
  const { body: erased } = await erase(acme)
  const { status } = await other.post(acme, { after: true })
  expect([401, 410]).toContain(status)
  const late = await relay.database.superuser(
    `select 1 from statements where kind = 'message.accepted' and leaf_index > $1`,
    [erased.erased_leaf],
  )
  expect(late).toEqual([])
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('no table holds a word of it, but for what its destroyed data key sealed', async () => {
  receiver.answer = (_arrived, response) => response.writeHead(410).end('of acme, says its receiver')
  await relay.makeEndpoint(acme, `${receiver.url}-of-acme`)
  const { message } = (await relay.post(acme, { secret: 'of acme' })).body
  const deliveries = async () =>
    (await relay.call<{ data: { id: string; state: string }[] }>('GET', `/v1/messages/${message}/deliveries`)).body.data
  await expect.poll(deliveries).toMatchObject([{ state: 'abandoned' }])
  const answered = (await deliveries())[0]?.id
  const before = await relay.call('GET', `/v1/deliveries/${answered}`)
  expect(JSON.stringify(before.body)).toContain('of acme, says its receiver')
  await erase(acme)
  expect(await ask(relay, `/v1/deliveries/${answered}`)).toMatchObject({ status: 410, code: 'tenant_erased' })
  expect(await rowsOf('answers')).toHaveLength(1) // until its month is over
  const kept = ['statements', 'messages', 'payloads', 'settled_deliveries', 'answers', 'tenants']
  for (const table of ['data_keys', 'api_keys', 'sources', 'endpoints', 'deliveries']) {
    const rows = await relay.database.superuser(`select 1 from ${table} where tenant_id = $1`, [acme.id])
    expect(rows, table).toEqual([])
  }
  for (const table of kept) {
    const rows = await rowsOf(table)
    expect(rows.map(({ text }) => text).join('\n'), table).not.toMatch(/Acme|of-acme|of acme/)
  }
})

const rowsOf = (table: string) => relay.database.superuser<{ text: string }>(`select t::text as text from ${table} t`)

test('what is still owed is abandoned, each delivery with its statement, and nothing more is sent', async () => {
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  await relay.makeEndpoint(acme, receiver.url)
  const messages = []
  for (let n = 0; n < 5; n++) messages.push((await relay.post(acme, { n })).body.message)
  await receiver.until((arrived) => arrived.length >= 5)
  await erase(acme)
  for (const message of messages) {
    const { body } = await relay.call<{ data: { state: string }[] }>('GET', `/v1/messages/${message}/deliveries`)
    expect(body.data.map(({ state }) => state)).toEqual(['abandoned'])
  }
  const abandoned = await relay.database.superuser(
    `select 1 from statements where kind = 'delivery.abandoned' and tenant_id is null`,
  )
  expect(abandoned).toHaveLength(5)
  const arrived = receiver.arrived.length
  relay.clock.advance(3_600_000)
  await relay.relay.worker.claim()
  expect(receiver.arrived.length).toBe(arrived)
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('an attempt under way while its tenant is erased is still stated', async () => {
  let answer: (() => void) | undefined
  const held = new Promise<void>((resolve) => {
    answer = resolve
  })
  receiver.answer = (_arrived, response) => void held.then(() => response.writeHead(200).end())
  await relay.makeEndpoint(acme, receiver.url)
  await relay.post(acme, {})
  await receiver.until((arrived) => arrived.length === 1)
  await erase(acme)
  answer?.()
  const attempts = () =>
    relay.database.superuser(`select 1 from statements where kind = 'delivery.attempted' and tenant_id is null`)
  await expect.poll(async () => (await attempts()).length, { timeout: 10_000 }).toBe(1)
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('erasing happens once, and never to another', async () => {
  const [first, second] = await Promise.all([erase(acme), erase(acme)])
  expect([first.status, second.status].sort()).toEqual([200, 410])
  expect((await erase(acme)).status).toBe(410)
  expect((await relay.call('DELETE', `/v1/tenants/ten_${'7'.repeat(26)}`)).status).toBe(404)
  expect((await relay.call('DELETE', `/v1/tenants/${rival.id}`, { key: rival.tenantKey })).status).toBe(403)
  expect((await relay.post(rival, {})).status).toBe(202)
  const stated = await relay.database.superuser(`select 1 from statements where kind = 'tenant.erased'`)
  expect(stated).toHaveLength(1)
  await relay.check()
  expect((await checkTestLog(relay)).findings).toEqual([])
})
