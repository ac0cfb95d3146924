/** Exports as their tenants meet them: asked for, looked at, read in pieces, interrupted, deleted. */
import { createHash } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { openSession } from '../../src/adapters/database.ts'
import { FsObjectStore } from '../../src/adapters/object-store-fs.ts'
import { type ByteRange, ObjectAbsent, type ObjectStore } from '../../src/ports/object-store.ts'
import {
  download,
  type ExportAnswer,
  exported,
  linesOf,
  makeExport,
  settled,
  trustIn,
  verify,
} from '../support/export.ts'
import { appendStatements } from '../support/many-statements.ts'
import { adminKey, objectsIn, TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let acme: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  acme = await relay.makeTenant('Acme')
  for (let order = 0; order < 10; order++) await relay.post(acme, { order })
})
afterEach(() => relay.check())
afterAll(() => relay?.stop())

interface ShownStatement {
  readonly kind: string
  readonly sub: string
  readonly actor?: string
}

/** The statements of a file, in order. */
const statementsOf = (file: Buffer): ShownStatement[] =>
  linesOf(file).flatMap((line) => {
    const { statement } = JSON.parse(line) as { statement?: string }
    return statement === undefined ? [] : [JSON.parse(Buffer.from(statement, 'base64url').toString()) as ShownStatement]
  })

const append = (to: TestRelay, count: number, tenantOf: (number: number) => string) =>
  appendStatements(
    { sequencer: to.relay.sequencer, issuer: to.relay.issuer, now: () => to.clock.now() },
    count,
    tenantOf,
  )

test('an export shows every statement of its tenant, proves it, and is in the log itself', async () => {
  const { id, state, statements, bytes, sha256 } = await makeExport(relay, acme.id)
  expect({ state, statements }).toMatchObject({ state: 'done', statements: { done: statements?.total } })
  const file = await download(relay, acme.id, id)
  expect(file).toHaveLength(bytes)
  expect(createHash('sha256').update(file).digest('base64url')).toBe(sha256)
  const verdict = await verify(file, await trustIn(relay))
  expect(verdict).toMatchObject({ verdict: 'valid', export: { id, tenant: acme.id, from: 0, withheld: 0 } })
  const kinds = statementsOf(file).map(({ kind }) => kind)
  expect(kinds.filter((kind) => kind === 'message.accepted')).toHaveLength(10)
  expect(kinds.at(0)).toBe('tenant.created')
  expect(kinds.slice(-3)).toContain('export.requested')

  const later = statementsOf(await exported(relay, acme.id)).filter(({ sub }) => sub === id)
  expect(later.map(({ kind }) => kind)).toEqual(['export.requested', 'export.finished', 'export.downloaded'])
  expect(later[1]).toMatchObject({ bytes, sha256 })
  expect(later[2]).toMatchObject({ actor: 'key_testadmin', first_byte: 0, last_byte: bytes - 1 })
})

test('a receipt of the relay and the export show the same statement', async () => {
  const [receipt] = relay.receipts.values()
  const lines = linesOf(await exported(relay, acme.id)).map((line) => JSON.parse(line) as Record<string, string>)
  const line = lines.find(({ statement }) => statement === receipt?.payload)
  expect(line).toMatchObject({ signature: receipt?.signature })
})

test('a range shows what was stated in it, and of the rest that it is there', async () => {
  relay.clock.advance(3_600_000)
  const from = relay.clock.now().toISOString()
  for (let order = 0; order < 3; order++) await relay.post(acme, { inRange: order })
  relay.clock.advance(3_600_000)
  const to = relay.clock.now().toISOString()
  await relay.post(acme, { behind: true })
  const file = await exported(relay, acme.id, { from, to })
  expect(await verify(file, await trustIn(relay))).toMatchObject({ verdict: 'valid' })
  const shown = statementsOf(file).filter(({ kind }) => kind !== 'tenant.head') // the one it builds upon
  expect(shown.filter(({ kind }) => kind === 'message.accepted')).toHaveLength(3)
  expect(shown.filter(({ kind }) => kind === 'export.requested')).toHaveLength(0)
  const [header] = linesOf(file).map((line) => JSON.parse(line) as { basis: { index: number; upto: number } })
  expect(header?.basis.upto, 'it builds upon an earlier head, and begins there').toBeGreaterThan(0)
})

test('an export of some kinds shows those, and that no leaf is left out', async () => {
  const file = await exported(relay, acme.id, { kinds: ['source.created', 'api_key.created'] })
  const verdict = await verify(file, await trustIn(relay))
  expect(verdict).toMatchObject({
    verdict: 'valid',
    export: { shown: 3, kinds: ['source.created', 'api_key.created'] },
  })
  expect(statementsOf(file).map(({ kind }) => kind)).toEqual(['source.created', 'api_key.created', 'api_key.created'])
})

