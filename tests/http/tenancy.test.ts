/**
 * Who may do what, as one table, walked twice: by each role in its own tenant, and by strangers in somebody else's. To
 * a stranger, what exists and what never existed answer alike, down to the headers.
 */
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { makeExport } from '../support/export.ts'
import { Receiver } from '../support/receiver.ts'
import { adminKey, TestRelay, type TestTenant } from '../support/relay.ts'

const rights = `
  POST   /v1/tenants                               admin
  GET    /v1/tenants                               admin
  GET    /v1/tenants/{tenant}                      admin tenant
  PATCH  /v1/tenants/{tenant}                      admin
  DELETE /v1/tenants/{tenant}                      admin
  POST   /v1/tenants/{tenant}/sources              admin tenant
  GET    /v1/tenants/{tenant}/sources              admin tenant
  GET    /v1/tenants/{tenant}/sources/{source}     admin tenant
  PATCH  /v1/tenants/{tenant}/sources/{source}     admin tenant
  DELETE /v1/tenants/{tenant}/sources/{source}     admin tenant
  POST   /v1/tenants/{tenant}/sources/{source}/urls admin tenant
  GET    /v1/tenants/{tenant}/sources/{source}/urls admin tenant
  DELETE /v1/tenants/{tenant}/sources/{source}/urls/{url} admin tenant
  POST   /v1/tenants/{tenant}/endpoints            admin tenant
  GET    /v1/tenants/{tenant}/endpoints            admin tenant
  GET    /v1/tenants/{tenant}/endpoints/{endpoint} admin tenant
  PATCH  /v1/tenants/{tenant}/endpoints/{endpoint} admin tenant
  DELETE /v1/tenants/{tenant}/endpoints/{endpoint} admin tenant
  POST   /v1/tenants/{tenant}/endpoints/{endpoint}/pause admin tenant
  POST   /v1/tenants/{tenant}/endpoints/{endpoint}/resume admin tenant
  POST   /v1/tenants/{tenant}/endpoints/{endpoint}/test admin tenant
  POST   /v1/tenants/{tenant}/endpoints/{endpoint}/secret/rotate admin tenant
  POST   /v1/tenants/{tenant}/api-keys             admin tenant
  GET    /v1/tenants/{tenant}/api-keys             admin tenant
  DELETE /v1/tenants/{tenant}/api-keys/{key}       admin tenant
  POST   /v1/tenants/{tenant}/exports              admin tenant export
  GET    /v1/tenants/{tenant}/exports              admin tenant export
  GET    /v1/tenants/{tenant}/exports/{export}     admin tenant export
  GET    /v1/tenants/{tenant}/exports/{export}/file admin tenant export
  DELETE /v1/tenants/{tenant}/exports/{export}     admin tenant export
  POST   /v1/sources/{source}/messages             ingest
  POST   /in/{token}                               ingest
  GET    /v1/messages/{message}                    admin tenant
  GET    /v1/messages/{message}/receipt            admin tenant
  GET    /v1/messages/{message}/deliveries         admin tenant
  GET    /v1/deliveries                           admin tenant
  GET    /v1/deliveries/{delivery}                admin tenant
  POST   /v1/deliveries/{delivery}/redeliver      admin tenant
  POST   /v1/tenants/{tenant}/replays             admin tenant
  GET    /v1/tenants/{tenant}/replays/{replay}    admin tenant
  DELETE /v1/tenants/{tenant}/replays/{replay}    admin tenant
  GET    /v1/statements/{index}/receipt            admin tenant
  GET    /v1/tenants/{tenant}/audit                admin tenant export
  GET    /v1/audit                                 admin
  GET    /metrics                                  admin
  POST   /v1/verify                                everyone
  GET    /v1/retention                             everyone
  GET    /v1/keys                                  everyone
  GET    /v1/keys/plan                             admin
  POST   /v1/keys/rotate                           admin
  POST   /v1/keys/{kid}/revoke                     admin
  GET    /.well-known/jwks.json                    everyone
  GET    /.well-known/http-message-signatures-directory everyone
  GET    /v1/log/inclusion                         everyone
  GET    /v1/log/consistency                       everyone
  GET    /log/checkpoint                           everyone
  GET    /log/vkey                                 everyone
  GET    /log/tile/{path}                          everyone
  GET    /healthz                                  everyone
  GET    /readyz                                   everyone
  GET    /openapi.json                             everyone
`
const routes = rights
  .trim()
  .split('\n')
  .map((line) => {
    const [method = '', path = '', ...who] = line.trim().split(/ +/)
    return { method, path, who, name: `${method} ${path}` }
  })

