import fc from 'fast-check'
import { expect, test } from 'vitest'
import { type Kind, Lanes, type LaneTerms, type Strain } from '../../src/delivery/lanes.ts'

/** Lanes whose attempts end when the test says so. */
function makeLanes(concurrency: number, perHost = 64) {
  const begun: { name: string; end: (strain?: Strain) => Promise<void> }[] = []
  let nowMs = 0
  const lanes = new Lanes<string>({
    concurrency,
    perHost,
    nowMs: () => nowMs,
    work: (name) =>
      new Promise<Strain>((resolve) => {
        const end = async (strain: Strain = 'eased') => {
          resolve(strain)
          await Promise.resolve()
          await Promise.resolve()
        }
        begun.push({ name, end })
      }),
  })
  const push = (endpoint: string, kind: Kind = 'first', terms: Partial<LaneTerms> = {}) =>
    lanes.push(
      { tenantId: endpoint, endpointId: endpoint, host: endpoint, concurrency: null, ...terms },
      kind,
      endpoint,
      0,
    )
  const count = (name: string) => begun.filter((attempt) => attempt.name === name).length
  return { lanes, begun, push, count, pass: (ms: number) => (nowMs += ms) }
}

test('receivers that never answer take half of the places, and one each until they are known', async () => {
  const { lanes, push, count, begun, pass } = makeLanes(64)
  for (let dead = 0; dead < 20; dead++) for (let n = 0; n < 100; n++) push(`dead${dead}`)
  expect(lanes.inFlight).toBe(32 + 20)
  pass(15_000)
  for (let dead = 0; dead < 20; dead++) await begun.find(({ name }) => name === `dead${dead}`)?.end('strained')
  expect(lanes.inFlight, 'now they are known').toBe(32)
  for (let n = 0; n < 100; n++) push('healthy')
  expect(count('healthy')).toBe(1)
  await begun.at(-1)?.end()
  expect(count('healthy')).toBe(1 + 17)
})

test('retries take half of the places at most, and are sure of an eighth', async () => {
  const { begun, push, count } = makeLanes(64)
  for (let n = 0; n < 50; n++) for (let retry = 0; retry < 10; retry++) push(`failed${n}`, 'retry')
  expect(begun).toHaveLength(32)
  for (let n = 0; n < 50; n++) push(`new${n}`)
  expect(begun.filter(({ name }) => name.startsWith('new'))).toHaveLength(32)
  for (const { name, end } of [...begun]) if (name.startsWith('failed')) await end('unchanged')
  const retries = begun.filter(({ name }) => name.startsWith('failed')).length
  expect(retries - 32).toBeGreaterThanOrEqual(8)
  expect(count('new49')).toBe(1)
})

test('tenants are served in turn, and so are the endpoints of each', async () => {
  const { begun, push } = makeLanes(1)
  push('first')
  for (let n = 0; n < 5; n++) for (const id of ['a1', 'a2', 'a3']) push(id, 'first', { tenantId: 'a' })
  for (let n = 0; n < 5; n++) push('b1', 'first', { tenantId: 'b' })
  for (let n = 0; n < 11; n++) await begun.at(-1)?.end()
  expect(begun.map(({ name }) => name).slice(1, 11)).toEqual([
    'a1',
    'b1',
    'a2',
    'b1',
    'a3',
    'b1',
    'a1',
    'b1',
    'a2',
    'b1',
  ])
})

test('a host has so many attempts in flight as it may have, and its endpoints take turns', async () => {
  const { begun, push } = makeLanes(64, 2)
  for (let n = 0; n < 4; n++) for (const id of ['x', 'y', 'z']) push(id, 'first', { host: 'shared' })
  expect(begun).toHaveLength(2)
  for (let n = 0; n < 10; n++) await begun[n]?.end()
  expect(begun).toHaveLength(12)
  const names = begun.map(({ name }) => name)
  for (const id of ['x', 'y', 'z']) expect(names.indexOf(id), names.join()).toBeLessThan(6)
})

test('an endpoint that does not keep up is sent less at once, and more again when it does', async () => {
  const { lanes, begun, push } = makeLanes(256)
  for (let n = 0; n < 200; n++) push('one')
  expect(lanes.inFlight).toBe(16)
  for (const { end } of begun.slice(0, 3)) await end('strained')
  for (const { end } of begun.slice(3, 16)) await end('unchanged')
  expect(lanes.inFlight).toBe(2)
  for (let n = 16; n < 30; n++) await begun[n]?.end('eased')
  expect(lanes.inFlight).toBe(16)
})

test('whatever is pushed and however it ends, caps hold and everything is begun once', async () => {
  const pushes = fc.array(
    fc.record({
      endpoint: fc.integer({ min: 0, max: 5 }),
      kind: fc.constantFrom<Kind>('first', 'retry'),
      strain: fc.constantFrom<Strain>('eased', 'strained', 'unchanged'),
      pauseMs: fc.constantFrom(0, 0, 10, 1500),
    }),
    { maxLength: 200 },
  )
  await fc.assert(
    fc.asyncProperty(pushes, fc.integer({ min: 1, max: 20 }), async (pushed, concurrency) => {
      const { lanes, begun, push, pass } = makeLanes(concurrency, 5)
      for (const { endpoint, kind } of pushed) {
        push(`ep${endpoint}`, kind, { tenantId: `ten${endpoint % 2}`, host: `host${endpoint % 3}`, concurrency: 3 })
      }
      for (let n = 0; n < pushed.length; n++) {
        expect(lanes.inFlight).toBeLessThanOrEqual(concurrency)
        expect(lanes.inFlight).toBeGreaterThan(0)
        pass(pushed[n]?.pauseMs ?? 0)
        await begun[n]?.end(pushed[n]?.strain)
      }
      expect(begun).toHaveLength(pushed.length)
      expect(lanes.queued + lanes.inFlight).toBe(0)
    }),
  )
})
