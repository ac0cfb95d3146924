/** Any statement has a receipt, whenever somebody asks; and a stranger with the published keys can check it. */
import { createPublicKey, type KeyObject } from 'node:crypto'
import { Sign1 } from '@auth0/cose'
import { decode, type Tag } from 'cbor2'
import { createLocalJWKSet, type JSONWebKeySet, jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { readTrust } from '../../src/cli/trust.ts'
import { decodeBundle, tilePath } from '../../src/log/tile.ts'
import { parseJson } from '../../src/message/json.ts'
import { verifyCoseReceipt } from '../../src/receipt/cose.ts'
import type { Receipt } from '../../src/receipt/receipt.ts'
import { verifyEvidence } from '../../src/receipt/verify.ts'
import { rfc6962, sha256 } from '../log/rfc6962.ts'
import { Receiver } from '../support/receiver.ts'
import { type AuditItem, TestRelay, type TestTenant } from '../support/relay.ts'

const dayMs = 86_400_000

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant
let items: AuditItem[]

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, receiver.url)
  await relay.post(tenant, { order: 1 })
  const attempted = () => relay.readAudit(tenant, { kind: 'delivery.attempted' })
  await vi.waitUntil(async () => (await attempted()).length === 1)
  items = await relay.readAudit(tenant)
})

afterAll(async () => {
  await relay?.check()
  await relay?.stop()
  await receiver?.stop()
})

const itemOf = (kind: string): AuditItem => {
  const item = items.find(({ statement }) => statement.kind === kind)
  if (item === undefined) throw new Error(`nothing of kind ${kind} was stated`)
  return item
}
const receiptAt = (index: number, key = tenant.tenantKey) =>
  relay.call<Receipt & { code?: string }>('GET', `/v1/statements/${index}/receipt`, { key })
const published = async (path: string) => {
  const response = await fetch(relay.url + path)
  return { where: path, bytes: new Uint8Array(await response.arrayBuffer()) }
}

const receiptType = 'application/vnd.countersign.receipt+json; charset=utf-8'

/** Verifies as `countersign verify` does, with nothing but what the relay publishes now. */
async function judge(receipt: Receipt, withLog = true) {
  const jwks = await published('/.well-known/jwks.json')
  const vkeys = withLog ? await published('/log/vkey') : undefined
  const trust = readTrust({ jwks, vkeys, issuer: 'http://relay.test' })
  const verdict = verifyEvidence({ receipt: parseJson(Buffer.from(JSON.stringify(receipt))) }, trust)
  return { ...verdict, failed: verdict.checks.filter(({ ok }) => !ok).map(({ name }) => name) }
}

test.each(['delivery.attempted', 'endpoint.created', 'api_key.created', 'tenant.created', 'api.called'])(
  'what is stated as %s has a receipt',
  async (kind) => {
    const { index, statement } = itemOf(kind)
    const { status, headers, body } = await receiptAt(index)
    expect([status, headers.get('content-type')]).toEqual([200, receiptType])
    expect(body).toMatchObject({ subject: statement.sub })
    expect(body).not.toHaveProperty('message')
    expect(await judge(body)).toMatchObject({ verdict: 'valid', statement, log: { leafIndex: index } })
    const { body: verdict } = await relay.call('POST', '/v1/verify', { key: null, body: { receipt: body } })
    expect(verdict).toMatchObject({ verdict: 'valid', statement })
    const jwks = (await relay.call<JSONWebKeySet>('GET', '/.well-known/jwks.json', { key: null })).body
    const { payload } = await jwtVerify(`${body.protected}.${body.payload}.${body.signature}`, createLocalJWKSet(jwks))
    expect(payload).toEqual(statement)
  },
)

test('the acceptance of a message has the one receipt, wherever it is asked for', async () => {
  const { index, statement } = itemOf('message.accepted')
  const { body } = await receiptAt(index)
  const { protected: header, payload, signature } = relay.receipts.get(statement.sub) ?? {}
  expect(body).toMatchObject({ message: statement.sub, protected: header, payload, signature })
  expect((await relay.call<Receipt>('GET', `/v1/messages/${statement.sub}/receipt`)).body).toMatchObject({
    payload,
    signature,
  })
})

test('an administrator gets the receipts of the deployment, and no tenant does', async () => {
  const [first] = await relay.readAudit(null, { kind: 'log.created' })
  expect(first?.index).toBe(0)
  expect((await relay.call<Receipt>('GET', '/v1/statements/0/receipt')).body).toMatchObject({
    subject: 'relay.test/log',
  })
  for (const index of [0, 10_000_000, Number.MAX_SAFE_INTEGER]) {
    expect((await receiptAt(index)).body).toMatchObject({ code: 'not_found' })
  }
  for (const index of ['00', '-1', '1e1', 'x', '9'.repeat(30)]) {
    expect((await relay.call('GET', `/v1/statements/${index}/receipt`)).status).toBe(404)
  }
})

