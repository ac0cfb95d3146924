import { afterEach, beforeEach, expect, test } from 'vitest'
import { deadUrl, Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

interface ShownDelivery {
  id: string
  endpoint: string
  state: string
  next_attempt_at?: string
  attempts: { number: number; outcome: string; status?: number; reason?: string; leaf_index: number }[]
}

const minute = 60_000

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
  await relay.stop()
  await receiver.stop()
})

test('a refused delivery is attempted again after the delays of the schedule, signed anew, then abandoned', async () => {
  await relay.makeEndpoint(tenant, receiver.url)
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  const { body } = await relay.post(tenant, { stubborn: true })
  const delaysMs = [
    5000,
    5 * minute,
    30 * minute,
    120 * minute,
    300 * minute,
    600 * minute,
    840 * minute,
    1200 * minute,
    1440 * minute,
  ]
  for (const [i, delayMs] of delaysMs.entries()) {
    const delivery = await attempted(body.message, i + 1)
    expect(delivery.state).toBe('pending')
    // With `random` at 0.5 the jitter is nothing: the delay is the schedule's.
    expect(Date.parse(delivery.next_attempt_at ?? '') - relay.clock.now().getTime()).toBe(delayMs)
    relay.clock.advance(delayMs - 1)
    expect(await relay.relay.worker.claim()).toBe(0)
    relay.clock.advance(1)
  }
  await expect.poll(() => deliveryOf(body.message)).toMatchObject({ state: 'abandoned', attempts: { length: 10 } })
  expect(receiver.arrived.map(({ headers }) => headers['webhook-attempt'])).toEqual(
    Array.from({ length: 10 }, (_, i) => `${i + 1}`),
  )
  expect(receiver.messages).toEqual(new Set([body.message]))
  const signatures = new Set(receiver.arrived.map(({ headers }) => headers['webhook-signature']))
  expect(signatures.size).toBe(10)
})

test('410 stops at once, and a redirect is a refusal that is not followed', async () => {
  await relay.makeEndpoint(tenant, receiver.url)
  const other = await Receiver.start()
  receiver.answer = ({ body }, response) =>
    body.toString().includes('gone')
      ? response.writeHead(410).end()
      : response.writeHead(307, { location: other.url }).end()
  const gone = await relay.post(tenant, { gone: true })
  const moved = await relay.post(tenant, { moved: true })
  await expect
    .poll(() => deliveryOf(gone.body.message))
    .toMatchObject({ state: 'abandoned', attempts: [{ status: 410 }] })
  expect(await attempted(moved.body.message, 1)).toMatchObject({
    state: 'pending',
    attempts: [{ outcome: 'refused', status: 307 }],
  })
  expect(other.arrived).toEqual([])
  await other.stop()
})

test('Retry-After is waited for', async () => {
  await relay.makeEndpoint(tenant, receiver.url)
  receiver.answer = (_arrived, response) => response.writeHead(503, { 'retry-after': '600' }).end()
  const { body } = await relay.post(tenant, { busy: true })
  const { next_attempt_at } = await attempted(body.message, 1)
  expect(Date.parse(next_attempt_at ?? '') - relay.clock.now().getTime()).toBeGreaterThanOrEqual(600_000)
})

test('every endpoint of the tenant is owed the message, and one that is down does not hold up another', async () => {
  const up = await relay.makeEndpoint(tenant, receiver.url)
  const down = await relay.makeEndpoint(tenant, await deadUrl())
  const { body } = await relay.post(tenant, { fan: 'out' })
  await receiver.until(() => receiver.messages.has(body.message))
  await expect
    .poll(() => deliveriesOf(body.message))
    .toMatchObject([
      { endpoint: up.id, state: 'delivered' },
      { endpoint: down.id, state: 'pending', attempts: [{ outcome: 'unreachable', reason: 'connect' }] },
    ])
})

test('an endpoint made before a post is owed it, and one deleted before is not; what was owed is abandoned', async () => {
  const { id } = await relay.makeEndpoint(tenant, receiver.url)
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  const before = await relay.post(tenant, { n: 1 })
  await attempted(before.body.message, 1)
  const key = tenant.tenantKey
  expect((await relay.call('DELETE', `/v1/tenants/${tenant.id}/endpoints/${id}`, { key })).status).toBe(204)
  const after = await relay.post(tenant, { n: 2 })
  expect(await deliveriesOf(after.body.message)).toEqual([])
  relay.clock.advance(10_000)
  await expect
    .poll(() => deliveryOf(before.body.message))
    .toMatchObject({ state: 'abandoned', attempts: { length: 1 } })
  expect(receiver.arrived).toHaveLength(1)
})

