/** Sources over HTTP: who gets past which scheme, what a refusal says, and what is never shown. */
import { createHmac } from 'node:crypto'
import { connect } from 'node:net'
import { sign as signGithub } from '@octokit/webhooks-methods'
import { Webhook as StandardWebhook } from 'standardwebhooks'
import Stripe from 'stripe'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { MessageReceipt } from '../../src/receipt/receipt.ts'
import { Receiver } from '../support/receiver.ts'
import { type Answer, TestRelay, type TestTenant } from '../support/relay.ts'
import { speak } from './speak.ts'

interface SourceBody {
  readonly id: string
  readonly code?: string
  readonly authentication: { readonly scheme: string; readonly secret_hints?: string[] }
}

let relay: TestRelay
let tenant: TestTenant
let rival: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
  rival = await relay.makeTenant('Rival')
})

afterAll(async () => {
  await relay?.stop()
})

const secret = 'a secret that vendors share'
const whsec = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
const payload = '{"id":"evt_1","amount":100}'
const hex = (key: string, text: string) => createHmac('sha256', key).update(text).digest('hex')
const second = (offset = 0) => Math.floor(relay.clock.now().getTime() / 1000) + offset
const basic = (user: string, password: string) => `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`

const sources = () => `/v1/tenants/${tenant.id}/sources`
const make = (wish: object) => relay.make<SourceBody>(sources(), { name: 'signed', ...wish }, tenant.tenantKey)
const manage = (method: string, path: string, body?: object) =>
  relay.call<SourceBody>(method, `${sources()}/${path}`, { key: tenant.tenantKey, ...(body && { body }) })

/** Posts as a vendor who holds no API key. */
async function post(
  path: string,
  body: string,
  headers: Record<string, string>,
  at: TestRelay = relay,
): Promise<Answer<MessageReceipt & { code?: string }>> {
  const path_ = path.startsWith('/') ? path : `/v1/sources/${path}/messages`
  const answer = await at.call<MessageReceipt & { code?: string }>('POST', path_, { key: null, body, headers })
  if (answer.status === 202) relay.receipts.set(answer.body.message, answer.body)
  return answer
}

const accepted = () => relay.readAudit(tenant, { kind: 'message.accepted' })

/** A body but for the number of its call. */
const unnumbered = <T extends object>({ body }: Answer<T>) => ({ ...body, request_id: undefined })

const statementOf = (receipt: MessageReceipt) => JSON.parse(Buffer.from(receipt.payload, 'base64url').toString())
const replayed = ({ headers }: Answer<unknown>) => headers.get('idempotency-replayed')

/** A source of each scheme, and how its vendor signs a body. */
const vendors: Record<string, { authentication: object; sign: (body: string) => Promise<Record<string, string>> }> = {
  'standard-webhooks': {
    authentication: { scheme: 'standard-webhooks', secrets: [whsec] },
    sign: async (body) => ({
      'webhook-id': `msg_${hex(secret, body).slice(0, 16)}`,
      'webhook-timestamp': String(second()),
      'webhook-signature': new StandardWebhook(whsec).sign(
        `msg_${hex(secret, body).slice(0, 16)}`,
        relay.clock.now(),
        body,
      ),
    }),
  },
  github: {
    authentication: { scheme: 'github', secrets: [secret] },
    sign: async (body) => ({ 'x-hub-signature-256': await signGithub(secret, body) }),
  },
  stripe: {
    authentication: { scheme: 'stripe', secrets: [secret] },
    sign: async (body) => ({
      'stripe-signature': new Stripe('sk_test_none').webhooks.generateTestHeaderString({
        ...{ payload: body, secret, timestamp: second() },
      }),
    }),
  },
  shopify: {
    authentication: { scheme: 'shopify', secrets: [secret] },
    sign: async (body) => ({
      'x-shopify-hmac-sha256': createHmac('sha256', secret).update(body).digest('base64'),
    }),
  },
  slack: {
    authentication: { scheme: 'slack', secrets: [secret] },
    sign: async (body) => signSlack(body),
  },
  hmac: {
    authentication: {
      ...{ scheme: 'hmac', secrets: [secret], header: 'X-Signature', algorithm: 'sha512', encoding: 'base64' },
      ...{ prefix: 'v2=', timestamp_header: 'X-Time' },
    },
    sign: async (body) => ({
      'x-time': String(second()),
      'x-signature': `v2=${createHmac('sha512', secret).update(`${second()}.${body}`).digest('base64')}`,
    }),
  },
  basic: {
    authentication: { scheme: 'basic', user: 'vendor', secrets: [secret] },
    sign: async () => ({ authorization: basic('vendor', secret) }),
  },
}