/** What fills the braces of a path, and the bodies that name something. */
type Name =
  | 'tenant'
  | 'source'
  | 'url'
  | 'token'
  | 'endpoint'
  | 'export'
  | 'key'
  | 'message'
  | 'delivery'
  | 'replay'
  | 'index'
  | 'kid'
  | 'path'
type Names = Record<Name, string>

const bodies: Record<string, (names: Names) => object> = {
  'POST /v1/tenants': () => ({ name: 'another', tier: 'standard' }),
  'PATCH /v1/tenants/{tenant}': () => ({ retention: { payload_days: 60 } }),
  'POST /v1/tenants/{tenant}/sources': () => ({ name: 'another' }),
  'PATCH /v1/tenants/{tenant}/sources/{source}': () => ({ name: 'renamed' }),
  'POST /in/{token}': () => ({ posted: true }),
  'POST /v1/tenants/{tenant}/endpoints': () => ({ url: receiver.url }),
  'PATCH /v1/tenants/{tenant}/endpoints/{endpoint}': () => ({ name: 'renamed' }),
  'POST /v1/tenants/{tenant}/endpoints/{endpoint}/pause': () => ({ reason: 'maintenance' }),
  'POST /v1/tenants/{tenant}/api-keys': ({ source }) => ({ name: 'another', role: 'ingest', source }),
  'POST /v1/tenants/{tenant}/exports': () => ({}),
  'POST /v1/sources/{source}/messages': () => ({ posted: true }),
  'POST /v1/tenants/{tenant}/replays': replayWish,
  'POST /v1/verify': () => ({ receipt: {} }),
  'POST /v1/keys/rotate': () => ({ purpose: 'payload' }),
  'POST /v1/keys/{kid}/revoke': () => ({ reason: 'lost', from: relay.clock.now().toISOString() }),
}

/** What a path that asks a question needs beside it. */
const queries: Record<string, string> = {
  '/v1/deliveries': '/v1/deliveries?tenant={tenant}&endpoint={endpoint}&state=delivered',
  '/v1/log/inclusion': '/v1/log/inclusion?index=0',
  '/v1/log/consistency': '/v1/log/consistency?from=1',
}

interface Furnished extends TestTenant {
  readonly names: Names
  readonly exportKey: string
  readonly revokedKey: string
}

let relay: TestRelay
let receiver: Receiver
let acme: Furnished
let rival: Furnished

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  acme = await furnish('Acme')
  rival = await furnish('Rival')
})

afterAll(async () => {
  await relay?.stop()
  await receiver?.stop()
})

test('every route of the relay has a line in the table of rights', async () => {
  const { body } = await relay.call<{ paths: Record<string, object> }>('GET', '/openapi.json', { key: null })
  const documented = Object.entries(body.paths).flatMap(([path, operations]) =>
    Object.keys(operations).map((method) => `${method.toUpperCase()} ${path}`),
  )
  expect(documented.sort()).toEqual(routes.map(({ name }) => name).sort())
})

