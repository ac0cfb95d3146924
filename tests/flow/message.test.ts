import { createPublicKey, verify } from 'node:crypto'
import { createRemoteJWKSet, jwtVerify } from 'jose'
import { afterAll, beforeAll, expect, test } from 'vitest'
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
})

afterAll(async () => {
  await relay?.stop()
  await receiver?.stop()
})

test('leaf 0 is log.created and the checkpoint covers it', async () => {
  expect((await relay.relay.head()).treeSize).toBeGreaterThanOrEqual(5)
  await relay.check()
})

test('a posted payload is receipted, logged, forwarded in canonical form and verifiable by strangers', async () => {
  const posted = await relay.post(tenant, '{"total": 99.90, "order":4711, "\\u0061m": [1e2, -0]}')
  expect(posted.status).toBe(202)
  expect(posted.headers.get('content-type')).toContain('application/vnd.countersign.receipt+json')
  const { message } = posted.body
  await receiver.until((arrived) => arrived.length === 1)

  const [{ headers, body }] = receiver.arrived as [(typeof receiver.arrived)[0]]
  expect(body.toString()).toBe('{"am":[100,0],"order":4711,"total":99.9}')
  expect(headers).toMatchObject({
    'content-type': 'application/json',
    'webhook-id': message,
    'webhook-attempt': '1',
    'webhook-receipt': `${posted.body.protected}.${posted.body.payload}.${posted.body.signature}`,
  })

  // The receiver's side: a stock JOSE library and node:crypto, with the JWKS and nothing of ours.
  const jwks = new URL(`${relay.url}/.well-known/jwks.json`)
  const { payload, protectedHeader } = await jwtVerify(String(headers['webhook-receipt']), createRemoteJWKSet(jwks), {
    algorithms: ['EdDSA'],
    typ: 'receipt+jwt',
  })
  expect(payload).toMatchObject({
    v: 1,
    kind: 'message.accepted',
    sub: message,
    tenant: tenant.id,
    iss: 'http://relay.test',
  })
  expect(protectedHeader.kid).toBe(headers['webhook-key-id'])
  const { keys } = (await (await fetch(jwks)).json()) as { keys: { kid: string }[] }
  const jwk = keys.find((key) => key.kid === headers['webhook-key-id'])
  expect(jwk).not.toHaveProperty('alg')
  const input = Buffer.concat([Buffer.from(`${message}.${headers['webhook-timestamp']}.`), body])
  const signature = Buffer.from(String(headers['webhook-signature']).replace('v1a,', ''), 'base64')
  expect(verify(null, input, createPublicKey({ key: jwk as never, format: 'jwk' }), signature)).toBe(true)
  await relay.check()
})

test('the message, a fresh receipt and its deliveries can be read back', async () => {
  const { body } = await relay.post(tenant, { hello: 'wörld' })
  await receiver.until(() => receiver.messages.has(body.message))
  const key = tenant.tenantKey
  const message = await relay.call('GET', `/v1/messages/${body.message}`, { key })
  expect(message.body).toMatchObject({ id: body.message, source: tenant.source, payload: { hello: 'wörld' } })

  await relay.post(tenant, { later: true })
  const fresh = await relay.call<typeof body>('GET', `/v1/messages/${body.message}/receipt`, { key })
  expect(fresh.body).toMatchObject({ message: body.message, payload: body.payload, signature: body.signature })
  expect(fresh.body.header['tlog-proof']).not.toBe(body.header['tlog-proof'])
  const verdict = await relay.call('POST', '/v1/verify', {
    key: null,
    body: { receipt: fresh.body, payload: { hello: 'wörld' } },
  })
  expect(verdict.body).toMatchObject({ verdict: 'valid', key: { state: 'active' } })

  const deliveries = async () =>
    (await relay.call<{ data: unknown[] }>('GET', `/v1/messages/${body.message}/deliveries`, { key })).body
  await expect.poll(deliveries).toMatchObject({
    data: [{ state: 'delivered', attempts: [{ number: 1, outcome: 'delivered', status: 204 }] }],
  })
  await relay.check()
})