describe('a receipt names one subject, that of its statement', () => {
  test.each([
    ['another subject', () => ({ subject: 'ep_1' }), ['statement']],
    ['none', () => ({ subject: undefined }), ['format']],
    [
      'a message, which it is not about',
      ({ subject }: { subject: string }) => ({ subject: undefined, message: subject }),
      ['statement'],
    ],
    ['both', ({ subject }: { subject: string }) => ({ message: subject }), ['format']],
  ])('%s fails', async (_lie, change, failed) => {
    const { body } = await receiptAt(itemOf('endpoint.created').index)
    expect((await judge({ ...body, ...change(body as { subject: string }) } as Receipt)).failed).toEqual(failed)
  })
})

describe('a COSE receipt', () => {
  const cose = async (path: string) => {
    const headers = { authorization: `Bearer ${tenant.tenantKey}`, accept: 'application/cose' }
    const response = await fetch(relay.url + path, { headers })
    expect([response.status, response.headers.get('content-type')]).toEqual([200, 'application/cose'])
    return new Uint8Array(await response.arrayBuffer())
  }

  test.each(['message.accepted', 'delivery.attempted', 'endpoint.created'])(
    'of %s is verified by libraries that know nothing of us',
    async (kind) => {
      const { index, entry, statement } = itemOf(kind)
      await verifyStock(await cose(`/v1/statements/${index}/receipt`), { index, entry, sub: statement.sub })
    },
  )

  test('is on the route of the message as well', async () => {
    const { index, entry, statement } = itemOf('message.accepted')
    await verifyStock(await cose(`/v1/messages/${statement.sub}/receipt`), { index, entry, sub: statement.sub })
  })

  test.each([
    ['application/json', receiptType],
    ['application/cose;q=0.5, application/vnd.countersign.receipt+json', receiptType],
    ['application/cose;q=0', receiptType],
    ['text/html, application/cose;q=0.1', 'application/cose'],
  ])('is not what %s asks for, unless it is', async (accept, type) => {
    const headers = { authorization: `Bearer ${tenant.tenantKey}`, accept }
    const response = await fetch(`${relay.url}/v1/statements/${items[0]?.index}/receipt`, { headers })
    expect(response.headers.get('content-type')).toBe(type)
    expect(response.headers.get('vary')).toBe('accept')
  })

  test('proves nothing once any of its bytes, or the entry, is another', async () => {
    const { index, entry } = itemOf('endpoint.created')
    const bytes = await cose(`/v1/statements/${index}/receipt`)
    const leaf = Buffer.from(entry, 'base64url')
    const keys = await logKeys()
    expect(verifyCoseReceipt(bytes, leaf, keys)).toBe(true)
    expect(
      verifyCoseReceipt(
        bytes,
        leaf.map((byte) => byte ^ 1),
        keys,
      ),
    ).toBe(false)
    // RFC 9942 signs the root alone. Trees of some sizes differ in nothing that this leaf's path could tell.
    const [, unprotected] = decode<Tag>(bytes).contents as [Uint8Array, Map<number, Map<number, Uint8Array[]>>]
    const sizeAt = Buffer.from(bytes).indexOf(unprotected.get(396)?.get(-1)?.[0] ?? '') + 2 // [ 24 size …
    const held = [...bytes.keys()].filter((at) => verifyCoseReceipt(bytes.with(at, (bytes[at] ?? 0) ^ 1), leaf, keys))
    expect(held.filter((at) => at !== sizeAt)).toEqual([])
  })
})

describe('long afterwards', () => {
  test('a statement that nobody had asked about is signed by the key of the day, and counts because the log has it', async () => {
    const [before] = await kids()
    relay.clock.advance(61 * dayMs)
    await relay.relay.rotation.tick()
    relay.clock.advance(31 * dayMs)
    await relay.relay.rotation.tick()
    relay.clock.advance(60_000)
    const { index, entry, statement } = itemOf('delivery.attempted')
    const { body } = await receiptAt(index)
    const kid = kidOf(body)
    expect(kid).not.toBe(before)
    expect(await judge(body)).toMatchObject({ verdict: 'valid', statement })
    // The signature alone says nothing about when it was made.
    expect(await judge(body, false)).toMatchObject({ verdict: 'invalid', failed: ['key_state'] })
    expect((await relay.call('POST', '/v1/verify', { key: null, body: { receipt: body } })).body).toMatchObject({
      verdict: 'valid',
    })

    const { body: successor } = await relay.call('POST', `/v1/keys/${before}/revoke`, {
      body: { reason: 'stolen', from: relay.clock.now().toISOString() },
    })
    expect(successor).toEqual({})
    expect(await judge((await receiptAt(index)).body)).toMatchObject({ verdict: 'valid' })
    const headers = { authorization: `Bearer ${tenant.tenantKey}`, accept: 'application/cose' }
    const response = await fetch(`${relay.url}/v1/statements/${index}/receipt`, { headers })
    await verifyStock(new Uint8Array(await response.arrayBuffer()), { index, entry, sub: statement.sub })
  })
})

