/** What an endpoint asks for, seen from its receiver: what arrives, how it is signed, and over which TLS. */
import { createHash, createPublicKey, verify } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import * as noble from '@noble/ed25519'
import { createVerifier, httpbis } from 'http-message-signatures'
import { Webhook as StandardWebhook } from 'standardwebhooks'
import { Webhook as SvixWebhook } from 'svix'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { makeCertificate } from '../support/certificate.ts'
import { type Arrived, Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

interface ShownEndpoint {
  id: string
  secret?: string
  state: string
  paused_at?: string
  paused_reason?: string
}

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant

beforeEach(async () => {
  relay = await TestRelay.start({ egressAllow: ['127.0.0.0/8', '::1/128'] })
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
})

afterEach(async () => {
  await relay.check()
  await relay.stop()
  await receiver.stop()
})

describe('what arrives', () => {
  test('only messages that match the event types and every condition are owed', async () => {
    const { id } = await endpointWith({
      events: ['invoice.*'],
      filter: [
        { path: '$.data.amount', gt: 100 },
        { path: "$['data'].currency", in: ['EUR', 'CHF'] },
      ],
    })
    const wanted = await relay.post(tenant, { type: 'invoice.paid', data: { amount: 101, currency: 'EUR' } })
    const unwanted = [
      { type: 'customer.created', data: { amount: 101, currency: 'EUR' } },
      { type: 'invoice.paid', data: { amount: 100, currency: 'EUR' } },
      { type: 'invoice.paid', data: { amount: 101, currency: 'USD' } },
      { data: { amount: 101, currency: 'EUR' } },
    ]
    for (const payload of unwanted) {
      const { status, body } = await relay.post(tenant, payload)
      expect(status).toBe(202)
      expect(await endpointsOwed(body.message)).toEqual([])
    }
    await receiver.until((arrived) => arrived.length > 0)
    expect(receiver.messages).toEqual(new Set([wanted.body.message]))
    expect(await endpointsOwed(wanted.body.message)).toEqual([id])
  })

  test('a filter that is changed counts from the next message on', async () => {
    const { id } = await endpointWith({ events: ['a'] })
    expect(await endpointsOwed((await relay.post(tenant, { type: 'b' })).body.message)).toEqual([])
    await change(id, { events: [] })
    expect(await endpointsOwed((await relay.post(tenant, { type: 'b' })).body.message)).toEqual([id])
  })

  test('custom headers go with every attempt, and none can stand in for one of ours', async () => {
    await endpointWith({ headers: { Authorization: 'Bearer s3cret', 'x-tenant': 'acme', 'User-Agent': 'acme-relay' } })
    const { headers } = await arrival({ hello: 1 })
    expect(headers).toMatchObject({ authorization: 'Bearer s3cret', 'x-tenant': 'acme', 'user-agent': 'acme-relay' })
    expect(headers).toMatchObject({ 'content-type': 'application/json', 'webhook-attempt': '1' })
  })

  test('what is attempted again, and read from the database for it, is sent as it was the first time', async () => {
    const { id } = await endpointWith({ headers: { 'x-tenant': 'acme' }, signatures: { hmac: true, rfc9421: true } })
    receiver.answer = ({ headers }, response) =>
      response.writeHead(headers['webhook-attempt'] === '1' ? 500 : 204).end()
    const { body } = await relay.post(tenant, { again: true })
    await expect.poll(() => outcomesOf(body.message)).toEqual([['refused']])
    await change(id, { headers: { 'x-tenant': 'new' } })
    await relay.restart()
    relay.clock.advance(5000)
    await receiver.until((arrived) => arrived.length === 2)
    const [first, second] = receiver.arrived as [Arrived, Arrived]
    expect(Object.keys(second.headers)).toEqual(Object.keys(first.headers))
    expect(versions(second)).toEqual(['v1a', 'v1'])
    expect(second.headers['x-tenant'], 'but with what was changed meanwhile').toBe('new')
  })

  test('an endpoint with no options gets what it always got', async () => {
    await endpointWith({})
    const { headers } = await arrival({ hello: 1 })
    const names = Object.keys(headers).filter((name) => !['host', 'connection', 'content-length'].includes(name))
    const ours = ['id', 'timestamp', 'signature', 'key-id', 'receipt', 'attempt'].map((name) => `webhook-${name}`)
    expect(names.sort()).toEqual(['accept-encoding', 'content-digest', 'content-type', 'user-agent', ...ours].sort())
    expect(headers['webhook-signature']).toMatch(/^v1a,[A-Za-z0-9+/]{86}==$/)
  })
})

describe('signatures', () => {
  test('HMAC v1 verifies with the Standard Webhooks and Svix libraries, beside v1a', async () => {
    const { secret = '' } = await endpointWith({ signatures: { hmac: true } })
    const arrived = await arrival({ hello: 'wörld' })
    expect(versions(arrived)).toEqual(['v1a', 'v1'])
    for (const stock of [new StandardWebhook(secret), new SvixWebhook(secret)]) {
      expect(() => stock.verify(arrived.body, strings(arrived))).not.toThrow()
      const altered = Buffer.from(arrived.body.toString().replace('hello', 'hullo'))
      expect(() => stock.verify(altered, strings(arrived))).toThrow()
    }
    expect(await signedBy(arrived, await publishedKey('active'))).toBe(true)
  })

  test('after the secret is rotated both verify for a day, then the new one alone', async () => {
    const { id, secret: old = '' } = await endpointWith({ signatures: { hmac: true } })
    const rotated = await call<{ secret: string; previous_until: string }>('POST', `/${id}/secret/rotate`)
    expect(Date.parse(rotated.body.previous_until) - relay.clock.now().getTime()).toBe(24 * 3_600_000)
    const verifies = (secret: string, arrived: Arrived) => {
      // The library knows the time of day only, and the clock here is moved: so it signs, and we compare.
      const at = new Date(Number(arrived.headers['webhook-timestamp']) * 1000)
      const expected = new StandardWebhook(secret).sign(String(arrived.headers['webhook-id']), at, arrived.body)
      return String(arrived.headers['webhook-signature']).split(' ').includes(expected)
    }
    const within = await arrival({ n: 1 })
    expect(versions(within)).toEqual(['v1a', 'v1', 'v1'])
    expect([verifies(old, within), verifies(rotated.body.secret, within)]).toEqual([true, true])
    relay.clock.advance(24 * 3_600_000)
    const after = await arrival({ n: 2 })
    expect(versions(after)).toEqual(['v1a', 'v1'])
    expect([verifies(old, after), verifies(rotated.body.secret, after)]).toEqual([false, true])
  })

  test.each(['/hook', '/hook?a=%20b&c=', '/'])('RFC 9421 verifies with a stock library at %s', async (path) => {
    const url = receiver.url.replace('/hook', path)
    await endpointWith({ url, signatures: { rfc9421: true } })
    const arrived = await arrival({ hello: 1 })
    const key = await publishedKey('active')
    const digest = createHash('sha256').update(arrived.body).digest('base64')
    expect(arrived.headers['content-digest']).toBe(`sha-256=:${digest}:`)
    expect(arrived.headers.host).toBe(new URL(url).host)
    const signed = { method: 'POST', url, headers: strings(arrived) }
    expect(await verifies9421(signed, key)).toBe(true)
    for (const lie of [
      { ...signed, method: 'PUT' },
      { ...signed, url: `${url}x` },
      { ...signed, headers: { ...signed.headers, 'content-digest': 'sha-256=:AAAA:' } },
      { ...signed, headers: { ...signed.headers, 'webhook-id': 'msg_other' } },
      { ...signed, headers: { ...signed.headers, 'webhook-timestamp': '1' } },
    ]) {
      expect(await verifies9421(lie, key)).toBe(false)
    }
  })

  test('during an overlap the retiring key signs a second v1a where it is asked for, and nowhere else', async () => {
    const plain = await Receiver.start()
    await endpointWith({ signatures: { retiring_key: true } })
    await endpointWith({ url: plain.url })
    const [before] = [await arrival({ n: 1 })]
    expect(versions(before)).toEqual(['v1a'])
    expect((await relay.call('POST', '/v1/keys/rotate', { body: { purpose: 'payload' } })).status).toBe(200)
    relay.clock.advance(61_000) // the moment of the switch is put on record ahead

    const arrived = await arrival({ n: 2 })
    expect(versions(arrived)).toEqual(['v1a', 'v1a'])
    const [active, retiring] = [await publishedKey('active'), await publishedKey('retiring')]
    expect(arrived.headers['webhook-key-id']).toBe(`${active.kid} ${retiring.kid}`)
    expect(await signedBy(arrived, active)).toBe(true)
    expect(await signedBy(arrived, retiring), 'a receiver that pinned the old key').toBe(true)
    const { body } = await relay.call<{ verdict: string }>('POST', '/v1/verify', {
      key: null,
      body: { payload: arrived.body.toString(), webhook: webhookOf(arrived) },
    })
    expect(body.verdict, JSON.stringify(body)).toBe('valid')

    await plain.until((all) => all.length === 2)
    expect(versions(plain.arrived.at(-1) as Arrived)).toEqual(['v1a'])
    await plain.stop()
  })
})

describe('TLS', () => {
  const ahead = new Date(Date.now() + 3_600_000)
  const ago = new Date(Date.now() - 3_600_000)
  const server = makeCertificate('localhost', ago, ahead)
  const ours = makeCertificate('relay.test', ago, ahead)
  const identity = { certificate: ours.cert, key: ours.key, ca: server.cert }

  test('a receiver behind a private CA that wants a client certificate gets both sides proven', async () => {
    const locked = await Receiver.start({ ...server, ca: ours.cert, requestCert: true, rejectUnauthorized: true })
    const seen: string[] = []
    locked.answer = (_arrived, response) => {
      seen.push(String((response.socket as TLSSocket).getPeerCertificate().subject.CN))
      response.writeHead(204).end()
    }
    const { id } = await endpointWith({ url: locked.url, tls: identity })
    const { body } = await relay.post(tenant, { hello: 1 })
    await locked.until((arrived) => arrived.length === 1)
    expect(seen).toEqual(['relay.test'])
    await expect.poll(() => outcomesOf(body.message)).toEqual([['delivered']])

    await change(id, { tls: { ca: server.cert } })
    // In TLS 1.3 the receiver refuses after the handshake: its alert and the end of the connection race.
    const refused = { outcome: 'unreachable', reason: expect.stringMatching(/^(tls|reset)$/) }
    expect(await firstOutcome({ without: 'certificate' })).toMatchObject(refused)
    await change(id, { tls: null })
    expect(await firstOutcome({ without: 'trust' })).toMatchObject({ outcome: 'unreachable', reason: 'tls' })
    expect(seen, 'no socket of another identity was used').toHaveLength(1)
    await locked.stop()
  })

  test('a private CA vouches for its own endpoint alone', async () => {
    const inside = await Receiver.start(server)
    await endpointWith({ url: inside.url, tls: { ca: server.cert } })
    const { body } = await relay.post(tenant, { n: 1 })
    await inside.until((arrived) => arrived.length === 1)
    await expect.poll(() => outcomesOf(body.message)).toEqual([['delivered']])
    await endpointWith({ url: inside.url })
    const second = await relay.post(tenant, { n: 2 })
    await expect.poll(() => outcomesOf(second.body.message)).toEqual([['delivered'], ['tls']])
    expect(inside.messages.size).toBe(2)
    await inside.stop()
  })
})

describe('messages of the relay itself', () => {
  test('a test is signed, logged and delivered like any message, to that endpoint alone', async () => {
    const other = await Receiver.start()
    await endpointWith({ url: other.url })
    const { id } = await endpointWith({ events: ['nothing.else'], name: 'mine' })
    const { status, body } = await call<{ message: string }>('POST', `/${id}/test`)
    expect(status).toBe(202)
    await receiver.until((arrived) => arrived.length === 1)
    const [arrived] = receiver.arrived as [Arrived]
    expect(arrived.headers['webhook-id']).toBe(body.message)
    expect(JSON.parse(arrived.body.toString())).toMatchObject({
      type: 'endpoint.test',
      data: { endpoint: id, name: 'mine' },
    })
    expect(await signedBy(arrived, await publishedKey('active'))).toBe(true)

    const receipt = await relay.call<{ payload: string }>('GET', `/v1/messages/${body.message}/receipt`)
    const statement = JSON.parse(Buffer.from(receipt.body.payload, 'base64url').toString())
    const [, keyId] = tenant.tenantKey.split('_')
    expect(statement).toMatchObject({ kind: 'message.accepted', source: 'countersign', actor: `key_${keyId}` })
    const verdict = await relay.call<{ verdict: string }>('POST', '/v1/verify', {
      key: null,
      body: { receipt: receipt.body },
    })
    expect(verdict.body.verdict).toBe('valid')
    expect(await endpointsOwed(body.message)).toEqual([id])
    expect(other.arrived).toEqual([])
    await other.stop()
  })

  test('a notice goes to the endpoints of its tenant that ask for its type, and not to the one it is about', async () => {
    const rival = await relay.makeTenant('Rival')
    const failing = await endpointWith({ events: ['endpoint.*'] })
    const operator = await endpointWith({ events: ['endpoint.failing', 'invoice.*'] })
    await endpointWith({})
    await endpointWith({ events: ['*'] })
    await relay.make(`/v1/tenants/${rival.id}/endpoints`, { url: receiver.url, events: ['endpoint.*'] })
    const notice = { type: 'endpoint.failing', endpointId: failing.id, data: { since: 'yesterday' } } as const
    const message = await relay.relay.notices.send(tenant.id, notice)
    await receiver.until((arrived) => arrived.length === 1)
    const [arrived] = receiver.arrived as [Arrived]
    expect(JSON.parse(arrived.body.toString())).toMatchObject({
      type: 'endpoint.failing',
      data: { endpoint: failing.id, since: 'yesterday' },
    })
    expect(await endpointsOwed(message)).toEqual([operator.id])
  })
})

/** Makes an endpoint of the receiver, with options. */
const endpointWith = (wish: object): Promise<ShownEndpoint> =>
  relay.make<ShownEndpoint>(`/v1/tenants/${tenant.id}/endpoints`, { url: receiver.url, ...wish }, tenant.tenantKey)

const call = <T = ShownEndpoint>(method: string, path: string, body?: object) =>
  relay.call<T>(method, `/v1/tenants/${tenant.id}/endpoints${path}`, {
    key: tenant.tenantKey,
    ...(body !== undefined && { body }),
  })

async function change(id: string, wish: object): Promise<void> {
  expect((await call('PATCH', `/${id}`, wish)).status).toBe(200)
}

/** Posts and waits until the receiver has it. */
async function arrival(payload: object): Promise<Arrived> {
  const { body } = await relay.post(tenant, payload)
  const mine = ({ headers }: Arrived) => headers['webhook-id'] === body.message
  await receiver.until((arrived) => arrived.some(mine))
  return receiver.arrived.find(mine) as Arrived
}

interface ShownDelivery {
  endpoint: string
  attempts: { outcome: string; reason?: string }[]
}

const deliveriesOf = async (message: string): Promise<ShownDelivery[]> =>
  (await relay.call<{ data: ShownDelivery[] }>('GET', `/v1/messages/${message}/deliveries`)).body.data

const endpointsOwed = async (message: string): Promise<string[]> =>
  (await deliveriesOf(message)).map(({ endpoint }) => endpoint)

/** What came of each delivery's attempts. */
const outcomesOf = async (message: string): Promise<string[][]> =>
  (await deliveriesOf(message)).map(({ attempts }) => attempts.map(({ outcome, reason }) => reason ?? outcome))

async function firstOutcome(payload: object): Promise<unknown> {
  const { body } = await relay.post(tenant, payload)
  const first = async () => (await deliveriesOf(body.message))[0]?.attempts[0]
  await expect.poll(first).toBeDefined()
  return first()
}

const strings = ({ headers }: Arrived): Record<string, string> =>
  Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]))

