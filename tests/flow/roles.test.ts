import { afterEach, beforeEach, expect, test } from 'vitest'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

let ingress: TestRelay
let delivery: TestRelay | undefined
let receiver: Receiver
let tenant: TestTenant

beforeEach(async () => {
  ingress = await TestRelay.start({ role: 'ingress' })
  receiver = await Receiver.start()
  tenant = await ingress.makeTenant()
  await ingress.makeEndpoint(tenant, receiver.url)
})

afterEach(async () => {
  await delivery?.close()
  delivery = undefined
  await ingress.stop()
  await receiver.stop()
})

test('ingress accepts and forwards nothing; delivery, which comes later, forwards it all', async () => {
  for (let n = 0; n < 20; n++) expect((await ingress.post(tenant, { n })).status).toBe(202)
  expect(await ingress.relay.worker.depth).toEqual({ queued: 0, inFlight: 0 })
  expect(receiver.arrived).toHaveLength(0)
  await ingress.check()

  delivery = await TestRelay.start({ role: 'delivery' }, ingress)
  await receiver.until(() => receiver.messages.size === 20)
  expect(receiver.arrived).toHaveLength(20)
  await ingress.check()
})

test('what ingress accepts is forwarded by delivery at once, not at its next poll', async () => {
  delivery = await TestRelay.start({ role: 'delivery', pollMs: 60_000 }, ingress)
  await ingress.post(tenant, { first: true }) // whatever had to be opened is open after this
  await receiver.until(() => receiver.messages.size === 1)
  const postedAt = performance.now()
  await ingress.post(tenant, { second: true })
  await receiver.until(() => receiver.messages.size === 2)
  expect(performance.now() - postedAt).toBeLessThan(10_000)
  await ingress.check()
})

test('delivery takes no posts and administers nothing, and says that it is alive, ready and how it does', async () => {
  delivery = await TestRelay.start({ role: 'delivery' }, ingress)
  const status = async (path: string) => (await fetch(delivery?.url + path)).status
  expect((await delivery.post(tenant, {})).status).toBe(404)
  for (const path of ['/v1/tenants', '/v1/keys', '/log/checkpoint', '/openapi.json'])
    expect(await status(path)).toBe(404)
  for (const path of ['/healthz', '/readyz']) expect(await status(path)).toBe(200)
  expect(await status('/metrics')).toBe(401)
})
