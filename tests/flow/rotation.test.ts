import { createPublicKey, type KeyObject, verify } from 'node:crypto'
import { createRemoteJWKSet, type JSONWebKeySet, jwtVerify } from 'jose'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { dueSteps } from '../../src/keyring/lifecycle.ts'
import { openCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { aboutKey } from '../../src/log/rotation.ts'
import { type Arrived, Receiver } from '../support/receiver.ts'
import { keyWrapper, kmsServer, TestRelay, type TestTenant } from '../support/relay.ts'

const day = 86_400_000
const hour = 3_600_000

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant

beforeEach(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, receiver.url)
})

afterEach(async () => {
  vi.useRealTimers()
  await relay.stop()
  await receiver.stop()
})

test('over two years of quarterly rotations every receiver verifies every delivery of its day, and every receipt to the end', async () => {
  // jose reads the time from Date. Only that is faked: sockets and timers stay real.
  vi.useFakeTimers({ toFake: ['Date'], now: relay.clock.now() })
  const stock = createRemoteJWKSet(new URL(`${relay.url}/.well-known/jwks.json`))
  let daily = new Map<string, KeyObject>()
  let pinned = new Map<string, KeyObject>()

  for (let today = 0; today < 730; today++) {
    if (today % 28 === 0) pinned = await fetchKeys()
    daily = await fetchKeys()
    await advance(12 * hour)
    const { body } = await relay.post(tenant, { today })
    await receiver.until(() => receiver.messages.has(body.message))
    const arrived = receiver.arrived.at(-1) as Arrived
    for (const [name, keys] of Object.entries({ daily, pinned })) {
      expect(verifiesWith(keys, arrived), `${name} receiver on day ${today}`).toBe(true)
    }
    const { payload } = await jwtVerify(String(arrived.headers['webhook-receipt']), stock, { algorithms: ['EdDSA'] })
    expect(payload.sub).toBe(body.message)
    await advance(12 * hour)
  }

  const { body: history } = await relay.call<{ keys: { purpose: string; state: string }[] }>('GET', '/v1/keys', {
    key: null,
  })
  const states = (purpose: string) => history.keys.filter((key) => key.purpose === purpose).map((key) => key.state)
  for (const purpose of ['payload', 'log']) {
    expect(states(purpose)).toHaveLength(9) // the first, and one each quarter
    expect(states(purpose).filter((state) => state === 'active')).toHaveLength(1)
    expect(states(purpose).filter((state) => state === 'retired').length).toBeGreaterThanOrEqual(6)
  }
  const seeds = await relay.database.database.query<{ retiringAt: Date | null }>(
    'select retiring_at as "retiringAt" from keys where wrapped_seed is not null',
  )
  for (const { retiringAt } of seeds) {
    if (retiringAt !== null) expect(relay.clock.now().getTime() - retiringAt.getTime()).toBeLessThanOrEqual(90.5 * day)
  }
  expect(relay.receipts.size).toBe(730)
  vi.useRealTimers()
  await relay.check()
}, 120_000)

test('two processes rotate under load without one delivery signed by a key that was not published', async () => {
  const other = await TestRelay.start({}, relay)
  await relay.relay.rotation.tick()
  await other.relay.rotation.tick()
  const seen = new Set<string>()
  for (let step = 0; step < 40; step++) {
    const published = new Set((await fetchKeys()).keys())
    const posts = [...Array(4).keys()].flatMap((n) => [
      relay.post(tenant, { step, n }),
      other.post(tenant, { step, n, other: 1 }),
    ])
    await Promise.all([...posts, relay.relay.rotation.tick(), other.relay.rotation.tick()])
    for (const { headers } of receiver.arrived.splice(0)) {
      expect(published.has(String(headers['webhook-key-id'])), `step ${step}`).toBe(true)
      seen.add(String(headers['webhook-key-id']))
    }
    relay.clock.advance(5 * day)
  }
  expect(seen.size).toBeGreaterThanOrEqual(2)
  await relay.check()
  await other.check()
  await other.close()
})

test('a key is not activated before every live process has it, and a process that fell silent holds nothing up', async () => {
  const { database } = relay.database
  await advance(61 * day) // generated
  await database.query(`insert into processes (id, seen_at, kids) values ('laggard', $1, '[]')`, [
    new Date(relay.clock.now().getTime() + 31 * day),
  ])
  relay.clock.advance(30 * day)
  await relay.relay.rotation.tick()
  const activated = () => relay.relay.keyring.history.filter((key) => key.activatedAt !== null).length
  expect(activated()).toBe(2)
  relay.clock.advance(2 * day)
  await relay.relay.rotation.tick()
  expect(activated()).toBe(4)
})