const signSlack = (body: string, at = second()) => ({
  'x-slack-request-timestamp': String(at),
  'x-slack-signature': `v0=${hex(secret, `v0:${at}:${body}`)}`,
})

describe.each(Object.entries(vendors))('a source with the scheme %s', (scheme, { authentication, sign }) => {
  let source: SourceBody
  beforeAll(async () => {
    source = await make({ authentication })
  })

  test('takes what its vendor signs, and its statement names source and scheme', async () => {
    const answer = await post(source.id, payload, await sign(payload))
    expect(answer.status, JSON.stringify(answer.body)).toBe(202)
    expect(statementOf(answer.body)).toMatchObject({
      ...{ kind: 'message.accepted', source: source.id, actor: source.id, authentication: scheme },
    })
    await relay.check()
  })

  test('refuses anything else, says nothing of why, and keeps nothing of it', async () => {
    const headers = await sign(payload)
    const before = await accepted()
    const [name = '', value = ''] = Object.entries(headers).at(-1) ?? []
    const refused = [
      ...(scheme === 'basic' ? [] : [await post(source.id, payload.replace('100', '101'), headers)]),
      await post(source.id, payload, {}),
      await post(source.id, payload, { ...headers, [name]: value.slice(0, -4) }),
      await post(source.id, payload, { ...headers, [name]: '' }),
      await post(source.id, 'no json, and nobody looks', {}),
    ]
    for (const answer of refused) {
      expect(answer.body).toEqual({
        ...{ type: 'urn:countersign:problem:unauthenticated', status: 401, code: 'unauthenticated' },
        ...{ title: expect.any(String), request_id: expect.any(String) },
      })
    }
    expect(await accepted()).toEqual(before)
  })

  test('takes no API key, and tells a stranger with one that there is no such source', async () => {
    const { body: made } = await relay.call<{ key: string }>('POST', `/v1/tenants/${tenant.id}/api-keys`, {
      body: { name: 'stray', role: 'ingest', source: source.id },
    })
    const withKey = async (key: string, id = source.id) =>
      unnumbered(await relay.call<{ code: string }>('POST', `/v1/sources/${id}/messages`, { key, body: payload }))
    expect((await withKey(made.key)).code).toBe('unauthenticated')
    expect((await withKey(tenant.tenantKey)).code).toBe('forbidden')
    expect(await withKey(rival.tenantKey)).toEqual(await withKey(rival.tenantKey, `src_${'7'.repeat(26)}`))
    expect(await withKey(rival.ingestKey)).toMatchObject({ code: 'not_found' })
  })

  test('never shows its secrets again', async () => {
    const shown = JSON.stringify([
      (await manage('GET', source.id)).body,
      (await relay.call('GET', sources(), { key: tenant.tenantKey })).body,
      (await manage('PATCH', source.id, { name: 'renamed' })).body,
    ])
    expect(shown).not.toContain(secret)
    expect(shown).not.toContain(whsec)
    expect(source.authentication.secret_hints).toEqual([scheme === 'standard-webhooks' ? '…LaSw' : '…hare'])
    const rows = await relay.database.database.query('select * from sources where id = $1', [source.id])
    expect(JSON.stringify(rows)).not.toContain(secret)
    expect(JSON.stringify(rows)).not.toContain(Buffer.from(secret).toString('hex'))
  })

  test('takes nothing while it has no secret, however well it is signed', async () => {
    const { secrets: _, ...bare } = authentication as { secrets: string[] }
    const unconfigured = await make({ authentication: bare })
    expect((await post(unconfigured.id, payload, await sign(payload))).body.code).toBe('source_unconfigured')
    await manage('PATCH', unconfigured.id, { authentication })
    expect((await post(unconfigured.id, payload, await sign(payload))).status).toBe(202)
  })
})