const kids = async () =>
  (await relay.call<{ keys: { kid: string }[] }>('GET', '/.well-known/jwks.json', { key: null })).body.keys.map(
    ({ kid }) => kid,
  )
const kidOf = (receipt: Receipt): string => JSON.parse(Buffer.from(receipt.protected, 'base64url').toString()).kid

/** The public log keys, with the names that /v1/keys gives them. */
async function keysOfLog(): Promise<Map<string, KeyObject>> {
  const { body } = await relay.call<{ keys: { kid: string; purpose: string; x: string }[] }>('GET', '/v1/keys', {
    key: null,
  })
  const log = body.keys.filter(({ purpose }) => purpose === 'log')
  return new Map(
    log.map(({ kid, x }) => [kid, createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })]),
  )
}
const logKeys = async () => [...(await keysOfLog()).values()]

/** RFC 9942 §4.3 by hand: cbor2 reads, the RFC's own recursion finds the root of the log served, @auth0/cose verifies. */
async function verifyStock(bytes: Uint8Array, expected: { index: number; entry: string; sub: string }): Promise<void> {
  const tag = decode<Tag>(bytes)
  expect(tag.tag).toBe(18)
  const [header, unprotected, payload] = tag.contents as [Uint8Array, Map<number, Map<number, Uint8Array[]>>, null]
  expect(payload).toBeNull()
  const claims = decode<Map<number, unknown>>(header)
  expect(claims.get(1)).toBe(-8)
  expect(claims.get(395)).toBe(1)
  expect(claims.get(15)).toEqual(
    new Map([
      [1, 'http://relay.test'],
      [2, expected.sub],
    ]),
  )
  const [proof] = unprotected.get(396)?.get(-1) ?? []
  const [treeSize, leafIndex, path] = decode<[number, number, Uint8Array[]]>(proof ?? new Uint8Array())
  expect(leafIndex).toBe(expected.index)
  const entries = decodeBundle(await bytesOf(`/log/${tilePath('entries', 0, treeSize)}`)) ?? []
  expect(Buffer.from(entries[leafIndex] ?? []).toString('base64url')).toBe(expected.entry)
  const slow = rfc6962((start, end) =>
    end - start === 1 ? sha256(Uint8Array.of(0), entries[start] ?? new Uint8Array()) : undefined,
  )
  expect(path.map(hex)).toEqual(slow.inclusion(leafIndex, treeSize).map(hex))
  const key = (await keysOfLog()).get(Buffer.from(claims.get(4) as Uint8Array).toString())
  if (key === undefined) throw new Error('the receipt names no log key')
  await Sign1.decode(bytes).verify(key, { detachedPayload: slow.treeHash(0, treeSize) })
  await expect(Sign1.decode(bytes).verify(key, { detachedPayload: slow.treeHash(0, treeSize - 1) })).rejects.toThrow()
}
const hex = (hash: Uint8Array) => Buffer.from(hash).toString('hex')
const bytesOf = async (path: string) => (await published(path)).bytes

describe('the receipt that scitt-cose publishes as test-vectors/v1/valid-eddsa', () => {
  const from = (text: string, encoding: 'hex' | 'base64') => new Uint8Array(Buffer.from(text, encoding))
  const entry = from('a6dd4523ffdda1754c234acf209bdde758db7d30438468700a7bf6c01e800e3a', 'hex')
  const spki = from('MCowBQYDK2VwAyEAEwwouRWn0mADcwBA3P6LldCEKCaWmb4IEg50X+xvk4A=', 'base64')
  const key = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' })
  const receipt = from(
    'd28447a219018b010127a119018ca12081586a830802835820d5790c062bb617c193f8dbedf90469ccf49525739238b6d1102df4d3424fbd' +
      '445820fb85d1461099612b0a34168f8f207bc9a761a91cd1173f39c5dd7ca4d1d92a6c5820b8e2ffb9ad6e45622e44393e6f58a747c4c5b3' +
      '900d9676e3ecf50aab2ba266e4f658404c6f704a3d7421827e906a3742aea994d396738debc4ea871077c97f2ea65ec1302673fd1f77c31d' +
      '7ea5024862d253b888d1a2007d35fea1720792dde6eee402',
    'hex',
  )

  test('is one by our verifier, too', () => {
    expect(verifyCoseReceipt(receipt, entry, [key])).toBe(true)
  })

  test('is none with another kind of tree, another path, another signature or a payload', () => {
    const changed = (at: number, byte: number) => verifyCoseReceipt(receipt.with(at, byte), entry, [key])
    expect(receipt[7]).toBe(1) // vds
    expect(changed(7, 2)).toBe(false)
    expect(changed(30, 0)).toBe(false)
    expect(changed(receipt.length - 1, 0)).toBe(false)
    expect(changed(receipt.indexOf(0xf6), 0xf5)).toBe(false)
  })
})
