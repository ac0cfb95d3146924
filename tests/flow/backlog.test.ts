/** What an endpoint cannot take now waits in its backlog: nothing is lost, nothing is hurried, nobody else waits for it. */
import { afterEach, beforeEach, expect, test } from 'vitest'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant

beforeEach(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
})

afterEach(async () => {
  await relay.check()
  expect(await relay.relay.upkeep.reconcile()).toMatchObject({ missing: 0, repaired: 0 })
  await relay.stop()
  await receiver.stop()
})

const second = 1000
const hour = 3600 * second

test('an endpoint that fails ten times in a row is left alone, probed, and drained once it answers', async () => {
  const { id } = await makeEndpoint()
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  await postMany(30)
  await expect.poll(() => relay.relay.worker.health.passage(id).kind).toBe('stopped')
  await quiet()
  const before = receiver.arrived.length
  expect(before, 'what was in flight, and no more').toBeLessThan(10 + 16)
  await postMany(20)
  await quiet()
  expect(receiver.arrived, 'nothing is sent while it is stopped').toHaveLength(before)

  relay.clock.advance(7 * second)
  await receiver.until((arrived) => arrived.length > before)
  await quiet()
  expect(receiver.arrived, 'one probe, and it failed').toHaveLength(before + 1)

  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  relay.clock.advance(30 * second)
  await expect.poll(pending).toBeLessThan(3) // all but whoever was a probe twice
  relay.clock.advance(hour)
  await expect.poll(pending).toBe(0)
  expect(receiver.messages.size).toBe(50)
})

test('the breaker is shared: what one process has learnt, another knows', async () => {
  const { id } = await makeEndpoint()
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  const other = await TestRelay.start({}, relay)
  await postMany(15)
  await expect.poll(() => other.relay.worker.health.passage(id).kind).toBe('stopped')
  await quiet()
  const before = receiver.arrived.length
  await Promise.all(Array.from({ length: 5 }, (_, n) => other.post(tenant, { n })))
  await quiet()
  expect(receiver.arrived).toHaveLength(before)
  await other.close()
})

test('429 holds off the whole endpoint for as long as it asks, and nothing is lost', async () => {
  const { id } = await makeEndpoint()
  receiver.answer = (_arrived, response) => response.writeHead(429, { 'retry-after': '120' }).end()
  await relay.post(tenant, { n: 0 })
  await expect.poll(() => relay.relay.worker.health.passage(id).kind).toBe('stopped')
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  await postMany(5)
  relay.clock.advance(119 * second)
  await quiet()
  expect(receiver.arrived).toHaveLength(1)
  relay.clock.advance(2 * second)
  await expect.poll(pending).toBe(0)
})

test('an absurd Retry-After holds off one delivery for a day and the endpoint for a quarter of an hour', async () => {
  await makeEndpoint()
  receiver.answer = (_arrived, response) => response.writeHead(503, { 'retry-after': '99999999' }).end()
  await relay.post(tenant, { n: 0 })
  await receiver.until((arrived) => arrived.length === 1)
  await quiet()
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  await relay.post(tenant, { n: 1 })
  relay.clock.advance(15 * 60 * second)
  await expect.poll(pending).toBe(1)
  relay.clock.advance(24 * hour)
  await expect.poll(pending).toBe(0)
})

test('a paused endpoint gets nothing, keeps its backlog over a restart, and is drained when it is resumed', async () => {
  const { id } = await makeEndpoint()
  const path = `/v1/tenants/${tenant.id}/endpoints/${id}`
  const key = tenant.tenantKey
  expect((await relay.call('POST', `${path}/pause`, { key, body: { reason: 'maintenance' } })).status).toBe(200)
  await postMany(30)
  await relay.restart()
  relay.clock.advance(100 * hour)
  await quiet()
  expect(receiver.arrived).toEqual([])
  expect((await relay.call('POST', `${path}/resume`, { key })).status).toBe(200)
  await expect.poll(pending).toBe(0)
  expect(receiver.messages.size).toBe(30)
})