describe('who asks for the wrong thing is told', () => {
  const ask = (tenant: string, body: object) => relay.call('POST', `/v1/tenants/${tenant}/exports`, { body })

  test('that export needs the Operation tier', async () => {
    const { id } = await relay.make('/v1/tenants', { name: 'Small', tier: 'standard' })
    expect((await ask(id, {})).body).toMatchObject({ status: 403, code: 'tier_required' })
  })

  test.each([
    { from: 'yesterday' },
    { to: '2026-01-01' },
    { kinds: [] },
    { kinds: ['Message'] },
    { compression: 'br' },
  ])('that %j is no wish', async (wish) => {
    expect((await ask(acme.id, wish)).body).toMatchObject({ status: 400, code: 'request_invalid' })
  })

  test('that there are too many', async () => {
    const { id } = await relay.make('/v1/tenants', { name: 'Collector', tier: 'operation' })
    for (let i = 0; i < 50; i++) expect((await ask(id, {})).status).toBe(202)
    expect((await ask(id, {})).body).toMatchObject({ status: 409, code: 'export_limit_reached' })
    const { body } = await relay.call<{ data: ExportAnswer[]; next?: string }>(
      'GET',
      `/v1/tenants/${id}/exports?limit=20`,
    )
    expect(body.data).toHaveLength(20)
    for (const one of body.data) await settled(relay, id, one.id)
    expect((await relay.call('DELETE', `/v1/tenants/${id}/exports/${body.data[0]?.id}`)).status).toBe(204)
    expect((await ask(id, {})).status).toBe(202)
  })
})

describe('the file is served in ranges', () => {
  let id: string
  let whole: Buffer
  let etag: string
  beforeAll(async () => {
    id = (await makeExport(relay, acme.id, { compression: 'gzip' })).id
    whole = await download(relay, acme.id, id)
  })
  const get = async (headers: Record<string, string>, method = 'GET') => {
    const path = `/v1/tenants/${acme.id}/exports/${id}/file`
    const response = await fetch(relay.url + path, {
      method,
      headers: { authorization: `Bearer ${adminKey}`, ...headers },
    })
    return { status: response.status, headers: response.headers, bytes: Buffer.from(await response.arrayBuffer()) }
  }

  test('whole, with a name, a type and an ETag', async () => {
    const { status, headers, bytes } = await get({})
    etag = headers.get('etag') ?? ''
    expect({ status, bytes }).toEqual({ status: 200, bytes: whole })
    expect(headers.get('content-type')).toBe('application/gzip')
    expect(headers.get('content-disposition')).toBe(`attachment; filename="${id}.ndjson.gz"`)
    expect(headers.get('accept-ranges')).toBe('bytes')
  })

  test.each([
    ['bytes=0-9', 0, 9],
    ['bytes=100-', 100, undefined],
    ['bytes=-7', -7, undefined],
    ['bytes=5-99999999', 5, undefined],
  ])('%s', async (range, from, to) => {
    const { status, headers, bytes } = await get({ range })
    const expected = whole.subarray(from, to === undefined ? undefined : to + 1)
    expect({ status, bytes }).toEqual({ status: 206, bytes: expected })
    const first = from < 0 ? whole.length + from : from
    expect(headers.get('content-range')).toBe(`bytes ${first}-${first + expected.length - 1}/${whole.length}`)
  })

  test('none beyond the end', async () => {
    const { status, headers, bytes } = await get({ range: `bytes=${whole.length}-` })
    expect(status).toBe(416)
    expect(headers.get('content-range')).toBe(`bytes */${whole.length}`)
    expect(JSON.parse(bytes.toString())).toMatchObject({ code: 'range_unsatisfiable' })
  })

  test('whole where the range is of another file, is several, or is none', async () => {
    for (const headers of [
      { range: 'bytes=0-9', 'if-range': '"another"' },
      { range: 'bytes=0-1,3-4' },
      { range: 'lines=0-9' },
      { range: 'bytes=9-0' },
    ])
      expect(await get(headers as unknown as Record<string, string>)).toMatchObject({ status: 200, bytes: whole })
    expect(await get({ range: 'bytes=0-9', 'if-range': etag })).toMatchObject({ status: 206 })
  })

  test('not again to who has it, and without a body to who asks for none', async () => {
    expect(await get({ 'if-none-match': etag })).toMatchObject({ status: 304, bytes: Buffer.alloc(0) })
    const { status, headers, bytes } = await get({}, 'HEAD')
    expect({ status, length: headers.get('content-length'), bytes: bytes.length }).toEqual({
      ...{ status: 200, length: String(whole.length), bytes: 0 },
    })
  })
})

