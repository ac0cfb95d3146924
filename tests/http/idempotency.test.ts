import { afterAll, beforeAll, expect, test } from 'vitest'
import { TestRelay, type TestTenant } from '../support/relay.ts'

// The tenant has no endpoints, so the log grows by exactly what is accepted.
let relay: TestRelay
let tenant: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
})

afterAll(async () => {
  await relay?.stop()
})

const withKey = (key: string) => ({ 'idempotency-key': key })
const replayed = ({ headers }: { headers: Headers }) => headers.get('idempotency-replayed')
/** How many messages the log has ever accepted. */
const accepted = async () => (await relay.readAudit(tenant, { kind: 'message.accepted' })).length

test('the same payload under the same key is the same message, however it is spelled', async () => {
  const before = await accepted()
  const first = await relay.post(tenant, '{"total": 100, "id": "o1"}', withKey('order-1'))
  const again = await relay.post(tenant, '{"id":"\\u006f1","total":1e2}', withKey('order-1'))
  expect([first.status, again.status]).toEqual([202, 202])
  expect([replayed(first), replayed(again)]).toEqual([null, 'true'])
  const { message, payload, signature } = first.body
  expect(again.body).toMatchObject({ message, payload, signature })
  expect(await accepted()).toBe(before + 1)
  await relay.check()
})

test('another payload under the same key is refused, and the first stays', async () => {
  const first = await relay.post(tenant, { total: 1 }, withKey('order-2'))
  const other = await relay.post(tenant, { total: 2 }, withKey('order-2'))
  expect(other.body).toMatchObject({ status: 422, code: 'idempotency_key_reused' })
  const again = await relay.post(tenant, { total: 1 }, withKey('order-2'))
  expect(again.body.message).toBe(first.body.message)
})

test('a key that came with a refused payload is free', async () => {
  const refused = await relay.post(tenant, '{"total":}', withKey('order-3'))
  expect(refused.body.code).toBe('payload_invalid_json')
  const first = await relay.post(tenant, { total: 3 }, withKey('order-3'))
  expect([first.status, replayed(first)]).toEqual([202, null])
})

test.each([
  ['empty', '', 400],
  ['of 256 characters', 'k'.repeat(256), 400],
  ['of 255 characters', 'k'.repeat(255), 202],
  ['with a space', 'order 4', 400],
  ['with a letter beyond ASCII', 'bestellung-ü', 400],
  ['of every kind of visible character', '!"#$%&\'()*+,-./0:;<=>?@A[\\]^_`a{|}~', 202],
])('a key %s is judged', async (_what, key, status) => {
  const answer = await relay.post(tenant, {}, withKey(key))
  expect(answer.status).toBe(status)
  if (status === 400) expect(answer.body.code).toBe('idempotency_key_invalid')
})

test('the same key at another source is another message', async () => {
  const other = await relay.makeTenant('Other')
  const here = await relay.post(tenant, { total: 5 }, withKey('order-5'))
  const there = await relay.post(other, { total: 5 }, withKey('order-5'))
  expect(replayed(there)).toBeNull()
  expect(there.body.message).not.toBe(here.body.message)
})

test('fifty posts at once with one key are one message and one statement', async () => {
  const before = await accepted()
  const answers = await times(50, () => relay.post(tenant, { total: 6 }, withKey('order-6')))
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202))
  expect(new Set(answers.map(({ body }) => body.message)).size).toBe(1)
  expect(answers.filter((answer) => replayed(answer) === null)).toHaveLength(1)
  expect(await accepted()).toBe(before + 1)
  await relay.check()
})

test('of two payloads at once under one key, one wins and the other is refused every time', async () => {
  const before = await accepted()
  const answers = await times(20, (i) => relay.post(tenant, { total: i % 2 }, withKey('order-7')))
  expect(answers.filter(({ status }) => status === 202)).toHaveLength(10)
  expect(answers.filter(({ body }) => body.code === 'idempotency_key_reused')).toHaveLength(10)
  expect(new Set(answers.flatMap(({ status, body }) => (status === 202 ? [body.message] : []))).size).toBe(1)
  expect(await accepted()).toBe(before + 1)
})

test('two processes on one database make one message of it', async () => {
  const second = await TestRelay.start({}, relay)
  try {
    const before = await accepted()
    const answers = await times(30, (i) => (i % 2 ? relay : second).post(tenant, { total: 8 }, withKey('order-8')))
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202))
    expect(new Set(answers.map(({ body }) => body.message)).size).toBe(1)
    expect(answers.filter((answer) => replayed(answer) === null)).toHaveLength(1)
    expect(await accepted()).toBe(before + 1)
    await second.check()
  } finally {
    await second.close()
  }
})

test('a key is remembered across a restart', async () => {
  const first = await relay.post(tenant, { total: 9 }, withKey('order-9'))
  await relay.restart()
  const again = await relay.post(tenant, { total: 9 }, withKey('order-9'))
  expect([again.status, replayed(again), again.body.message]).toEqual([202, 'true', first.body.message])
  await relay.check()
})

const times = <T>(count: number, post: (i: number) => Promise<T>): Promise<T[]> =>
  Promise.all(Array.from({ length: count }, (_, i) => post(i)))