for (const route of routes) {
  test(`${route.name} is for ${route.who.join(' and ')}, in their own tenant`, async () => {
    const { tenantKey, ingestKey, exportKey } = acme
    const keys = { admin: adminKey, tenant: tenantKey, ingest: ingestKey, export: exportKey, nobody: null }
    for (const [role, key] of Object.entries(keys)) {
      const { status } = await ask(route, await freshNames(acme, route), key)
      const allowed = route.who.includes(role) || route.who.includes('everyone')
      if (allowed) expect(status, role).toBeLessThan(300)
      else expect(status, role).toBe(key === null ? 401 : 403)
    }
  })
}

test('to a stranger, what is another tenant’s and what never was answer alike', async () => {
  const strangers = {
    tenant: rival.tenantKey,
    ingest: rival.ingestKey,
    export: rival.exportKey,
    nobody: null,
    revoked: acme.revokedKey,
    unknown: `cs_${'0'.repeat(26)}_${'A'.repeat(43)}`,
  }
  const never = Object.fromEntries(Object.keys(acme.names).map((name) => [name, neverMade(name)])) as Names
  for (const route of routes.filter(({ path }) => /\{(?!path)/.test(queries[path] ?? path))) {
    for (const [who, key] of Object.entries(strangers)) {
      const seen = await ask(route, acme.names, key)
      expect(seen.status, `${who}: ${route.name}`).toBeGreaterThanOrEqual(401)
      expect(seen, `${who}: ${route.name}`).toEqual(await ask(route, never, key))
      if (route.method === 'GET') {
        const head = { ...route, method: 'HEAD' }
        expect(await ask(head, acme.names, key), `${who}: HEAD`).toEqual(await ask(head, never, key))
      }
      if (namesMoreThanItsTenant(route)) {
        const smuggled = await ask(route, { ...acme.names, tenant: rival.id }, key)
        expect(smuggled, `${who}: ${route.name}`).toEqual(await ask(route, { ...never, tenant: rival.id }, key))
      }
    }
  }
})

test('no answer to a stranger holds an id, a name, a URL or a word of the payload', async () => {
  const { body } = await relay.call<{ data: { id: string }[] }>('GET', `/v1/messages/${acme.names.message}/deliveries`)
  const deliveries = body.data.map(({ id }) => id)
  expect(deliveries).toContain(acme.names.delivery)
  const { path: _, kid: __, index: ___, ...ids } = acme.names
  const secrets = [...Object.values(ids), ...deliveries, 'Acme', 'hook-of-acme', 'payload of acme']
  for (const key of [rival.tenantKey, rival.ingestKey, rival.exportKey, acme.revokedKey, null]) {
    for (const route of routes) {
      for (const names of [acme.names, { ...acme.names, tenant: rival.id }, await freshNames(rival, route)]) {
        const { text } = await ask(route, names, key)
        for (const secret of secrets) expect(text, `${route.name} with ${key}`).not.toContain(secret)
      }
    }
  }
})

test('a key that is missing, malformed, unknown, revoked or of another secret gets the very same answer', async () => {
  const [, id] = acme.tenantKey.split('_')
  const answers = await Promise.all(
    [
      undefined,
      '',
      'Bearer',
      'Bearer ',
      'Bearer nonsense',
      `Basic ${acme.tenantKey}`,
      acme.tenantKey,
      `Bearer ${acme.tenantKey}.`,
      `Bearer ${acme.tenantKey} ${acme.tenantKey}`,
      `Bearer ${acme.tenantKey.slice(0, -1)}`,
      `Bearer cs_${id}_${'A'.repeat(43)}`,
      `Bearer cs_${'0'.repeat(26)}_${'A'.repeat(43)}`,
      `Bearer ${acme.revokedKey}`,
    ].map(async (authorization) => {
      const headers = authorization === undefined ? {} : { authorization }
      return readAnswer(await fetch(`${relay.url}/v1/tenants/${acme.id}`, { headers }))
    }),
  )
  expect(answers[0]).toMatchObject({ status: 401, headers: { 'www-authenticate': 'Bearer realm="countersign"' } })
  expect(JSON.parse(answers[0]?.text ?? '')).toMatchObject({ code: 'unauthenticated' })
  for (const answer of answers) expect(answer).toEqual(answers[0])
})

test('a revoked key stops working at once in the process that revoked it', async () => {
  const { id, key } = await makeKey(acme.id, { name: 'leaver', role: 'tenant' })
  const read = () => relay.call('GET', `/v1/tenants/${acme.id}`, { key })
  expect((await read()).status).toBe(200)
  await relay.call('DELETE', `/v1/tenants/${acme.id}/api-keys/${id}`)
  expect((await read()).status).toBe(401)
})

test('a key revoked in one process stops working in another within a second', async () => {
  const second = await TestRelay.start({}, relay)
  try {
    const { id, key } = await makeKey(acme.id, { name: 'leaver', role: 'tenant' })
    const read = () => second.call('GET', `/v1/tenants/${acme.id}`, { key })
    expect((await read()).status).toBe(200)
    await relay.call('DELETE', `/v1/tenants/${acme.id}/api-keys/${id}`)
    relay.clock.advance(1000) // both processes read this clock
    expect((await read()).status).toBe(401)
  } finally {
    await second.close()
  }
})

test('a key cannot be made for another tenant’s source, nor for the deployment', async () => {
  const make = (body: object) => relay.call('POST', `/v1/tenants/${rival.id}/api-keys`, { key: rival.tenantKey, body })
  expect((await make({ name: 'x', role: 'ingest', source: acme.source })).body).toMatchObject({ code: 'not_found' })
  expect((await make({ name: 'x', role: 'admin' })).body).toMatchObject({ code: 'request_invalid' })
  expect((await make({ name: 'x', role: 'ingest' })).body).toMatchObject({ code: 'request_invalid' })
  expect((await make({ name: 'x', role: 'tenant', source: rival.source })).body).toMatchObject({
    code: 'request_invalid',
  })
})

test('an ingest key posts to its own source and to no other of its tenant', async () => {
  const { id: other } = await relay.make(`/v1/tenants/${acme.id}/sources`, { name: 'returns' })
  const answer = await relay.call('POST', `/v1/sources/${other}/messages`, { key: acme.ingestKey, body: {} })
  expect(answer.body).toMatchObject({ status: 403, code: 'forbidden' })
})

/** A tenant with one of everything, and a message that was delivered. */
async function furnish(name: string): Promise<Furnished> {
  const tenant = await relay.makeTenant(name)
  const word = name.toLowerCase()
  const { id: endpoint } = await relay.make(`/v1/tenants/${tenant.id}/endpoints`, { url: `${receiver.url}-of-${word}` })
  const { body } = await relay.post(tenant, { text: `payload of ${word}` })
  const made = await makeKey(tenant.id, { name: `${name} export`, role: 'export' })
  const revoked = await makeKey(tenant.id, { name: `${name} leaver`, role: 'tenant' })
  await relay.call('DELETE', `/v1/tenants/${tenant.id}/api-keys/${revoked.id}`)
  const { source } = tenant
  const { id: url, url: href } = await makeUrl(tenant.id, source)
  const token = href.split('/').at(-1) ?? ''
  const { id: finished } = await makeExport(relay, tenant.id)
  const delivery = await deliveryOf(body.message)
  const replay = await makeReplay({ tenant: tenant.id, endpoint })
  const names = {
    tenant: tenant.id,
    source,
    url,
    token,
    endpoint,
    export: finished,
    key: made.id,
    message: body.message,
    delivery,
    replay,
  }
  const { index } = (await relay.readAudit(tenant, { kind: 'message.accepted' }))[0] ?? {}
  const kid = await publishedKid()
  return {
    ...tenant,
    names: { ...names, index: String(index), kid, path: 'entries/000.p/1' },
    exportKey: made.key,
    revokedKey: revoked.key,
  }
}

function replayWish({ endpoint }: Pick<Names, 'endpoint'>) {
  return { endpoint, from: '2026-01-01T00:00:00Z', to: '2027-01-01T00:00:00Z' }
}

async function makeReplay({ tenant, endpoint }: Pick<Names, 'tenant' | 'endpoint'>): Promise<string> {
  const path = `/v1/tenants/${tenant}/replays`
  const { body } = await relay.call<{ id: string }>('POST', path, { body: replayWish({ endpoint }) })
  return body.id
}

/** The one delivery of a message, once it is made. */
async function deliveryOf(message: string): Promise<string> {
  return vi.waitFor(async () => {
    const path = `/v1/messages/${message}/deliveries`
    const { body } = await relay.call<{ data: { id: string; state: string }[] }>('GET', path)
    const [delivery] = body.data
    if (delivery?.state !== 'delivered') throw new Error(`${message} is not delivered yet`)
    return delivery.id
  })
}

const makeKey = (tenant: string, wish: object) =>
  relay.make<{ id: string; key: string }>(`/v1/tenants/${tenant}/api-keys`, wish)

const makeUrl = (tenant: string, source: string) =>
  relay.make<{ id: string; url: string }>(`/v1/tenants/${tenant}/sources/${source}/urls`, undefined)

async function publishedKid(): Promise<string> {
  const { body } = await relay.call<{ keys: { kid: string }[] }>('GET', '/.well-known/jwks.json', { key: null })
  return body.keys.at(-1)?.kid ?? ''
}

/** The tenant's names, with a source, an endpoint or a key that may be lost, or another tenant altogether. */
async function freshNames({ id, names }: Furnished, { method, path }: (typeof routes)[0]): Promise<Names> {
  if (method === 'DELETE' && path.endsWith('{tenant}')) return { ...names, tenant: (await relay.makeTenant()).id }
  if (path.includes('{endpoint}')) {
    const wish = { url: receiver.url, signatures: { hmac: true } }
    const { id: endpoint } = await relay.make(`/v1/tenants/${id}/endpoints`, wish)
    return { ...names, endpoint }
  }
  if (path.includes('{export}')) return { ...names, export: (await makeExport(relay, id)).id }
  if (path.includes('/sources/{source}') && path.includes('{tenant}')) {
    const { id: source } = await relay.make(`/v1/tenants/${id}/sources`, { name: 'spare' })
    return { ...names, source, url: (await makeUrl(id, source)).id }
  }
  if (path.includes('{kid}')) return { ...names, kid: await publishedKid() }
  if (path.includes('{key}')) return { ...names, key: (await makeKey(id, { name: 'spare', role: 'export' })).id }
  return names
}

const prefixes: Record<string, string> = {
  tenant: 'ten',
  source: 'src',
  url: 'url',
  endpoint: 'ep',
  key: 'key',
  message: 'msg',
  export: 'exp',
  delivery: 'dlv',
  replay: 'rpl',
}
const neverMade = (name: string): string => `${prefixes[name] ?? name}_${'7'.repeat(26)}`

/** A path or a body that could carry another tenant's thing into one's own. */
const namesMoreThanItsTenant = ({ name }: { name: string }): boolean =>
  /\{tenant\}.*\{/.test(name) || name === 'POST /v1/tenants/{tenant}/api-keys'

async function ask({ method, path }: { method: string; path: string }, names: Names, key: string | null) {
  const body = bodies[`${method} ${path}`]?.(names)
  const url = relay.url + (queries[path] ?? path).replace(/\{(\w+)\}/g, (_, name: keyof Names) => names[name])
  const headers = {
    ...(key !== null && { authorization: `Bearer ${key}` }),
    ...(body !== undefined && { 'content-type': 'application/json' }),
  }
  return readAnswer(await fetch(url, { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) }))
}

/** All that a client can see but the time and the number of its call. */
async function readAnswer(response: Response) {
  const { date: _, 'x-request-id': id = '', ...headers } = Object.fromEntries(response.headers)
  expect(id).toMatch(/^req_/)
  return { status: response.status, headers, text: (await response.text()).replace(id, '') }
}
