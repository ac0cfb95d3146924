/** Reading the audit log: filters, pages that stay where they are, and nobody else's statements. */
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { state } from '../../src/log/statement.ts'
import { sha256 } from '../log/rfc6962.ts'
import { Receiver } from '../support/receiver.ts'
import { type AuditItem, TestRelay, type TestTenant } from '../support/relay.ts'

const hourMs = 3_600_000

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant
let rival: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start({ retrySchedule: [1000] })
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
  rival = await relay.makeTenant('Rival')
})

afterAll(async () => {
  await relay?.check()
  await relay?.stop()
  await receiver?.stop()
})

const page = (query: string, key = tenant.tenantKey, id = tenant.id) =>
  relay.call<{ data: AuditItem[]; next?: string; code?: string }>('GET', `/v1/tenants/${id}/audit?${query}`, { key })
const kindsOf = (items: readonly AuditItem[]) => items.map(({ statement }) => statement.kind)

test('a statement is shown as the bytes whose hash the log has, with its place', async () => {
  const path = `/v1/tenants/${tenant.id}/audit`
  const text = await (
    await fetch(relay.url + path, { headers: { authorization: `Bearer ${tenant.tenantKey}` } })
  ).text()
  const shown = [...text.matchAll(/\{"index":(\d+),"entry":"([\w-]{43})","statement":(\{.*?"v":1\})\}/g)]
  expect(shown.length).toBeGreaterThan(6)
  for (const [, index, entry, statement = ''] of shown) {
    expect(Buffer.from(sha256(Buffer.from(statement))).toString('base64url')).toBe(entry)
    expect(Buffer.from((await relay.relay.entries(0, Number(index) + 1))?.at(-1) ?? []).toString('base64url')).toBe(
      entry,
    )
  }
})

test('the log of a new tenant begins with its creation, oldest first', async () => {
  const items = await relay.readAudit(rival)
  expect(kindsOf(items)).toEqual([
    'tenant.created',
    'source.created',
    'api.called',
    'api_key.created',
    'api.called',
    'api_key.created',
    'api.called',
  ])
  const indices = items.map(({ index }) => index)
  expect(indices).toEqual(indices.toSorted((one, other) => one - other))
})

describe('filters', () => {
  test('by kind and by actor', async () => {
    expect(kindsOf(await relay.readAudit(rival, { kind: 'source.created' }))).toEqual(['source.created'])
    expect(await relay.readAudit(rival, { kind: 'source.deleted' })).toEqual([])
    await page('', rival.tenantKey, rival.id)
    const actor = `key_${rival.tenantKey.split('_')[1]}`
    const acts = await relay.readAudit(rival, { actor })
    expect(acts).toHaveLength(1)
    expect(acts[0]?.statement).toMatchObject({ kind: 'api.called', actor, route: '/v1/tenants/:tenant/audit' })
  })

  test('by time, to the second, also where the clock stood still or went back', async () => {
    const until = async (ms: number, n: number) => {
      relay.clock.advance(ms)
      for (let i = 0; i < n; i++) await relay.post(tenant, { ms, i })
      return Math.floor(relay.clock.now().getTime() / 1000)
    }
    const kind = 'message.accepted'
    const first = await until(48 * hourMs, 3)
    const second = await until(hourMs, 2)
    const stepped = await until(-hourMs / 2, 1)
    const third = await until(48 * hourMs, 4)
    const count = async (from: number, to: number) => {
      const times = { from: new Date(from * 1000).toISOString(), to: new Date(to * 1000).toISOString() }
      const items = await relay.readAudit(tenant, { kind, ...times })
      expect(items.every(({ statement }) => statement.iat >= from && statement.iat < to)).toBe(true)
      return items.length
    }
    expect(await count(first, second + 1)).toBe(6)
    expect(await count(first, second)).toBe(4)
    expect(await count(stepped, third + 1)).toBe(7)
    expect(await count(third, third + 1)).toBe(4)
    expect(await count(third + 1, third + 9)).toBe(0)
    expect(await count(0, first)).toBe(0)
  })

  test('by message: its acceptance, every attempt, and that it was given up', async () => {
    receiver.answer = (_arrived, response) => response.writeHead(500).end()
    await relay.makeEndpoint(tenant, receiver.url)
    await relay.makeEndpoint(tenant, `${receiver.url}-2`)
    const { body } = await relay.post(tenant, { order: 1 })
    const stated = () => relay.readAudit(tenant, { message: body.message })
    await vi.waitUntil(async () => (await stated()).length === 3)
    relay.clock.advance(5000)
    await vi.waitUntil(async () => (await stated()).length === 7, { timeout: 10_000 })
    const items = await stated()
    expect(kindsOf(items).sort()).toEqual([
      ...Array(2).fill('delivery.abandoned'),
      ...Array(4).fill('delivery.attempted'),
      'message.accepted',
    ])
    const others = items.filter(({ statement }) => statement.kind !== 'message.accepted')
    for (const { statement } of others) expect(statement.message).toBe(body.message)
    expect(await relay.readAudit(tenant, { message: body.message, kind: 'delivery.abandoned' })).toHaveLength(2)
    expect(await relay.readAudit(rival, { message: body.message })).toEqual([])
    expect((await page(`message=${body.message}&limit=2`)).body).toMatchObject({ next: String(items[1]?.index) })
  })

  test.each(['from=yesterday', 'limit=0', 'limit=1001', 'after=-2', 'after=x', 'colour=red'])(
    '%s is refused',
    async (query) => {
      expect((await page(query)).body).toMatchObject({ code: 'request_invalid' })
    },
  )
})

test('pages stay as they are while the log grows, and end where it ended', async () => {
  const whole = await relay.readAudit(tenant)
  const paged: AuditItem[] = []
  let pages = 0
  for (let after = ''; ; pages++) {
    const { body } = await page(`limit=7${after && `&after=${after}`}`)
    paged.push(...body.data)
    if (body.next === undefined) break
    expect(body.data).toHaveLength(7)
    expect((await page(`limit=7${after && `&after=${after}`}`)).body.data).toEqual(body.data)
    after = body.next
  }
  expect(pages).toBeGreaterThan(3)
  expect(paged.slice(0, whole.length)).toEqual(whole)
})

test('a filter that matches nothing looks at 10,000 rows and says where to go on', async () => {
  const { sequencer, issuer } = relay.relay
  const called = {
    kind: 'api.called',
    actor: 'key_x',
    status: 200,
    address: '',
    method: 'GET',
    tenant: rival.id,
  } as const
  const now = relay.clock.now()
  const many = Array.from({ length: 10_100 }, (_, n) => state(issuer, { ...called, sub: `req_${n}` }, now))
  await Promise.all(many.map((stated) => sequencer.append({ stated, effects: [] })))
  const first = await page('kind=source.deleted', rival.tenantKey, rival.id)
  expect(first.body.data).toEqual([])
  expect(first.body.next).toMatch(/^\d+$/)
  const second = await page(`kind=source.deleted&after=${first.body.next}`, rival.tenantKey, rival.id)
  expect(second.body).toEqual({ data: [] })
  expect(await relay.readAudit(rival, { kind: 'source.created' })).toHaveLength(1)
})

test('what belongs to no tenant is the administrator’s to read', async () => {
  const items = await relay.readAudit(null)
  expect(kindsOf(items).slice(0, 3)).toEqual(['log.created', 'key.generated', 'key.activated'])
  expect(items.some(({ statement }) => 'tenant' in statement)).toBe(false)
})
