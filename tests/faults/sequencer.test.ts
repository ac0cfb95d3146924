import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'
import { type Fault, FaultyDatabase } from './faulty-database.ts'

/** Every statement of a batch, by a piece of its SQL. */
const writes = [
  'from log for update',
  'insert into statements',
  'insert into messages',
  'insert into payloads',
  'insert into deliveries',
  'insert into tiles',
  'insert into entry_bundles',
  'update log set tree_size',
]

const faults: readonly (Fault & { answer: number })[] = [
  ...writes.map((at) => ({ at, how: 'lost', answer: 503 }) as const),
  // PostgreSQL refused the batch: it is tried again, statement by statement, and nothing was wrong with these.
  ...writes.map((at) => ({ at, how: 'refused', answer: 202 }) as const),
  { at: 'commit', how: 'lost', answer: 503 },
  { at: 'commit', how: 'persisted', answer: 202 },
]

/** A batch with an Idempotency-Key in it locks the head and asks first; one without sends everything at once. */
const table = [true, false].flatMap((keyed) =>
  faults
    .filter(({ at }) => keyed || at !== 'from log for update')
    .map((fault) => ({ ...fault, batch: keyed ? 'asks' : 'sends', keyed })),
)

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant
let database: FaultyDatabase

beforeEach(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  await relay.close()
  database = new FaultyDatabase(relay.database.database)
  await relay.open(database)
  tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, receiver.url)
  await relay.relay.housekeeping.retention.tick() // its months are made, as they are soon after any start
})

afterEach(async () => {
  await relay.stop()
  await receiver.stop()
})

describe.each(table)('when "$at" is $how in a batch that $batch', ({ at, how, answer, keyed }) => {
  test(`those in the batch are answered ${answer}, the log is whole, and what is in it is delivered`, async () => {
    // One leaf before a tile is full, so that the batch that is struck also writes tiles.
    await fill(255)
    database.strike({ at, how })
    const payloads = Array.from({ length: 8 }, (_, n) => ({ n }))
    const posts = await Promise.all(
      payloads.map((payload) => relay.post(tenant, payload, keyed ? { 'idempotency-key': `key-${payload.n}` } : {})),
    )
    expect(database.struck).toBe(1)
    const struck = posts.filter((post) => post.status !== 202)
    expect(struck.length > 0).toBe(answer === 503)
    for (const post of struck) expect(post).toMatchObject({ status: 503, body: { code: 'storage_unavailable' } })

    await relay.check()
    const accepted = posts.filter((post) => post.status === 202).map((post) => post.body.message)
    await receiver.until(() => accepted.every((id) => receiver.messages.has(id)))

    // It goes on, here and after a restart.
    expect((await relay.post(tenant, { after: true })).status).toBe(202)
    await relay.restart()
    expect((await relay.post(tenant, { restarted: true })).status).toBe(202)
    await relay.check()
    for (const id of receiver.messages)
      expect(relay.receipts.has(id), 'nothing was delivered that was not accepted').toBe(true)
  })
})

describe.each(table.filter(({ keyed }) => !keyed))(
  'when "$at" is $how in a batch that another follows',
  ({ at, how, answer }) => {
    test(`those in the batch are answered ${answer}, those in the other 202, and the log is whole`, async () => {
      await fill(255)
      database.strike({ at, how, followed: true })
      const post = (n: number) => relay.post(tenant, { n })
      const struck = Array.from({ length: 4 }, (_, n) => post(n))
      await expect.poll(() => database.struck).toBe(1)
      // So many that they do not wait for the batch under way; and it is held until they have been sent.
      const following = await Promise.all(Array.from({ length: 40 }, (_, n) => post(100 + n)))
      expect(following.filter((post) => post.status !== 202)).toEqual([])
      const refused = (await Promise.all(struck)).filter((post) => post.status !== 202)
      expect(refused.length > 0).toBe(answer === 503)
      for (const post of refused) expect(post).toMatchObject({ status: 503, body: { code: 'storage_unavailable' } })

      await relay.check()
      expect((await relay.post(tenant, { after: true })).status).toBe(202)
      await relay.restart()
      await relay.check()
      await receiver.until(() => following.every((post) => receiver.messages.has(post.body.message)))
    })
  },
)

test('where much is waiting, batches follow each other without waiting for an answer, and none is refused for that', async () => {
  expect((await relay.post(tenant, { first: true })).status).toBe(202) // the configuration has changed since the last batch
  const { failed } = database
  const posts = await Promise.all(Array.from({ length: 300 }, (_, n) => relay.post(tenant, { n })))
  expect(posts.filter((post) => post.status !== 202)).toEqual([])
  expect(database.followers).toBeGreaterThan(0)
  expect(database.failed).toBe(failed)
  await relay.check()
})

/** Posts, to a tenant without endpoints, until the log has `treeSize` leaves. */
async function fill(treeSize: number): Promise<void> {
  const quiet = await relay.makeTenant('quiet')
  const missing = treeSize - (await relay.relay.head()).treeSize
  await Promise.all(Array.from({ length: missing }, (_, n) => relay.post(quiet, { n })))
}
