import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { openS3ObjectStore } from '../../src/adapters/object-store-s3.ts'
import { openCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { systemClock } from '../../src/ports/clock.ts'
import type { ObjectStore } from '../../src/ports/object-store.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'
import { type S3Server, startS3Server } from '../support/s3-server.ts'

// A relay whose objects are in S3, which is not always there.

let server: S3Server
let objectStore: ObjectStore
let relay: TestRelay
let tenant: TestTenant
let relays = 0

beforeAll(async () => {
  server = await startS3Server()
  for (const [name, value] of Object.entries(server.environment)) vi.stubEnv(name, value)
})
afterAll(async () => {
  await server.stop()
  vi.unstubAllEnvs()
})

beforeEach(async () => {
  server.switches.fault = undefined
  objectStore = await openBucket(`relay-${relays++}/`)
  relay = await TestRelay.start({ objectStore })
  tenant = await relay.makeTenant()
})
afterEach(() => relay.stop())

const openBucket = (prefix: string) =>
  openS3ObjectStore({
    ...{ bucket: server.bucket, prefix, clock: systemClock, client: { maxAttempts: 2 } },
    bounds: { attemptTimeoutMs: 300, deadlineMs: 1000 },
  })

/** The newest checkpoint in the bucket, verified with the keys that the relay shows. */
async function published() {
  const bytes = await objectStore.find('checkpoints/latest')
  const vkeys = relay.relay.vkeys.map(parseVerifierKey)
  return bytes && openCheckpoint(bytes, { origin: relay.relay.origin, vkeys })
}

test('what was accepted before a stop is covered by the checkpoint in the bucket', async () => {
  for (let n = 0; n < 10; n++) await relay.post(tenant, { n })
  await relay.check()
  const { treeSize, rootHash } = await relay.relay.head()
  await relay.close()
  expect(await published()).toMatchObject({ treeSize, rootHash })
  await relay.open()
  await relay.check()
})

test.each(['ServiceUnavailable', 'InsufficientStorage', 'silent', 'cut before', 'cut after'] as const)(
  'posts are accepted while the bucket answers with the fault %s, and published once it does not',
  async (kind) => {
    server.switches.fault = { kind, times: 1_000_000 }
    for (let n = 0; n < 3; n++) expect((await relay.post(tenant, { n })).status).toBe(202)
    await vi.waitFor(() => expect(server.switches.fault?.times).toBeLessThan(1_000_000), 5000)
    server.switches.fault = undefined
    await relay.check()
    const { treeSize } = await relay.relay.head()
    await vi.waitFor(async () => expect(await published()).toMatchObject({ treeSize }), 5000)
  },
)

test('a relay does not start while it cannot read what it published', async () => {
  await relay.post(tenant, { n: 1 })
  await relay.close()
  for (const kind of ['ServiceUnavailable', 'AccessDenied', 'silent', 'altered'] as const) {
    server.switches.fault = { kind, times: 1_000_000 }
    await expect(relay.open(), kind).rejects.toThrow(/\(s3_/)
  }
  server.switches.fault = undefined
  await relay.open()
  await relay.check()
})

test('another log does not start over the checkpoints of this one', async () => {
  await relay.close()
  await expect(TestRelay.start({ objectStore })).rejects.toThrow(/not one of this log/)
})
