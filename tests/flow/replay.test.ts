import { afterEach, beforeEach, expect, test } from 'vitest'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

interface ShownDelivery {
  id: string
  message: string
  endpoint: string
  state: string
  replay?: string
  attempts: { number: number; outcome: string; leaf_index: number }[]
}
interface ShownReplay {
  id: string
  state: string
  found: number
  replayed: number
  skipped: number
}

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant
let endpoint: string

beforeEach(async () => {
  relay = await TestRelay.start({ retrySchedule: [1000], upkeepMs: 3_600_000 })
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
  endpoint = (await relay.makeEndpoint(tenant, receiver.url)).id
})

afterEach(async () => {
  await relay.check()
  expect(await relay.relay.upkeep.reconcile()).toMatchObject({ missing: 0, repaired: 0 })
  await relay.stop()
  await receiver.stop()
})

test('an abandoned delivery is made again under the same webhook-id, counted from 1 and marked', async () => {
  const [message = ''] = await abandon(1)
  const [abandoned] = await list('abandoned')
  expect(abandoned).toMatchObject({ message, endpoint, attempts: { length: 2 } })
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  const { status, body } = await call<{ id: string }>('POST', `/v1/deliveries/${abandoned?.id}/redeliver`)
  expect(status).toBe(202)
  await expect.poll(() => list('delivered')).toMatchObject([{ id: body.id, message, replay: abandoned?.id }])
  expect(receiver.arrived.map(({ headers }) => headers['webhook-replay'])).toEqual([
    undefined,
    undefined,
    abandoned?.id,
  ])
  expect(receiver.arrived.at(-1)?.headers).toMatchObject({ 'webhook-id': message, 'webhook-attempt': '1' })
  // What was recorded of the first delivery stays as it was.
  expect(await list('abandoned')).toEqual([abandoned])
  expect(await kinds()).toMatchObject({ 'delivery.replayed': 1 })
})

test('a delivery that is pending, or whose endpoint is no more, is not made again', async () => {
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  await relay.post(tenant, {})
  await receiver.until((arrived) => arrived.length === 1)
  const [pending] = await list('pending')
  const again = () => call('POST', `/v1/deliveries/${pending?.id}/redeliver`)
  expect(await again()).toMatchObject({ status: 409, body: { code: 'delivery_not_replayable' } })
  await expect.poll(() => list('pending')).toMatchObject([{ attempts: { length: 1 } }])
  await call('DELETE', `/v1/tenants/${tenant.id}/endpoints/${endpoint}`)
  relay.clock.advance(2000)
  await expect.poll(() => list('abandoned')).toHaveLength(1)
  expect(await again()).toMatchObject({ status: 404 })
  expect(receiver.arrived).toHaveLength(1)
})

test('a range is counted, replayed once each at its rate, and no other endpoint, source or tenant hears of it', async () => {
  const other = await Receiver.start()
  await relay.makeEndpoint(tenant, other.url)
  const stranger = await relay.makeTenant('Stranger')
  await relay.makeEndpoint(stranger, other.url)
  const before = relay.clock.now()
  relay.clock.advance(1000)
  const first = await abandon(3)
  await relay.post(stranger, {})
  relay.clock.advance(60_000)
  const between = relay.clock.now()
  const second = await abandon(1)
  relay.clock.advance(1000)
  const othersCount = other.arrived.length
  receiver.answer = (_arrived, response) => response.writeHead(204).end()

  const early = { endpoint, from: before.toISOString(), to: between.toISOString() }
  expect(await request({ ...early, dry_run: true })).toMatchObject({ status: 200, body: { deliveries: 3, skipped: 0 } })
  expect(await request({ ...early, outcome: 'delivered', dry_run: true })).toMatchObject({ body: { deliveries: 0 } })
  const from = { endpoint, from: between.toISOString(), to: relay.clock.now().toISOString() }
  expect(await request({ ...from, source: stranger.source, dry_run: true })).toMatchObject({ body: { deliveries: 0 } })
  expect(await request({ ...from, source: tenant.source, dry_run: true })).toMatchObject({ body: { deliveries: 1 } })

  const { body: asked } = await request({ ...early, rate: 1 })
  expect(asked).toMatchObject({ state: 'running', found: 3, replayed: 0, rate: 1 })
  // One a second of the relay's clock, which stands still here unless it is moved.
  for (const replayed of [1, 2, 3]) {
    await expect.poll(() => read(asked.id)).toMatchObject({ state: 'running', replayed })
    relay.clock.advance(999)
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(await read(asked.id)).toMatchObject({ replayed })
    relay.clock.advance(1)
  }
  await expect.poll(() => read(asked.id)).toMatchObject({ state: 'finished', replayed: 3, skipped: 0 })
  await expect.poll(() => list('delivered', endpoint)).toHaveLength(3)
  const marked = receiver.arrived.filter(({ headers }) => headers['webhook-replay'] === asked.id)
  expect(marked.map(({ headers }) => headers['webhook-id']).sort()).toEqual(first.sort())
  expect(second.some((message) => marked.some(({ headers }) => headers['webhook-id'] === message))).toBe(false)
  expect(other.arrived).toHaveLength(othersCount)
  expect(await kinds()).toMatchObject({ 'replay.requested': 1, 'delivery.replayed': 3, 'replay.finished': 1 })
  await other.stop()
})