const versions = (arrived: Arrived): string[] =>
  String(arrived.headers['webhook-signature'])
    .split(' ')
    .map((signature) => signature.split(',')[0] ?? '')

const webhookOf = ({ headers }: Arrived) => ({
  id: headers['webhook-id'],
  timestamp: headers['webhook-timestamp'],
  signature: headers['webhook-signature'],
})

interface PublishedKey {
  kid: string
  x: string
  state: string
  purpose: string
}

async function publishedKey(state: string): Promise<PublishedKey> {
  const { body } = await relay.call<{ keys: PublishedKey[] }>('GET', '/v1/keys', { key: null })
  return body.keys.find((key) => key.purpose === 'payload' && key.state === state) as PublishedKey
}

/** Whether a v1a signature is by this key, said by two libraries that must agree. */
async function signedBy({ headers, body }: Arrived, { x }: PublishedKey): Promise<boolean> {
  const signed = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`), body])
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
  for (const item of String(headers['webhook-signature']).split(' ')) {
    const [version, text = ''] = item.split(',')
    if (version !== 'v1a') continue
    const signature = Buffer.from(text, 'base64')
    const holds = verify(null, signed, key, signature)
    const publicKey = new Uint8Array(Buffer.from(x, 'base64url'))
    expect(await noble.verifyAsync(new Uint8Array(signature), new Uint8Array(signed), publicKey)).toBe(holds)
    if (holds) return true
  }
  return false
}

async function verifies9421(
  request: { method: string; url: string; headers: Record<string, string> },
  { kid, x }: PublishedKey,
): Promise<boolean> {
  const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
  const required = ['@method', '@authority', '@path', 'content-digest', 'webhook-id', 'webhook-timestamp']
  try {
    const verdict = await httpbis.verifyMessage(
      {
        keyLookup: async ({ keyid }) => (keyid === kid ? { id: kid, verify: createVerifier(key, 'ed25519') } : null),
        requiredFields: request.url.includes('?') ? [...required, '@query'] : required,
        requiredParams: ['created', 'keyid', 'tag'],
        tolerance: 5,
      },
      request,
    )
    return verdict === true
  } catch {
    return false
  }
}
