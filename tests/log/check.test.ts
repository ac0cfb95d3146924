import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkTestLog } from '../support/log-check.ts'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, receiver.url)
  await Promise.all(Array.from({ length: 300 }, (_, n) => relay.post(tenant, { n })))
  await receiver.until(() => receiver.messages.size === 300)
  await relay.restart() // which publishes
})

afterAll(async () => {
  await relay.stop()
  await receiver.stop()
})

test('nothing is wrong with a log that nobody touched, by the database, by what it published, and by both', async () => {
  const both = await checkTestLog(relay)
  expect(both).toMatchObject({
    findings: [],
    furtherFindings: 0,
    unopened: 0,
    leaves: (await relay.relay.head()).treeSize,
  })
  expect(both.checkpoints).toBeGreaterThan(2)
  expect((await checkTestLog(relay, { from: 'database' })).findings).toEqual([])
  const objects = await checkTestLog(relay, { from: 'objects' })
  expect(objects).toMatchObject({ findings: [], leaves: both.leaves })
})

test('nothing is wrong with a log that goes on growing and publishing meanwhile', async () => {
  const posts = Array.from({ length: 100 }, (_, n) => relay.post(tenant, { meanwhile: n }))
  for (let round = 0; round < 3; round++) expect((await checkTestLog(relay)).findings).toEqual([])
  await Promise.all(posts)
  expect((await checkTestLog(relay)).findings).toEqual([])
})

test('a checkpoint kept elsewhere is held against the log, and one that is ahead of it is named', async () => {
  const { checkpoint } = await relay.relay.head()
  const kept = [{ name: 'kept.txt', note: Buffer.from(checkpoint) }]
  expect((await checkTestLog(relay, { kept })).findings).toEqual([])
  const other = await TestRelay.start()
  try {
    const foreign = [{ name: 'foreign.txt', note: Buffer.from((await other.relay.head()).checkpoint) }]
    expect((await checkTestLog(relay, { kept: foreign })).findings).toMatchObject([{ word: 'checkpoint_unreadable' }])
  } finally {
    await other.stop()
  }
})

test('what was published and is gone is named', async () => {
  await relay.close()
  await rm(join(relay.folder, 'objects/log/tile/entries/000'))
  await rm(join(relay.folder, 'objects/log/tile/0/001'))
  const { findings } = await checkTestLog(relay)
  expect(findings).toMatchObject([
    { word: 'bundle_missing', leafIndex: 0 },
    { word: 'tile_missing', leafIndex: 256 },
  ])
})