test.each([
  ['90 days ahead and back', 90 * day],
  ['90 days ahead and back, shortly before a rotation', 90 * day, 75 * day],
  ['an hour back', -hour, 91 * day + hour / 2],
  ['90 days back and forth', -90 * day, 100 * day],
])(
  'a clock that jumps %s rotates nothing twice, un-retires nothing and still signs what verifies',
  async (_, jump, before = 0) => {
    for (let passed = 0; passed < before; passed += day) await advance(Math.min(day, before - passed))
    const rotations = () => relay.relay.keyring.history.filter((key) => key.activatedAt !== null).length
    const retired = () => relay.relay.keyring.history.filter((key) => key.retiredAt !== null).length
    const [atFirst, gone] = [rotations(), retired()]
    for (const ms of [jump, -jump]) {
      relay.clock.advance(ms)
      for (let i = 0; i < 3; i++) await relay.relay.rotation.tick()
      if (relay.clock.now() >= (relay.relay.keyring.history[0]?.activatedAt ?? 0)) {
        expect((await relay.post(tenant, { jump: ms })).status).toBe(202)
      }
    }
    expect(rotations() - atFirst).toBeLessThanOrEqual(2) // one for each purpose
    expect(retired()).toBeGreaterThanOrEqual(gone)
    await relay.check()
  },
)

test('rotating by hand uses the key that receivers already know, and a revoked key vouches only for what the log proves older', async () => {
  const first = await relay.post(tenant, { before: true })
  await advance(61 * day)
  const next = relay.relay.keyring.history.find((key) => key.purpose === 'payload' && key.activatedAt === null)
  const rotated = await relay.call('POST', '/v1/keys/rotate', { body: { purpose: 'payload' } })
  expect(rotated.body).toEqual({ kid: next?.kid, published: true })
  const second = await relay.post(tenant, { after: true })
  const kidOf = (receipt: { protected: string }) =>
    JSON.parse(Buffer.from(receipt.protected, 'base64url').toString()).kid
  expect(kidOf(second.body)).toBe(next?.kid)

  // Revoking the key that signs puts another in its place first.
  const from = new Date(relay.clock.now().getTime() + 1000).toISOString()
  relay.clock.advance(5000)
  const revoked = await relay.call('POST', `/v1/keys/${next?.kid}/revoke`, { body: { reason: 'leaked', from } })
  expect(revoked.status).toBe(200)
  expect(revoked.body.successor).toBeTypeOf('string')
  expect((await relay.call('POST', `/v1/keys/${next?.kid}/revoke`, { body: { reason: 'again', from } })).status).toBe(
    409,
  )
  expect((await fetchKeys()).has(next?.kid ?? '')).toBe(false)
  const third = await relay.post(tenant, { later: true })
  expect(kidOf(third.body)).toBe(revoked.body.successor)

  const verdictOf = async (receipt: unknown) =>
    (await relay.call('POST', '/v1/verify', { key: null, body: { receipt } })).body
  expect(await verdictOf(first.body)).toMatchObject({ verdict: 'valid', key: { state: 'retiring' } })
  expect(await verdictOf(second.body)).toMatchObject({ verdict: 'valid', key: { state: 'revoked' } })
  await relay.check()
  const [row] = await relay.database.database.query('select wrapped_seed from keys where kid = $1', [next?.kid ?? ''])
  expect(row).toEqual({ wrapped_seed: null })
})

test('in the overlap a checkpoint carries the signatures of both log keys, and either one alone suffices', async () => {
  const vkeys = async () => (await relay.call<string>('GET', '/log/vkey', { key: null })).body.trim().split('\n')
  const [old = ''] = await vkeys()
  expect((await relay.call('POST', '/v1/keys/rotate', { body: { purpose: 'log' } })).status).toBe(200)
  await relay.post(tenant, { after: true })
  const { body: checkpoint } = await relay.call<string>('GET', '/log/checkpoint', { key: null })
  const fresh = (await vkeys()).filter((vkey) => vkey !== old)
  expect(checkpoint.match(/^— /gm)).toHaveLength(2)
  for (const vkey of [old, ...fresh]) {
    const opened = openCheckpoint(checkpoint, { origin: relay.relay.origin, vkeys: [parseVerifierKey(vkey)] })
    expect(opened.verified).toHaveLength(1)
  }
  expect(fresh).toHaveLength(1)
  await relay.check()

  for (let days = 0; days < 91; days += 30.5) await advance(30.5 * day)
  await relay.post(tenant, { later: true })
  expect((await relay.call<string>('GET', '/log/checkpoint', { key: null })).body.match(/^— /gm)).toHaveLength(1)
  await relay.check()
})