describe('a request signed once and posted twice', () => {
  test('is one message, whichever process it reaches', async () => {
    const { id } = await make({ authentication: vendors.slack?.authentication })
    const headers = signSlack(payload)
    const first = await post(id, payload, headers)
    const second = await TestRelay.start({}, relay)
    try {
      const again = await post(id, payload, { ...headers, 'idempotency-key': 'another' }, second)
      expect([again.status, replayed(again), again.body.message]).toEqual([202, 'true', first.body.message])
    } finally {
      await second.close()
    }
    await relay.restart()
    expect((await post(id, payload, headers)).body.message).toBe(first.body.message)
    await relay.check()
  })

  test('is one message in a burst', async () => {
    const { id } = await make({ authentication: vendors.stripe?.authentication })
    const headers = (await vendors.stripe?.sign(payload)) ?? {}
    const answers = await Promise.all(Array.from({ length: 20 }, () => post(id, payload, headers)))
    expect(new Set(answers.map(({ body }) => body.message)).size).toBe(1)
    expect(answers.filter((answer) => replayed(answer) === null)).toHaveLength(1)
  })

  test('is refused once its time is outside the window, which the source may set', async () => {
    const usual = await make({ authentication: vendors.slack?.authentication })
    const narrow = await make({ authentication: vendors.slack?.authentication, replay_window_s: 10 })
    const codeAt = async (id: string, at: number) => (await post(id, payload, signSlack(payload, second(at)))).body.code
    expect(await codeAt(usual.id, -299)).toBeUndefined()
    expect(await codeAt(usual.id, 299)).toBeUndefined()
    expect(await codeAt(usual.id, -301)).toBe('unauthenticated')
    expect(await codeAt(usual.id, 302)).toBe('unauthenticated')
    expect(await codeAt(narrow.id, -9)).toBeUndefined()
    expect(await codeAt(narrow.id, -12)).toBe('unauthenticated')
  })

  test('under a signed id is the vendor’s retry; another payload under it is refused', async () => {
    const { id } = await make({ authentication: vendors['standard-webhooks']?.authentication })
    const signed = (body: string, offset: number) => {
      const at = new Date(second(offset) * 1000)
      const signature = new StandardWebhook(whsec).sign('msg_retried', at, body)
      const timestamp = String(second(offset))
      return { 'webhook-id': 'msg_retried', 'webhook-timestamp': timestamp, 'webhook-signature': signature }
    }
    const first = await post(id, payload, signed(payload, -5))
    const retry = await post(id, payload, signed(payload, 0))
    expect([replayed(retry), retry.body.message]).toEqual(['true', first.body.message])
    const other = await post(id, '{"id":"evt_2"}', signed('{"id":"evt_2"}', 0))
    expect(other.body.code).toBe('idempotency_key_reused')
  })
})

describe('what names a post that nothing signed names', () => {
  test('is the provider’s own header, so that GitHub’s redelivery is the same message', async () => {
    const { id } = await make({ authentication: vendors.github?.authentication })
    const headers = { 'x-hub-signature-256': await signGithub(secret, payload), 'x-github-delivery': 'a-guid' }
    const first = await post(id, payload, headers)
    const again = await post(id, payload, headers)
    expect([replayed(again), again.body.message]).toEqual(['true', first.body.message])
    const another = await post(id, payload, { ...headers, 'x-github-delivery': 'another-guid' })
    expect(another.body.message).not.toBe(first.body.message)
  })

  test('is the header that the tenant chose', async () => {
    const { id } = await make({ idempotency_header: 'X-Event', authentication: vendors.basic?.authentication })
    const headers = { authorization: basic('vendor', secret), 'x-event': 'e1' }
    const first = await post(id, payload, headers)
    expect((await post(id, payload, headers)).body.message).toBe(first.body.message)
    await manage('PATCH', id, { idempotency_header: null })
    expect((await post(id, payload, headers)).body.message).not.toBe(first.body.message)
  })
})

