import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { checkpointKey, latestKey } from '../../src/log/published.ts'
import type { ObjectStore } from '../../src/ports/object-store.ts'
import { deadUrl } from '../support/receiver.ts'
import { keyWrapper, objectsIn, TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let tenant: TestTenant

beforeEach(async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
})

afterEach(() => relay.stop())

test('a database restored from before the last published checkpoint is refused, and nothing is appended', async () => {
  await relay.post(tenant, { kept: true })
  await relay.close()
  const { database } = relay.database
  const backup = await snapshot()
  await relay.open()
  await relay.post(tenant, { lost: 1 })
  await relay.close()
  await restore(backup)
  await expect(relay.open()).rejects.toThrow(/behind what it published/)
  const [row] = await database.query<{ count: number }>('select count(*) from statements')
  expect(row?.count).toBe(backup.treeSize)
})

test.runIf(objectsIn === 'fs')('a database that grew differently from the same backup is refused', async () => {
  await relay.close()
  const backup = await snapshot()
  await relay.open()
  await relay.post(tenant, { world: 'A' })
  const store = join(relay.folder, 'objects')
  await relay.close()
  await restore(backup)
  // Whoever restores and also throws the published checkpoint away gets past the start…
  const elsewhere = `${store}.away`
  await rename(store, elsewhere)
  await relay.open()
  await relay.post(tenant, { world: 'B' })
  await relay.post(tenant, { world: 'B', more: true })
  await relay.close()
  // …until it comes back.
  await rm(store, { recursive: true })
  await rename(elsewhere, store)
  await expect(relay.open()).rejects.toThrow(/contradicts its checkpoint/)
})

test('the latest checkpoint is found by the numbered ones, when a crash came before it was written', async () => {
  await relay.post(tenant, { kept: true })
  await relay.close()
  const backup = await snapshot()
  await relay.open()
  await relay.post(tenant, { lost: 1 })
  await relay.close()
  await restore(backup)
  await (await relay.openObjects()).delete(latestKey)
  await expect(relay.open()).rejects.toThrow(/behind what it published/)
})

test('a latest checkpoint that was overwritten by an older one does not hide a newer one', async () => {
  await relay.close()
  const objects = await relay.openObjects()
  const older = await objects.find(latestKey)
  const backup = await snapshot()
  await relay.open()
  for (let n = 0; n < 3; n++) await relay.post(tenant, { n })
  await relay.close()
  await objects.put(latestKey, older ?? new Uint8Array())
  await restore(backup)
  await expect(relay.open()).rejects.toThrow(/behind what it published/)
})

test('a latest checkpoint that is torn is refused, with the way out, which works', async () => {
  await relay.close()
  const objects = await relay.openObjects()
  const whole = (await objects.find(latestKey)) ?? new Uint8Array()
  await objects.put(latestKey, whole.subarray(0, 40))
  await expect(relay.open()).rejects.toThrow(/not one of this log.+copy the newest of checkpoints/)
  const { treeSize } = await snapshot()
  await objects.put(latestKey, (await objects.find(checkpointKey(treeSize))) ?? new Uint8Array())
  await relay.open()
  await relay.check()
})

test('an object store that does not answer is refused at start: nobody knows what was published', async () => {
  await relay.close()
  const silent = { find: () => Promise.reject(new Error('connect ECONNREFUSED')) } as unknown as ObjectStore
  await expect(relay.open(undefined, silent)).rejects.toThrow(/object store cannot be read.+ECONNREFUSED/)
  await relay.open()
})

test('a head whose leaves were altered is refused', async () => {
  await relay.post(tenant, { kept: true })
  await relay.close()
  await relay.database.tamper(['update statements set entry = sha256(entry) where leaf_index = 3'])
  await expect(relay.open()).rejects.toThrow(/not what its leaves hash to.+countersign log check/)
})

test('a process that starts beside one that goes on publishing is not taken for a fork', async () => {
  let stopped = false
  const posting = (async () => {
    while (!stopped) expect((await relay.post(tenant, { busy: true })).status).toBe(202)
  })()
  for (let round = 0; round < 5; round++) await (await TestRelay.start({}, relay)).close()
  stopped = true
  await posting
  await relay.check()
})

test('another PUBLIC_URL than the log was created with is refused, and none means the one it has', async () => {
  await relay.close()
  await expect(TestRelay.start({ publicUrl: 'http://elsewhere.test' }, relay)).rejects.toThrow(/PUBLIC_URL/)
  const same = await TestRelay.start({ publicUrl: undefined }, relay)
  expect(same.relay.issuer).toBe('http://relay.test')
  await same.close()
})

test.runIf(keyWrapper === 'local')('another wrapping key is refused at start', async () => {
  await relay.close()
  await rm(join(relay.folder, 'wrapping-key'))
  await expect(relay.open()).rejects.toThrow(/cannot be unwrapped/)
})

test('two processes on one database take turns, and the log is one', async () => {
  const other = await TestRelay.start({}, relay)
  for (let round = 0; round < 5; round++) {
    const posts = [...Array(10).keys()].flatMap((n) => [
      relay.post(tenant, { round, n }),
      other.post(tenant, { round, n, other: true }),
    ])
    for (const { status } of await Promise.all(posts)) expect(status).toBe(202)
    await relay.check()
    await other.check()
  }
  expect(relay.receipts.size + other.receipts.size).toBe(100)
  await other.close()
})

test('an endpoint that one process makes is owed what the other accepts right after', async () => {
  const other = await TestRelay.start({}, relay)
  await other.post(tenant, { before: true })
  const { id } = await relay.makeEndpoint(tenant, await deadUrl())
  const { body } = await other.post(tenant, { after: true })
  const { body: deliveries } = await relay.call('GET', `/v1/messages/${body.message}/deliveries`)
  expect(deliveries).toMatchObject({ data: [{ endpoint: id }] })
  await other.close()
})

interface Backup {
  readonly treeSize: number
  readonly head: Record<string, unknown>
}

/** What a backup would hold of the log: everything up to its head. */
async function snapshot(): Promise<Backup> {
  const [head] = await relay.database.database.query<Record<string, unknown>>(
    'select tree_size, root_hash, checkpoint, configuration from log',
  )
  return { treeSize: Number(head?.tree_size), head: head ?? {} }
}

/** Puts the log back to the backup, as restoring one does. */
async function restore({ treeSize, head }: Backup): Promise<void> {
  await relay.database.tamper(
    ['delete from statements where leaf_index >= $1', [treeSize]],
    ['delete from messages where leaf_index >= $1', [treeSize]],
    ['delete from payloads where leaf_index >= $1', [treeSize]],
    [
      'update log set tree_size = $1, root_hash = $2, checkpoint = $3, configuration = $4',
      [treeSize, head.root_hash as Uint8Array, head.checkpoint as string, Number(head.configuration)],
    ],
  )
}
