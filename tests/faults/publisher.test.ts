import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { checkpointKey, newestSize } from '../../src/log/published.ts'
import { checkTestLog } from '../support/log-check.ts'
import { openObjects, TestRelay, type TestTenant } from '../support/relay.ts'
import { copyOf } from '../support/remains.ts'
import { FaultyObjectStore } from './faulty-object-store.ts'

/** Every kind of object that is published, in the order in which it is. */
const writes = [
  ['an entry bundle', /^log\/tile\/entries\/000$/],
  ['a full tile', /^log\/tile\/0\/000$/],
  ['a partial bundle', /^log\/tile\/entries\/001\.p\//],
  ['a partial tile', /^log\/tile\/0\/001\.p\//],
  ['a partial tile of the level above', /^log\/tile\/1\/000\.p\//],
  ['a numbered checkpoint', /^checkpoints\/\d{16}$/],
  ['the latest checkpoint', /^checkpoints\/latest$/],
  ['the keys of the log', /^log\/vkey$/],
  ["the mirror's checkpoint", /^log\/checkpoint$/],
] as const

const table = writes.flatMap(([what, at]) => [
  { what, at, how: 'fails', dies: false } as const, // and is tried again
  { what, at, how: 'fails', dies: true } as const,
  { what, at, how: 'persisted', dies: true } as const,
])

let stopped: TestRelay
let tenant: TestTenant
let relay: TestRelay
let store: FaultyObjectStore

beforeAll(async () => {
  stopped = await TestRelay.start()
  relay = stopped
  tenant = await stopped.makeTenant()
  await post(240)
  await stopped.close()
})

beforeEach(async () => {
  const remains = await copyOf(stopped)
  store = new FaultyObjectStore(await openObjects(remains.folder))
  relay = await TestRelay.start({}, { ...remains, clock: stopped.clock })
  await relay.close()
  await relay.open(undefined, store)
})

afterEach(() => relay.stop())
afterAll(() => stopped.stop())

const post = async (count: number): Promise<void> => {
  const answers = await Promise.all(Array.from({ length: count }, (_, n) => relay.post(tenant, { n })))
  for (const { status } of answers) expect(status).toBe(202)
}

describe.each(table)('when writing $what $how, and the process dies: $dies', ({ at, how, dies }) => {
  test('nobody who posts notices, what was published is whole, and publication is taken up where it stopped', async () => {
    store.strike({ at, how, dies })
    await post(30)
    await relay.close()
    expect(store.struck).toBe(1)

    // As whoever comes by now finds it: perhaps not the newest, but nothing that is not so.
    expect((await checkTestLog(relay)).findings).toEqual([])
    const before = await newestSize(await relay.openObjects())

    await relay.open()
    await post(3)
    await relay.check()
    const { treeSize } = await relay.relay.head()
    await relay.close()
    expect(await newestSize(await relay.openObjects())).toBe(treeSize)
    expect(treeSize).toBeGreaterThan(before ?? 0)
    expect((await checkTestLog(relay)).findings).toEqual([])
    expect(await checkTestLog(relay, { from: 'objects' })).toMatchObject({ findings: [], leaves: treeSize })
  })
})

test('a checkpoint of the same size that contradicts the one published stops the relay', async () => {
  const { treeSize } = await relay.relay.head()
  for (let size = treeSize + 1; size < treeSize + 200; size++) {
    await store.putIfAbsent(checkpointKey(size), Buffer.from('of another log'))
  }
  await post(1)
  await expect.poll(async () => (await relay.post(tenant, { after: true })).status, { timeout: 5000 }).toBe(500)
})

test('a tile that was published with other bytes stops the relay', async () => {
  await store.putIfAbsent('log/tile/0/000', new Uint8Array(8192))
  await post(30)
  await expect.poll(async () => (await relay.post(tenant, { after: true })).status, { timeout: 5000 }).toBe(500)
})