describe('secrets are rotated', () => {
  test('with the one before it for as long as wanted', async () => {
    const { id } = await make({ authentication: vendors.shopify?.authentication })
    const posted = async (key: string) => {
      const signature = createHmac('sha256', key).update(payload).digest('base64')
      return (await post(id, payload, { 'x-shopify-hmac-sha256': signature })).status
    }
    const renewed = 'the renewed secret of it'
    const added = await manage('PATCH', id, { authentication: { scheme: 'shopify', add_secret: renewed } })
    expect(added.body.authentication.secret_hints).toEqual(['…f it', '…hare'])
    expect([await posted(renewed), await posted(secret)]).toEqual([202, 202])
    await manage('PATCH', id, { authentication: { scheme: 'shopify', add_secret: 'the third one of them' } })
    expect([await posted('the third one of them'), await posted(renewed), await posted(secret)]).toEqual([
      202, 202, 401,
    ])
    await manage('PATCH', id, { authentication: { scheme: 'shopify', secrets: [renewed] } })
    expect([await posted('the third one of them'), await posted(renewed)]).toEqual([401, 202])
  })

  test('without saying again how they are used', async () => {
    const { id } = await make({ authentication: vendors.hmac?.authentication })
    const added = await manage('PATCH', id, {
      authentication: { scheme: 'hmac', add_secret: 'the renewed secret of it' },
    })
    expect(added.body.authentication).toMatchObject({ header: 'x-signature', template: '{timestamp}.{body}' })
    expect((await post(id, payload, (await vendors.hmac?.sign(payload)) ?? {})).status).toBe(202)
  })

  test('and are not those of another scheme: changing it asks for new ones', async () => {
    const { id } = await make({ authentication: vendors.shopify?.authentication })
    await manage('PATCH', id, { authentication: { scheme: 'github' } })
    const headers = { 'x-hub-signature-256': await signGithub(secret, payload) }
    expect((await post(id, payload, headers)).body.code).toBe('source_unconfigured')
    await manage('PATCH', id, { authentication: { scheme: 'api_key' } })
    expect((await post(id, payload, headers)).body.code).toBe('unauthenticated')
  })
})

describe('an ingest URL', () => {
  const makeUrl = async (id: string) => {
    const { status, body } = await manage('POST', `${id}/urls`)
    return { status, id: body.id, url: (body as unknown as { url?: string }).url ?? '' }
  }
  const pathOf = (url: string) => new URL(url).pathname

  test('is enough for the scheme url, is shown once, and stops when it is revoked', async () => {
    const { id } = await make({ authentication: { scheme: 'url' } })
    expect((await post(id, payload, {})).body.code).toBe('unauthenticated')
    const first = await makeUrl(id)
    expect(first.url).toMatch(/^http:\/\/relay\.test\/in\/[A-Za-z0-9]{43}$/)
    const answer = await post(pathOf(first.url), payload, {})
    expect(statementOf(answer.body)).toMatchObject({ source: id, actor: id, authentication: 'url' })

    const second = await makeUrl(id)
    expect((await makeUrl(id)).status).toBe(400)
    const listed = (await manage('GET', `${id}/urls`)).body
    expect(listed).toMatchObject({ data: [{ id: first.id }, { id: second.id }] })
    expect(JSON.stringify(listed)).not.toContain('/in/')
    expect((await manage('DELETE', `${id}/urls/${first.id}`)).status).toBe(204)
    expect((await post(pathOf(first.url), payload, {})).body.code).toBe('unauthenticated')
    expect((await post(pathOf(second.url), payload, {})).status).toBe(202)
    const rows = await relay.database.database.query('select * from ingest_urls where source_id = $1', [id])
    expect(JSON.stringify(rows)).not.toContain(pathOf(second.url).slice('/in/'.length))
  })

  test('replaces no scheme: the signature, or the API key, is asked for all the same', async () => {
    const signed = await make({ authentication: vendors.github?.authentication })
    const { url } = await makeUrl(signed.id)
    expect((await post(pathOf(url), payload, {})).body.code).toBe('unauthenticated')
    const headers = { 'x-hub-signature-256': await signGithub(secret, payload) }
    expect((await post(pathOf(url), payload, headers)).status).toBe(202)

    const keyed = await makeUrl(tenant.source)
    expect((await post(pathOf(keyed.url), payload, {})).body.code).toBe('unauthenticated')
    const authorization = `Bearer ${tenant.ingestKey}`
    expect((await post(pathOf(keyed.url), payload, { authorization })).status).toBe(202)
  })

  test('that never was answers as one that was revoked', async () => {
    const { id } = await make({ authentication: { scheme: 'url' } })
    const { url, id: urlId } = await makeUrl(id)
    await manage('DELETE', `${id}/urls/${urlId}`)
    const [revoked, never] = [await post(pathOf(url), payload, {}), await post('/in/never', payload, {})]
    expect(unnumbered(revoked)).toEqual(unnumbered(never))
  })
})