test('a changed URL is used by the next attempt', async () => {
  const { id } = await relay.makeEndpoint(tenant, await deadUrl())
  const { body } = await relay.post(tenant, { moving: true })
  await attempted(body.message, 1)
  const path = `/v1/tenants/${tenant.id}/endpoints/${id}`
  expect((await relay.call('PATCH', path, { key: tenant.tenantKey, body: { url: receiver.url } })).status).toBe(200)
  relay.clock.advance(5000)
  await receiver.until(() => receiver.messages.has(body.message))
  await expect.poll(() => deliveryOf(body.message)).toMatchObject({ state: 'delivered', attempts: { length: 2 } })
})

test('addresses that are not allowed are refused when an endpoint is written, and at every attempt', async () => {
  const urls = [
    'http://169.254.169.254/latest',
    'https://10.0.0.1/',
    'https://[::ffff:10.0.0.1]/',
    'https://metadata.internal/',
  ]
  for (const url of urls) {
    const answer = await relay.call('POST', `/v1/tenants/${tenant.id}/endpoints`, {
      body: { url },
      key: tenant.tenantKey,
    })
    expect(answer.status, url).toBe(422)
  }
  await relay.makeEndpoint(tenant, receiver.url)
  await relay.close()
  const strict = await TestRelay.start({ egressAllow: [] }, relay)
  const { body } = await strict.post(tenant, { rules: 'changed' })
  await expect
    .poll(
      async () =>
        (await strict.call<{ data: ShownDelivery[] }>('GET', `/v1/messages/${body.message}/deliveries`)).body.data[0],
    )
    .toMatchObject({ attempts: [{ outcome: 'unreachable', reason: expect.stringMatching(/^forbidden/) }] })
  expect(receiver.arrived).toEqual([])
  await strict.close()
  await relay.open()
})

test('what is owed when a process dies is taken over when its leases end, by any other process', async () => {
  await relay.makeEndpoint(tenant, receiver.url)
  let hold = true
  receiver.answer = (_arrived, response) => {
    if (!hold) response.writeHead(204).end() // while held: no answer at all
  }
  const { body } = await relay.post(tenant, { lost: true })
  await receiver.until((arrived) => arrived.length === 1)
  hold = false
  const other = await TestRelay.start({}, relay)
  expect(await other.relay.worker.claim(), 'the lease still holds').toBe(0)
  relay.clock.advance(60_000)
  await receiver.until((arrived) => arrived.length === 2)
  await expect.poll(() => deliveryOf(body.message)).toMatchObject({ state: 'delivered', attempts: { length: 1 } })
  expect(receiver.arrived.map(({ headers }) => headers['webhook-attempt'])).toEqual(['1', '1'])
  await other.close()
})

test('stopping gives back what has not been sent, due at once, and what is pending survives a restart', async () => {
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  await relay.makeEndpoint(tenant, receiver.url)
  const posts = await Promise.all(Array.from({ length: 20 }, (_, n) => relay.post(tenant, { n })))
  await relay.close()
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  await relay.open()
  relay.clock.advance(10_000)
  for (const { body } of posts) await expect.poll(() => deliveryOf(body.message)).toMatchObject({ state: 'delivered' })
})

const deliveriesOf = async (message: string): Promise<ShownDelivery[]> =>
  (await relay.call<{ data: ShownDelivery[] }>('GET', `/v1/messages/${message}/deliveries`)).body.data

async function deliveryOf(message: string): Promise<ShownDelivery> {
  const [delivery] = await deliveriesOf(message)
  if (delivery === undefined) throw new Error(`nothing is owed of ${message}`)
  return delivery
}

/** The delivery once `count` attempts are on record. */
async function attempted(message: string, count: number): Promise<ShownDelivery> {
  await expect.poll(async () => (await deliveryOf(message)).attempts.length).toBe(count)
  return deliveryOf(message)
}