test('a replay goes on in the process that comes after, and makes nothing twice', async () => {
  const messages = await abandon(4)
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  const { body: asked } = await request({ ...everything(), rate: 1 })
  await expect.poll(() => read(asked.id)).toMatchObject({ replayed: 1 })
  await relay.restart()
  const second = await TestRelay.start({ retrySchedule: [1000] }, relay) // and two at once
  for (let i = 0; i < 4; i++) {
    relay.clock.advance(1000)
    await expect.poll(() => read(asked.id)).toMatchObject({ replayed: Math.min(4, 2 + i) })
  }
  await expect.poll(() => read(asked.id)).toMatchObject({ state: 'finished', replayed: 4 })
  await expect.poll(() => list('delivered')).toHaveLength(4)
  await second.close()
  const marked = receiver.arrived.filter(({ headers }) => headers['webhook-replay'] === asked.id)
  expect(marked.map(({ headers }) => headers['webhook-id']).sort()).toEqual(messages.sort())
})

test('a replay that is cancelled makes nothing more, and says so once', async () => {
  await abandon(4)
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  const { body: asked } = await request({ ...everything(), rate: 1 })
  await expect.poll(() => read(asked.id)).toMatchObject({ replayed: 1 })
  const cancel = () => call<ShownReplay>('DELETE', `/v1/tenants/${tenant.id}/replays/${asked.id}`)
  expect(await cancel()).toMatchObject({ status: 200, body: { state: 'cancelled', replayed: 1 } })
  relay.clock.advance(60_000)
  await new Promise((resolve) => setTimeout(resolve, 200))
  expect(await cancel()).toMatchObject({ body: { state: 'cancelled', replayed: 1 } })
  expect(await kinds()).toMatchObject({ 'replay.cancelled': 1, 'delivery.replayed': 1 })
  expect(await kinds()).not.toHaveProperty('replay.finished')
})

test('what has no payload any more is skipped, and counted', async () => {
  const retention = { payload_days: 30 }
  expect(await relay.call('PATCH', `/v1/tenants/${tenant.id}`, { body: { retention } })).toMatchObject({ status: 200 })
  await abandon(2)
  const [expired] = await list('abandoned')
  relay.clock.advance(31 * 86_400_000)
  const [message] = await abandon(1)
  receiver.answer = (_arrived, response) => response.writeHead(204).end()
  expect(await request({ ...everything(), dry_run: true })).toMatchObject({ body: { deliveries: 1, skipped: 2 } })
  expect(await call('POST', `/v1/deliveries/${expired?.id}/redeliver`)).toMatchObject({ status: 409 })
  const { body: asked } = await request(everything())
  await expect.poll(() => read(asked.id)).toMatchObject({ state: 'finished', found: 3, replayed: 1, skipped: 2 })
  await expect.poll(() => list('delivered')).toMatchObject([{ message }])
  expect(await kinds()).toMatchObject({ 'delivery.replayed': 1, 'delivery.skipped': 2 })
})

test('everything undelivered is listed in pages that neither skip nor repeat', async () => {
  await abandon(4)
  const seen: string[] = []
  let after = ''
  do {
    const path = `/v1/deliveries?state=abandoned&limit=3&endpoint=${endpoint}${after && `&after=${after}`}`
    const { body } = await call<{ data: ShownDelivery[]; next?: string }>('GET', path)
    expect(body.data.length).toBeLessThanOrEqual(3)
    seen.push(...body.data.map(({ id }) => id))
    after = body.next ?? ''
  } while (after !== '')
  expect(seen).toHaveLength(4)
  expect(seen).toEqual([...new Set(seen)].sort())
  expect(await list('pending')).toEqual([])
  expect((await call('GET', '/v1/deliveries?state=lost')).status).toBe(400)
})

/** Posts, and lets the schedule run out, twice as many failures, of which ten would stop the endpoint for a while.
 *  Resolves with the messages. */
async function abandon(count: number): Promise<string[]> {
  receiver.answer = (_arrived, response) => response.writeHead(500).end()
  const before = (await list('abandoned', endpoint)).length
  const messages: string[] = []
  for (let i = 0; i < count; i++) messages.push((await relay.post(tenant, { i })).body.message)
  await expect
    .poll(async () => (await list('pending', endpoint)).filter(({ attempts }) => attempts.length === 1))
    .toHaveLength(count)
  relay.clock.advance(1200)
  await expect.poll(() => list('abandoned', endpoint)).toHaveLength(before + count)
  return messages
}

const everything = () => ({
  ...{ endpoint, from: '2026-01-01T00:00:00Z', to: new Date(relay.clock.now().getTime() + 1).toISOString() },
})

const call = <T = Record<string, unknown>>(method: string, path: string, body?: object) =>
  relay.call<T>(method, path, { key: tenant.tenantKey, ...(body !== undefined && { body }) })

const request = (wish: object) => call<ShownReplay>('POST', `/v1/tenants/${tenant.id}/replays`, wish)

const read = async (replay: string) =>
  (await call<ShownReplay>('GET', `/v1/tenants/${tenant.id}/replays/${replay}`)).body

async function list(state: string, of?: string): Promise<ShownDelivery[]> {
  const filter = of === undefined ? '' : `&endpoint=${of}`
  return (await call<{ data: ShownDelivery[] }>('GET', `/v1/deliveries?state=${state}${filter}`)).body.data
}

/** How many statements of each kind the log holds about this tenant. */
async function kinds(): Promise<Record<string, number>> {
  const rows = await relay.database.database.query<{ kind: string; count: number }>(
    'select kind, count(*) as count from statements where tenant_id = $1 group by kind',
    [tenant.id],
  )
  return Object.fromEntries(rows.map(({ kind, count }) => [kind, count]))
}