describe('an allow-list', () => {
  test.each([
    [['127.0.0.0/8'], 202],
    [['::ffff:127.0.0.1/128', '10.0.0.0/8'], 202],
    [['10.0.0.0/8', '::1/128'], 401],
  ])('of %s answers %i to 127.0.0.1', async (allow, status) => {
    const { id } = await make({ allow, authentication: vendors.basic?.authentication })
    expect((await post(id, payload, { authorization: basic('vendor', secret) })).status).toBe(status)
    const keyed = await make({ allow })
    const wish = { name: 'vendor', role: 'ingest', source: keyed.id }
    const { key } = await relay.make<{ key: string }>(`/v1/tenants/${tenant.id}/api-keys`, wish)
    expect((await post(keyed.id, payload, { authorization: `Bearer ${key}` })).status).toBe(status)
  })
})

test('the operator sees why posts were refused; their senders do not', async () => {
  const { id: elsewhere } = await make({ allow: ['192.0.2.0/24'], authentication: vendors.slack?.authentication })
  const { id } = await make({ authentication: vendors.slack?.authentication })
  await post(elsewhere, payload, signSlack(payload))
  await post(id, payload, {})
  await post(id, payload, signSlack('other bytes'))
  await post(id, payload, signSlack(payload, second(-999)))
  const { body: metrics } = await relay.call<string>('GET', '/metrics')
  for (const reason of ['address', 'unsigned', 'mismatch', 'outside_window']) {
    expect(metrics).toContain(`countersign_posts_refused_total{scheme="slack",reason="${reason}"}`)
  }
})

/** However busy the machine is. */
const patience = { timeout: 30_000 }

test('strangers who never finish a body hold up no other source, and are forgotten when they go', async () => {
  const besieged = await make({ authentication: vendors.github?.authentication })
  const other = await make({ authentication: vendors.github?.authentication })
  const headers = { 'x-hub-signature-256': await signGithub(secret, payload) }
  const head = `POST /v1/sources/${besieged.id}/messages HTTP/1.1\r\nhost: relay.test\r\ncontent-length: 9\r\n\r\n`
  const port = Number(new URL(relay.url).port)
  const sockets = Array.from({ length: 256 }, () => connect({ host: '127.0.0.1', port }).on('error', () => {}))
  for (const socket of sockets) socket.write(head)
  const vendor = () => post(besieged.id, payload, headers)
  await expect.poll(async () => (await vendor()).body.code, patience).toBe('overloaded')
  expect((await post(other.id, payload, headers)).status).toBe(202)
  for (const socket of sockets) socket.destroy()
  await expect.poll(async () => (await vendor()).status, patience).toBe(202)
})

describe('a rate limit', () => {
  test('answers 429 with Retry-After once the burst is used up, and lets time fill it', async () => {
    const rate_limit = { per_second: 0.5, burst: 2 }
    const { id } = await make({ rate_limit, authentication: vendors.basic?.authentication })
    const vendor = () => post(id, payload, { authorization: basic('vendor', secret) })
    expect([(await vendor()).status, (await vendor()).status]).toEqual([202, 202])
    const limited = await vendor()
    expect([limited.body.code, limited.headers.get('retry-after')]).toEqual(['rate_limited', '2'])
    relay.clock.advance(2000)
    expect([(await vendor()).status, (await vendor()).status]).toEqual([202, 429])
  })

  test('is not used up by who is not authenticated', async () => {
    const rate_limit = { per_second: 0.001, burst: 1 }
    const { id } = await make({ rate_limit, authentication: vendors.basic?.authentication })
    for (let i = 0; i < 5; i++) expect((await post(id, payload, {})).status).toBe(401)
    expect((await post(id, payload, { authorization: basic('vendor', secret) })).status).toBe(202)
  })
})

