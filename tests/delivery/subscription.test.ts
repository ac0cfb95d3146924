import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Audience, everyone, parseEventGlob, Subscriptions } from '../../src/delivery/subscription.ts'
import type { JsonValue } from '../../src/message/json.ts'
import { type Condition, defaultOptions, type Endpoint, type EndpointOptions } from '../../src/tenant/records.ts'

const wants = (options: Partial<EndpointOptions>, value: JsonValue, audience: Audience = everyone): boolean =>
  new Subscriptions().wants(endpointWith(options), value, audience)

describe('event types', () => {
  test.each([
    ['invoice.paid', 'invoice.paid', true],
    ['invoice.paid', 'invoice.paid.late', false],
    ['invoice.paid', 'invoiceXpaid', false],
    ['invoice.*', 'invoice.paid', true],
    ['invoice.*', 'invoice.payment.failed', true],
    ['invoice.*', 'invoice', false],
    ['invoice.*', 'invoice.', false],
    ['invoice.*', 'pre.invoice.paid', false],
    ['*.paid', 'invoice.paid', true],
    ['*.paid', 'eu.invoice.paid', false],
    ['*', 'anything.at.all', true],
    ['a.*.c', 'a.b.c', true],
    ['a.*.c', 'a.b.b.c', false],
    ['com:acme/invoice-1', 'com:acme/invoice-1', true],
  ])('%s and %s: %s', (pattern, type, matches) => {
    expect(wants({ events: [pattern] }, { type })).toBe(matches)
  })

  test.each(['', '.', 'a.', '.a', 'a..b', 'a*', 'a.b*', '**', 'a b', 'a(b)+', 'ä', 'a\n', 'a'.repeat(201)])(
    'the pattern %j is refused',
    (pattern) => {
      expect(() => parseEventGlob(pattern)).toThrow(RangeError)
    },
  )

  test('a payload without a type of text is for whoever asks for no type', () => {
    for (const value of [{}, [], { type: 1 }, { data: { type: 'a' } }, [{ type: 'a' }]]) {
      expect(wants({ events: ['*'] }, value)).toBe(false)
      expect(wants({}, value)).toBe(true)
    }
  })

  test('no pattern makes matching slow', () => {
    const pattern = Array(50).fill('*').concat('end').join('.')
    const started = performance.now()
    expect(wants({ events: [pattern] }, { type: `${'a.'.repeat(100_000)}x` })).toBe(false)
    expect(performance.now() - started).toBeLessThan(500)
  })
})

describe('conditions', () => {
  const value = { data: { amount: 100, currency: 'EUR', live: true, note: null, items: [{ sku: 'x' }] } }
  test.each<[Condition, boolean]>([
    [{ path: '$.data.amount', equals: 100 }, true],
    [{ path: '$.data.amount', equals: '100' }, false],
    [{ path: '$.data.note', equals: null }, true],
    [{ path: '$.data.absent', equals: null }, false],
    [{ path: '$.data.currency', in: ['USD', 'EUR'] }, true],
    [{ path: '$.data.currency', in: ['USD'] }, false],
    [{ path: '$.data.absent', in: [null] }, false],
    [{ path: '$.data.currency', not: 'USD' }, true],
    [{ path: '$.data.currency', not: 'EUR' }, false],
    [{ path: '$.data.absent', not: 'EUR' }, true],
    [{ path: '$.data.note', exists: true }, true],
    [{ path: '$.data.absent', exists: true }, false],
    [{ path: '$.data.absent', exists: false }, true],
    [{ path: '$.data.amount', gt: 99.5 }, true],
    [{ path: '$.data.amount', gt: 100 }, false],
    [{ path: '$.data.amount', lt: 101 }, true],
    [{ path: '$.data.currency', gt: 0 }, false],
    [{ path: '$.data.items[0].sku', equals: 'x' }, true],
    [{ path: '$.data.items', equals: 'x' }, false],
  ])('%j: %s', (condition, holds) => {
    expect(wants({ filter: [condition] }, value)).toBe(holds)
  })

  test('all must hold, and the event type too', () => {
    const filter: Condition[] = [
      { path: '$.n', gt: 1 },
      { path: '$.n', lt: 5 },
    ]
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 6 }), fc.constantFrom('a', 'b'), (n, type) => {
        expect(wants({ events: ['a'], filter }, { type, n })).toBe(type === 'a' && n > 1 && n < 5)
      }),
    )
  })
})

describe('messages of the relay itself', () => {
  const notice = { type: 'endpoint.failing', data: {} }
  const about = (endpoint: string): Audience => ({ kind: 'subscribers', except: endpoint })

  test.each([
    [[], false],
    [['*'], false],
    [['*.failing'], false],
    [['invoice.*'], false],
    [['endpoint.*'], true],
    [['invoice.*', 'endpoint.failing'], true],
    [['endpoint.paused'], false],
  ])('a notice goes to who asks for its type by name: %j: %s', (events, asked) => {
    expect(wants({ events }, notice, about('ep_other'))).toBe(asked)
  })

  test('a notice does not go to the endpoint it is about', () => {
    expect(wants({ events: ['endpoint.*'] }, notice, about('ep_1'))).toBe(false)
  })

  test('a test goes to one endpoint, whatever it asks for', () => {
    const options = { events: ['invoice.*'], filter: [{ path: '$.never', exists: true }] }
    expect(wants(options, { type: 'endpoint.test' }, { kind: 'only', endpointId: 'ep_1' })).toBe(true)
    expect(wants({}, { type: 'endpoint.test' }, { kind: 'only', endpointId: 'ep_2' })).toBe(false)
  })
})

const endpointWith = (options: Partial<EndpointOptions>): Endpoint => ({
  ...{ id: 'ep_1', tenantId: 'ten_1', name: '', url: 'https://receiver.example/', createdAt: new Date(0), revision: 1 },
  ...{ pausedAt: null, pausedReason: null, secrets: { headers: {}, hmac: [], tls: null } },
  options: { ...defaultOptions, ...options },
})