test('410 pauses the endpoint and says so; what is owed waits', async () => {
  const { id } = await makeEndpoint()
  receiver.answer = (_arrived, response) => response.writeHead(410).end()
  await relay.post(tenant, { n: 0 })
  await expect.poll(() => endpointOf(id)).toMatchObject({ state: 'paused', paused_reason: 'gone' })
  await relay.post(tenant, { n: 1 })
  await quiet()
  expect(receiver.arrived).toHaveLength(1)
  expect(await pending()).toBe(1)
})

test('an endpoint that fails is told of after an hour, a day and three days, and paused after five', async () => {
  const { id } = await makeEndpoint()
  const told = await Receiver.start()
  await makeEndpoint({ events: ['endpoint.*'] }, told.url)
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  await relay.post(tenant, { n: 0 })
  await expect.poll(() => relay.relay.worker.health.failing().length).toBe(1)
  await quiet()
  const other = await TestRelay.start({}, relay)
  await expect.poll(() => other.relay.worker.health.failing().length).toBe(1)
  for (const [advance, count] of [
    [1, 1],
    [22, 1],
    [1, 2],
    [48, 3],
    [47, 3],
  ] as const) {
    relay.clock.advance(advance * hour)
    await Promise.all([relay.relay.upkeep.look(), other.relay.upkeep.look()])
    await quiet()
    expect(told.arrived.map(({ body }) => JSON.parse(body.toString()).type)).toEqual(
      Array.from({ length: count }, () => 'endpoint.failing'),
    )
  }
  expect(await endpointOf(id)).toMatchObject({ state: 'active' })
  relay.clock.advance(hour)
  await relay.relay.upkeep.look()
  expect(await endpointOf(id)).toMatchObject({ state: 'paused', paused_reason: 'failing' })
  await expect.poll(() => told.arrived.length).toBe(4)
  expect(JSON.parse(told.arrived.at(-1)?.body.toString() ?? '')).toMatchObject({
    type: 'endpoint.paused',
    data: { endpoint: id, reason: 'failing' },
  })
  await other.close()
  await told.stop()
})

test('a rate is kept by all processes together', async () => {
  await makeEndpoint({ rate_limit: { per_second: 2, burst: 3 } })
  const other = await TestRelay.start({}, relay)
  await Promise.all(Array.from({ length: 20 }, (_, n) => (n % 2 === 0 ? relay : other).post(tenant, { n })))
  await receiver.until((arrived) => arrived.length === 3)
  await quiet()
  expect(receiver.arrived, 'the burst').toHaveLength(3)
  for (let seconds = 1; seconds <= 8; seconds++) {
    relay.clock.advance(second)
    await receiver.until((arrived) => arrived.length >= 3 + 2 * seconds)
    await quiet()
    expect(receiver.arrived).toHaveLength(3 + 2 * seconds)
  }
  relay.clock.advance(second)
  await expect.poll(pending).toBe(0)
  await other.close()
})

test('an order is kept across retries, processes and restarts', async () => {
  await makeEndpoint({ ordering: 'fifo' })
  const other = await TestRelay.start({}, relay)
  let failures = 0
  const seen: number[] = []
  receiver.answer = ({ body }, response) => {
    const { n } = JSON.parse(body.toString()) as { n: number }
    if (n % 4 === 0 && failures++ % 2 === 0) return response.writeHead(500).end()
    seen.push(n)
    return response.writeHead(204).end()
  }
  for (let n = 0; n < 12; n++) await (n % 2 === 0 ? relay : other).post(tenant, { n })
  await quiet()
  expect(seen, 'the first failed, and everyone waits for it').toEqual([])
  await other.close()
  await relay.restart()
  for (let n = 0; (await pending()) > 0; n++) {
    expect(n, 'looks').toBeLessThan(50)
    relay.clock.advance(6 * second)
    await quiet()
  }
  expect(seen).toEqual(Array.from({ length: 12 }, (_, n) => n))
})

test('with a key, only those that share its value wait for each other', async () => {
  await makeEndpoint({ ordering: { key: '$.account' } })
  receiver.answer = ({ body }, response) => response.writeHead(body.toString().includes('"stuck"') ? 500 : 204).end()
  for (const account of ['stuck', 'fine', 'stuck', 'fine', 'stuck']) await relay.post(tenant, { account })
  await expect.poll(pending).toBe(3)
  await quiet()
  expect(receiver.arrived, 'of the stuck ones, the first alone was sent').toHaveLength(3)
})