test('a deleted export is gone, with its parts', async () => {
  const folder = new FsObjectStore(`${relay.folder}/objects`)
  const { id } = await makeExport(relay, acme.id)
  const path = `/v1/tenants/${acme.id}/exports/${id}`
  expect((await relay.call('DELETE', path)).status).toBe(204)
  expect((await relay.call('GET', path)).status).toBe(404)
  expect((await relay.call('GET', `${path}/file`)).status).toBe(404)
  if (objectsIn === 'fs') {
    expect(await keysOf(folder, id)).toEqual([])
  }
})

test('of an erased tenant no export can be read, written or asked for', async () => {
  const tenant = await relay.makeTenant('Leaver')
  const { id } = await makeExport(relay, tenant.id)
  expect((await relay.call('DELETE', `/v1/tenants/${tenant.id}`)).status).toBe(200)
  const path = `/v1/tenants/${tenant.id}/exports`
  expect((await relay.call('GET', `${path}/${id}/file`)).body).toMatchObject({ status: 410, code: 'tenant_erased' })
  expect((await relay.call('POST', path, { body: {} })).body).toMatchObject({ status: 410, code: 'tenant_erased' })
})

test('what is stored of an export says nothing to who reads the store', async () => {
  if (!(objectsIn === 'fs')) return
  const { id } = await makeExport(relay, acme.id, { compression: 'gzip' })
  const store = new FsObjectStore(`${relay.folder}/objects`)
  const [key = ''] = await keysOf(store, id)
  const stored = Buffer.from((await store.find(key)) ?? [])
  expect(stored.length).toBeGreaterThan(1000)
  expect(stored.indexOf(Buffer.from([0x1f, 0x8b, 0x08])), 'no gzip begins anywhere').not.toBe(0)
  expect(stored.subarray(0, 1)).toEqual(Buffer.of(0x01)) // the form of what a data key sealed
})

async function keysOf(store: ObjectStore, id: string): Promise<string[]> {
  const keys: string[] = []
  for await (const key of store.list(`exports/${id.slice('exp_'.length)}/`)) keys.push(key)
  return keys
}