test.runIf(keyWrapper === 'aws-kms')(
  'an outage of KMS stops rotation and nothing else, and a relay does not start in it',
  async () => {
    const kms = await kmsServer()
    if (kms === undefined) throw new Error('there is no KMS server')
    kms.switches.fault = { kind: 'DisabledException', times: Number.POSITIVE_INFINITY }
    relay.clock.advance(61 * day) // a key is due
    await relay.relay.housekeeping.lookAfterKeys()
    await relay.relay.housekeeping.lookAfterKeys()
    expect(relay.relay.housekeeping.keyTicksFailed).toBe(2)
    expect(relay.relay.keyPlan().steps).not.toEqual([])
    expect((await relay.post(tenant, { in: 'the outage' })).status).toBe(202)
    await receiver.until((arrived) => arrived.length === 1)
    await relay.check()
    await relay.close()
    await expect(relay.open()).rejects.toMatchObject({ code: 'kms_key_disabled' })

    kms.switches.fault = undefined
    await relay.open()
    await relay.relay.housekeeping.lookAfterKeys()
    expect(relay.relay.housekeeping.keyTicksFailed).toBe(0)
    expect(relay.relay.keyring.history.filter((key) => key.activatedAt === null)).toHaveLength(2)
  },
)

test('every statement about a key names the key, its purpose, and what wraps it', async () => {
  await relay.call('POST', '/v1/keys/rotate', { body: { purpose: 'payload' } })
  const { keyring } = relay.relay
  for (const key of keyring.history) {
    expect(key.wrappingVersion).toMatch(keyWrapper === 'local' ? /^1$/ : /^[0-9a-f]{64}$/)
    const about = {
      sub: key.kid,
      purpose: key.purpose,
      wrapping_key: key.wrappingKey,
      wrapping_version: key.wrappingVersion,
    }
    expect(aboutKey('key.generated', key)).toMatchObject(about)
  }
})

test('the key history is signed by the active key', async () => {
  const { body } = await relay.call<{ keys: unknown[]; signed: string }>('GET', '/v1/keys', { key: null })
  const jwks = createRemoteJWKSet(new URL(`${relay.url}/.well-known/jwks.json`))
  const { payload } = await jwtVerify(body.signed, jwks, {
    algorithms: ['EdDSA'],
    typ: 'keys+jwt',
    issuer: 'http://relay.test',
  })
  expect(payload.keys).toEqual(body.keys)
})

test('the JWKS is answered from memory, with an ETag, and without the database', async () => {
  const path = '/.well-known/jwks.json'
  const first = await relay.call('GET', path, { key: null })
  const etag = first.headers.get('etag') ?? ''
  expect((await relay.call('GET', path, { key: null, headers: { 'if-none-match': etag } })).status).toBe(304)
  expect((await relay.call('GET', '/.well-known/http-message-signatures-directory', { key: null })).body).toEqual(
    first.body,
  )
  await relay.relay.close()
  await relay.database.database.close()
  expect((await relay.call('GET', path, { key: null })).body).toEqual(first.body)
})

test('nothing is due twice, whoever asks and however often', () => {
  const policy = relay.relay.policy
  const { history } = relay.relay.keyring
  const at = (days: number) => new Date((history[0]?.generatedAt.getTime() ?? 0) + days * day)
  expect(dueSteps(history, policy, at(60))).toEqual([])
  expect(dueSteps(history, policy, at(61)).map((step) => step.kind)).toEqual(['generate', 'generate'])
})

/** Moves the time and lets the relay look after its keys, as it does every two seconds. */
async function advance(ms: number): Promise<void> {
  relay.clock.advance(ms)
  if (vi.isFakeTimers()) vi.setSystemTime(relay.clock.now())
  await relay.relay.rotation.tick()
}

/** What a receiver gets who asks for the keys now. */
async function fetchKeys(): Promise<Map<string, KeyObject>> {
  const { body } = await relay.call<JSONWebKeySet>('GET', '/.well-known/jwks.json', { key: null })
  return new Map(body.keys.map((jwk) => [String(jwk.kid), createPublicKey({ key: jwk as never, format: 'jwk' })]))
}

/** Standard Webhooks `v1a` with keys in hand and node:crypto. */
function verifiesWith(keys: Map<string, KeyObject>, { headers, body }: Arrived): boolean {
  const key = keys.get(String(headers['webhook-key-id']))
  const input = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`), body])
  const signature = Buffer.from(String(headers['webhook-signature']).replace('v1a,', ''), 'base64')
  return key !== undefined && verify(null, input, key, signature)
}