test('a header that decides and comes twice is refused, though each alone would pass', async () => {
  const { id } = await make({ authentication: vendors.github?.authentication })
  const signature = await signGithub(secret, payload)
  const ask = (times: number) =>
    speak(
      relay.url,
      [
        `POST /v1/sources/${id}/messages HTTP/1.1`,
        'host: relay.test',
        'connection: close',
        'content-type: application/json',
        `content-length: ${payload.length}`,
        ...Array.from({ length: times }, () => `x-hub-signature-256: ${signature}`),
        '',
        payload,
      ].join('\r\n'),
    )
  expect(await ask(1)).toMatch(/^HTTP\/1\.1 202 /)
  expect(await ask(2)).toMatch(/^HTTP\/1\.1 401 /)
})

test('who a scheme vouches for is stated as the caller, and who it does not as a stranger', async () => {
  const { id } = await make({ authentication: vendors.slack?.authentication })
  const callOf = async (answer: Answer<unknown>, whose: { id: string } | null) => {
    const items = await relay.readAudit(whose)
    return items.map(({ statement }) => statement).filter(({ sub }) => sub === answer.headers.get('x-request-id'))
  }
  const broken = '{"a":1,"a":2}'
  const refused = await post(id, broken, signSlack(broken))
  const called = { kind: 'api.called', actor: id, tenant: tenant.id, status: 422, code: 'payload_duplicate_name' }
  expect(await callOf(refused, tenant)).toMatchObject([called])
  relay.clock.advance(3_600_000) // whatever was refused before no longer counts
  expect(await callOf(await post(id, '{}', {}), null)).toMatchObject([{ kind: 'api.refused', code: 'unauthenticated' }])
  const taken = await post(id, '{}', signSlack('{}'))
  expect(statementOf(taken.body).request).toEqual({ id: taken.headers.get('x-request-id'), address: '127.0.0.1' })
  expect(await callOf(taken, tenant)).toEqual([])
})

test('Slack’s question whether we are the ones is answered, signed and never otherwise, and forwarded to nobody', async () => {
  const { id } = await make({ authentication: vendors.slack?.authentication })
  const question = JSON.stringify({ type: 'url_verification', token: 'x', challenge: '3eZbrw1aBm2rZgRNFdxV2595E9CY' })
  const before = await accepted()
  const asked = await post(id, question, signSlack(question))
  expect([asked.status, asked.body]).toEqual([200, '3eZbrw1aBm2rZgRNFdxV2595E9CY'])
  expect((await post(id, question, {})).status).toBe(401)
  expect(await accepted()).toEqual(before)
})