describe('an export of several parts', () => {
  let long: TestRelay
  let store: HoldingStore
  let tenant: TestTenant
  beforeAll(async () => {
    store = new HoldingStore()
    long = await TestRelay.start({ objectStore: store })
    tenant = await long.makeTenant('Long')
    await append(long, 10_000, () => tenant.id)
  }, 60_000)
  afterAll(() => long?.stop())

  const request = async (): Promise<string> => {
    const { body } = await long.call<ExportAnswer>('POST', `/v1/tenants/${tenant.id}/exports`, { body: {} })
    return body.id
  }
  const progressOf = async (id: string) =>
    (await long.call<ExportAnswer>('GET', `/v1/tenants/${tenant.id}/exports/${id}`)).body
  const expectWhole = async (id: string, on = long) => {
    const { state, reason } = await settled(on, tenant.id, id)
    expect(state, reason).toBe('done')
    const verdict = await verify(await download(on, tenant.id, id), await trustIn(on))
    expect(verdict).toMatchObject({ verdict: 'valid', export: { id, from: 0, withheld: 0 } })
    expect(await keysOf(store, id), 'nothing is stored that the file does not consist of').toHaveLength(3)
  }

  test('goes on where another process died, and what that one still writes counts for nothing', async () => {
    const held = store.holdSecondPart()
    const id = await request()
    await held.reached
    expect(await progressOf(id)).toMatchObject({ state: 'running', statements: { done: expect.any(Number) } })
    const second = await TestRelay.start({ objectStore: store }, long)
    try {
      long.clock.advance(61_000) // the lease is over
      await expectWhole(id, second)
      held.release()
      await store.idle()
      await expectWhole(id)
    } finally {
      await second.close()
    }
  }, 60_000)

  test('goes on after a restart', async () => {
    const held = store.holdSecondPart()
    const id = await request()
    await held.reached
    setTimeout(held.release, 50)
    await long.restart()
    await expectWhole(id)
  }, 60_000)

  test('goes on after the object store failed', async () => {
    store.failSecondPart()
    const id = await request()
    await store.failed
    while ((await progressOf(id)).state !== 'done') {
      long.clock.advance(1000)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    await expectWhole(id)
  }, 60_000)

  test('is given up on when nothing helps, and says so', async () => {
    store.failAll = true
    const id = await request()
    while ((await progressOf(id)).state !== 'failed') {
      long.clock.advance(1000)
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    store.failAll = false
    expect(await progressOf(id)).toMatchObject({ state: 'failed', reason: 'internal' })
    const file = await long.call('GET', `/v1/tenants/${tenant.id}/exports/${id}/file`)
    expect(file.body).toMatchObject({ code: 'export_unfinished' })
  }, 60_000)

  test('ends when it is deleted', async () => {
    const held = store.holdSecondPart()
    const id = await request()
    await held.reached
    expect((await long.call('DELETE', `/v1/tenants/${tenant.id}/exports/${id}`)).status).toBe(204)
    held.release()
    await store.idle()
    expect(await keysOf(store, id)).toEqual([])
  }, 60_000)

  test('begins at the first head that counts what is left, once older leaves have expired', async () => {
    const session = await openSession(long.database.connection)
    await session.query('alter table statements disable trigger user')
    await session.query(`delete from statements where tenant_id = '${tenant.id}' and leaf_index < 5000`)
    await session.query('alter table statements enable trigger user')
    await session.close()
    const file = await exported(long, tenant.id)
    const verdict = await verify(file, await trustIn(long))
    expect(verdict).toMatchObject({ verdict: 'valid', export: { from: expect.any(Number), withheld: 0 } })
    expect(verdict.verdict === 'valid' && verdict.export.from).toBeGreaterThan(10_000)
  }, 60_000)
})

test('every day the leaves of a tenant are counted, whether somebody exports them or not', async () => {
  const daily = await TestRelay.start({ keyTickMs: 10 })
  try {
    const tenant = await daily.makeTenant()
    const headsAfterADay = async () => {
      daily.clock.advance(25 * 3_600_000)
      await new Promise((resolve) => setTimeout(resolve, 300))
      return daily.database.database.query('select upto from tenant_heads where tenant_id = $1', [tenant.id])
    }
    expect(await headsAfterADay()).toHaveLength(1)
    expect(await headsAfterADay(), 'nothing has come but the head itself').toHaveLength(1)
    await daily.post(tenant, { order: 1 })
    expect(await headsAfterADay()).toHaveLength(2)
    const file = await exported(daily, tenant.id)
    expect(await verify(file, await trustIn(daily))).toMatchObject({ verdict: 'valid', export: { from: 0 } })
    await daily.check()
  } finally {
    await daily.stop()
  }
})

/** Objects in memory, and a hand on the parts of exports. */
class HoldingStore implements ObjectStore {
  readonly #objects = new Map<string, Uint8Array>()
  #underWay = 0
  #hold: { wait: Promise<void>; reached: () => void } | undefined
  #fail: (() => void) | undefined
  failed: Promise<void> = Promise.resolve()
  failAll = false

  /** The next second part waits until it is released; others do not. */
  holdSecondPart() {
    const released = Promise.withResolvers<void>()
    const reached = Promise.withResolvers<void>()
    this.#hold = { wait: released.promise, reached: reached.resolve }
    return { reached: reached.promise, release: released.resolve }
  }

  failSecondPart(): void {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.failed = promise
    this.#fail = resolve
  }

  /** Resolves when nobody puts or deletes, and nobody begins to for a moment. */
  async idle(): Promise<void> {
    do await new Promise((resolve) => setTimeout(resolve, 200))
    while (this.#underWay > 0)
  }

  async put(key: string, bytes: Uint8Array): Promise<void> {
    this.#underWay += 1
    try {
      const isSecond = /^exports\/.*\/000001-/.test(key)
      if (this.failAll && key.startsWith('exports/')) throw new Error('the disk is full')
      if (isSecond && this.#fail !== undefined) {
        this.#fail()
        this.#fail = undefined
        throw new Error('the disk is full')
      }
      if (isSecond && this.#hold !== undefined) {
        const { wait, reached } = this.#hold
        this.#hold = undefined
        reached()
        await wait
      }
      this.#objects.set(key, Uint8Array.from(bytes))
    } finally {
      this.#underWay -= 1
    }
  }

  async putIfAbsent(key: string, bytes: Uint8Array): Promise<'stored' | 'exists'> {
    if (this.#objects.has(key)) return 'exists'
    await this.put(key, bytes)
    return 'stored'
  }

  async find(key: string): Promise<Uint8Array | undefined> {
    return this.#objects.get(key)
  }

  async stat(key: string) {
    const found = this.#objects.get(key)
    return found && { bytes: found.length }
  }

  async *read(key: string, { from, to }: ByteRange = { from: 0 }): AsyncGenerator<Uint8Array> {
    const found = this.#objects.get(key)
    if (found === undefined) throw new ObjectAbsent(key)
    yield found.subarray(from, to === undefined ? undefined : to + 1)
  }

  async write(key: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    const all: Uint8Array[] = []
    for await (const chunk of chunks) all.push(chunk)
    await this.put(key, Buffer.concat(all))
  }

  async delete(key: string): Promise<void> {
    this.#objects.delete(key)
  }

  async *list(prefix: string, after = ''): AsyncGenerator<string> {
    yield* [...this.#objects.keys()].filter((key) => key.startsWith(prefix) && key > after).sort()
  }
}
