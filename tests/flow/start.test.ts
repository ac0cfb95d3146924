import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
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