describe('settings that cannot be', () => {
  const hmac = { scheme: 'hmac', header: 'x-sig', algorithm: 'sha256', encoding: 'hex' }
  test.each<[string, object, string?]>([
    ['a scheme that there is not', { authentication: { scheme: 'none' } }, '/authentication/scheme'],
    ['secrets for API keys', { authentication: { scheme: 'api_key', secrets: [secret] } }, '/authentication'],
    ['a short secret', { authentication: { scheme: 'github', secrets: ['short'] } }, '/authentication/secrets/0'],
    ['three secrets', { authentication: { scheme: 'github', secrets: [secret, `${secret}2`, `${secret}3`] } }],
    ['one secret twice', { authentication: { scheme: 'github', secrets: [secret, secret] } }, '/authentication'],
    ['no base64', { authentication: { scheme: 'standard-webhooks', secrets: [`${whsec}!`] } }, '/authentication'],
    ['too few bytes', { authentication: { scheme: 'standard-webhooks', secrets: ['whsec_MfKQ9r8GKYqr'] } }],
    ['basic without a user', { authentication: { scheme: 'basic', secrets: [secret] } }, '/authentication/user'],
    ['a user with a colon', { authentication: { scheme: 'basic', user: 'a:b', secrets: [secret] } }],
    ['a header for GitHub', { authentication: { scheme: 'github', header: 'x-sig' } }, '/authentication/header'],
    ['hmac without its header', { authentication: { ...hmac, header: undefined } }, '/authentication/header'],
    ['hmac without its encoding', { authentication: { ...hmac, encoding: undefined } }, '/authentication/encoding'],
    [
      'a template without the body',
      { authentication: { ...hmac, template: 'fixed text' } },
      '/authentication/template',
    ],
    ['a timestamp unread', { authentication: { ...hmac, template: '{timestamp}.{body}' } }, '/authentication/template'],
    [
      'a timestamp run into the body',
      { authentication: { ...hmac, timestamp_header: 'x-time', template: '{timestamp}{body}' } },
      '/authentication/template',
    ],
    ['a CIDR that is none', { allow: ['10.0.0.0/8', '10.0.0.1'] }, '/allow/1'],
    ['a prefix too long', { allow: ['10.0.0.0/33'] }, '/allow/0'],
    ['a window of nothing', { replay_window_s: 0 }, '/replay_window_s'],
    ['a rate of nothing', { rate_limit: { per_second: 0, burst: 1 } }],
    ['a canonicalization of our own', { canonicalization: 'sorted' }, '/canonicalization'],
    ['a header name with a space', { idempotency_header: 'x event' }],
  ])('%s', async (_what, wish, pointer) => {
    const answer = await relay.call('POST', sources(), { key: tenant.tenantKey, body: { name: 'x', ...wish } })
    expect(answer.body).toMatchObject({ code: 'request_invalid', ...(pointer && { pointer }) })
  })
})

test('a deleted source is gone with its keys, URLs and secrets; what it took stays readable', async () => {
  const { id } = await make({ authentication: vendors.github?.authentication })
  const { body: made } = await manage('POST', `${id}/urls`)
  const { url } = made as unknown as { url: string }
  const headers = { 'x-hub-signature-256': await signGithub(secret, payload) }
  const { body: receipt } = await post(id, payload, headers)
  expect((await manage('DELETE', id)).status).toBe(204)
  expect((await manage('GET', id)).status).toBe(404)
  expect((await manage('DELETE', id)).status).toBe(404)
  expect((await post(id, payload, headers)).body.code).toBe('unauthenticated')
  expect((await post(new URL(url).pathname, payload, headers)).body.code).toBe('unauthenticated')
  const rows = await relay.database.database.query('select secrets from sources where id = $1', [id])
  expect(rows).toEqual([{ secrets: null }])
  const message = await relay.call('GET', `/v1/messages/${receipt.message}`, { key: tenant.tenantKey })
  expect(message.body).toMatchObject({ source: id, payload: { id: 'evt_1' } })
  await relay.check()
})

test('a change in one process counts in another within a second', async () => {
  const { id } = await make({ authentication: vendors.basic?.authentication })
  const other = await TestRelay.start({}, relay)
  try {
    const vendor = () => post(id, payload, { authorization: basic('vendor', secret) }, other)
    expect((await vendor()).status).toBe(202)
    const authentication = { scheme: 'basic', user: 'vendor', secrets: ['another long password'] }
    await manage('PATCH', id, { authentication })
    relay.clock.advance(1000)
    expect((await vendor()).status).toBe(401)
  } finally {
    await other.close()
  }
})

test('what a scheme let in reaches the receiver like anything else', async () => {
  const receiver = await Receiver.start()
  try {
    await relay.makeEndpoint(tenant, receiver.url)
    const { id } = await make({ authentication: vendors.stripe?.authentication })
    const { body } = await post(id, payload, (await vendors.stripe?.sign(payload)) ?? {})
    await receiver.until((arrived) => arrived.some(({ headers }) => headers['webhook-id'] === body.message))
    expect(receiver.arrived.at(-1)?.headers).not.toHaveProperty('stripe-signature')
  } finally {
    await receiver.stop()
  }
})