test('what is owed to an endpoint that is deleted while it is stopped or ordered is abandoned', async () => {
  const { id } = await makeEndpoint({ ordering: 'fifo' })
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  await postMany(10)
  const key = tenant.tenantKey
  expect((await relay.call('DELETE', `/v1/tenants/${tenant.id}/endpoints/${id}`, { key })).status).toBe(204)
  relay.clock.advance(10 * second)
  await expect.poll(pending).toBe(0)
})

test('a lease is renewed while its attempt is in flight, so that nobody else sends it', async () => {
  await makeEndpoint({ timeout_ms: 60_000 })
  const held: (() => void)[] = []
  receiver.answer = (_arrived, response) => held.push(() => response.writeHead(204).end())
  await relay.post(tenant, { slow: true })
  await receiver.until((arrived) => arrived.length === 1)
  const other = await TestRelay.start({}, relay)
  for (let n = 0; n < 5; n++) {
    relay.clock.advance(45 * second)
    await quiet()
  }
  for (const answer of held) answer()
  await expect.poll(pending).toBe(0)
  expect(receiver.arrived).toHaveLength(1)
  await other.close()
})

test('what there is no room for waits in the database and is sent in the end', async () => {
  await makeEndpoint({ concurrency: 1 })
  const held: (() => void)[] = []
  receiver.answer = (_arrived, response) => held.push(() => response.writeHead(204).end())
  for (let n = 0; n < 11; n++) await postMany(100)
  await expect.poll(backlogged).toBeGreaterThan(50)
  expect(relay.relay.worker.depth).toMatchObject({ inFlight: 1, queued: 1000 })
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  for (const answer of held.splice(0)) answer()
  for (let n = 0; (await pending()) > 0; n++) {
    expect(n, 'looks').toBeLessThan(100)
    relay.clock.advance(second)
    await quiet()
  }
  expect(receiver.messages.size).toBe(1100)
})

test('the reconciler notices a delivery that is gone, and mends a backlog and an order that nobody goes on with', async () => {
  await makeEndpoint({ ordering: 'fifo' })
  const { id: paused } = await makeEndpoint()
  const key = tenant.tenantKey
  await relay.call('POST', `/v1/tenants/${tenant.id}/endpoints/${paused}/pause`, { key, body: { reason: 'x' } })
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  await postMany(5)
  expect(await relay.relay.upkeep.reconcile()).toEqual({ deliveries: 10, missing: 0, repaired: 0, lagS: 0 })
  await postMany(1)
  const { database } = relay.database
  await quiet()
  await database.query(`delete from deliveries where waits_for is null`)
  await database.query(`delete from endpoint_backlogs`)
  await database.query(
    `delete from deliveries where id in (select max(id) from deliveries where waits_for = 'endpoint')`,
  )
  const found = await relay.relay.upkeep.reconcile()
  expect(found).toMatchObject({ deliveries: 2, missing: 1, repaired: 2 })
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  await relay.call('POST', `/v1/tenants/${tenant.id}/endpoints/${paused}/resume`, { key })
  await expect.poll(pending).toBe(0)
})

const makeEndpoint = (options: object = {}, url = receiver.url) =>
  relay.make<{ id: string }>(`/v1/tenants/${tenant.id}/endpoints`, { url, ...options })

const endpointOf = async (id: string) =>
  (await relay.call('GET', `/v1/tenants/${tenant.id}/endpoints/${id}`, { key: tenant.tenantKey })).body

const postMany = (count: number) => Promise.all(Array.from({ length: count }, (_, n) => relay.post(tenant, { n })))

const count = async (where: string): Promise<number> => {
  const [row] = await relay.database.database.query<{ n: number }>(
    `select count(*) as n from deliveries where ${where}`,
  )
  return row?.n ?? 0
}
const pending = () => count('true')
const backlogged = () => count(`waits_for = 'endpoint'`)

/** Until nothing is in flight and the loops have looked some more times. */
async function quiet(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 250))
}
