import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { expect } from 'vitest'
import { openAwsKmsKeyWrapper } from '../../src/adapters/key-wrapper-aws-kms.ts'
import { openLocalKeyWrapper } from '../../src/adapters/key-wrapper-local.ts'
import { createMetrics } from '../../src/adapters/metrics.ts'
import { FsObjectStore } from '../../src/adapters/object-store-fs.ts'
import { openS3ObjectStore } from '../../src/adapters/object-store-s3.ts'
import type { RelayOptions } from '../../src/assembly.ts'
import { defaultScheduleMs } from '../../src/delivery/schedule.ts'
import { buildServer } from '../../src/http/server.ts'
import { openCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { decodeBundle, tilePath } from '../../src/log/tile.ts'
import { sha256 } from '../../src/message/digest.ts'
import { type Clock, systemClock } from '../../src/ports/clock.ts'
import type { Database } from '../../src/ports/database.ts'
import type { KeyWrapper } from '../../src/ports/key-wrapper.ts'
import type { ObjectStore } from '../../src/ports/object-store.ts'
import type { MessageReceipt } from '../../src/receipt/receipt.ts'
import { Relay } from '../../src/relay.ts'
import { rfc6962, sha256 as slowSha256 } from '../log/rfc6962.ts'
import { createTestDatabase, silentLogger, type TestDatabase } from './database.ts'
import { type KmsServer, startKmsServer } from './kms-server.ts'
import { type S3Server, startS3Server } from './s3-server.ts'

/** A clock that a test moves. It starts at the real time, because TLS, undici and PostgreSQL use that, or before it. */
export class TestClock implements Clock {
  #ms: number
  constructor(agoMs = 0) {
    this.#ms = Date.now() - agoMs
  }
  now(): Date {
    return new Date(this.#ms)
  }
  advance(ms: number): void {
    this.#ms += ms
  }
}

/** Every test of a relay also runs with its keys under a service: vitest.config.ts has a project for that. */
export const keyWrapper = process.env.TEST_KEY_WRAPPER === 'aws-kms' ? 'aws-kms' : 'local'

let kms: Promise<KmsServer> | undefined

/** The server behind the wrapper, where there is one. */
export const kmsServer = (): Promise<KmsServer> | undefined => kms

/** The wrapper under test: a key file in the folder, or the AWS adapter against a server that speaks the protocol. */
export async function openWrapper(folder: string): Promise<KeyWrapper> {
  if (keyWrapper === 'local') return openLocalKeyWrapper(join(folder, 'wrapping-key'))
  kms ??= startKmsServer()
  const { keyId, environment } = await kms
  Object.assign(process.env, environment)
  return openAwsKmsKeyWrapper({ keyId, logger: silentLogger })
}

/** So are the objects: in a bucket of a server that speaks the protocol, instead of in a folder. */
export const objectsIn = process.env.TEST_OBJECT_STORE === 's3' ? 's3' : 'fs'

let s3: Promise<S3Server> | undefined

/** The same objects for the same folder. */
export async function openObjects(folder: string): Promise<ObjectStore> {
  if (objectsIn === 'fs') return new FsObjectStore(join(folder, 'objects'))
  s3 ??= startS3Server()
  const { bucket, environment } = await s3
  Object.assign(process.env, environment)
  return openS3ObjectStore({ bucket, prefix: `${basename(folder)}/`, clock: systemClock })
}

export const adminKey = `cs_testadmin_${'A'.repeat(43)}`

/** What a relay is told and, unless it is the one under test, the store it publishes to; and the proxies before it. */
type TestOptions = RelayOptions & { readonly objectStore: ObjectStore; readonly trustedProxies: readonly string[] }

export interface Answer<T = Record<string, unknown>> {
  readonly status: number
  readonly headers: Headers
  readonly body: T
}

/** A statement as the audit log shows it. */
export interface AuditItem {
  readonly index: number
  readonly entry: string
  readonly statement: { kind: string; sub: string; iat: number } & Record<string, unknown>
}

/** A tenant with a source, ready to be posted to. */
export interface TestTenant {
  readonly id: string
  readonly source: string
  readonly tenantKey: string
  readonly ingestKey: string
}

/**
 * A relay in this process behind real HTTP, on a real database of its own. `restart` stops it and starts another on the
 * same database and folder, as a new process would.
 */
export class TestRelay {
  readonly database: TestDatabase
  readonly clock: TestClock
  readonly folder: string
  /** Every receipt answered with 202, by message. */
  readonly receipts = new Map<string, MessageReceipt>()
  readonly #options: Partial<TestOptions>
  relay!: Relay
  server!: FastifyInstance
  url!: string
  #running = false

  private constructor(database: TestDatabase, folder: string, options: Partial<TestOptions>, clock: TestClock) {
    this.database = database
    this.folder = folder
    this.#options = options
    this.clock = clock
  }

  /** `beside` shares the database and folder of another, which may be stopped, or copies of them. */
  static async start(
    options: Partial<TestOptions> = {},
    beside?: Pick<TestRelay, 'database' | 'folder' | 'clock'>,
    clock = beside?.clock ?? new TestClock(),
  ): Promise<TestRelay> {
    const database = beside?.database ?? (await createTestDatabase())
    const folder = beside?.folder ?? (await mkdtemp(join(tmpdir(), 'countersign-test-')))
    const relay = new TestRelay(database, folder, options, clock)
    await relay.open()
    return relay
  }

  /** Lets a test put something between the relay and its database, or its object store. */
  async open(database: Database = this.database.database, between?: ObjectStore): Promise<void> {
    const { clock, folder } = this
    const { objectStore = between ?? (await this.openObjects()), ...options } = this.#options
    const metrics = createMetrics()
    this.relay = await Relay.open(
      {
        database,
        wrapper: await openWrapper(folder),
        objectStore,
        clock,
        random: () => 0.5,
        logger: silentLogger,
        observer: metrics.observer,
        onBroken: () => {},
      },
      {
        ...{ publicUrl: 'http://relay.test', port: 0, egressAllow: ['127.0.0.0/8'], retrySchedule: defaultScheduleMs },
        ...{ maxQueue: 5000, deliveryConcurrency: 64, deliveryLeaseS: 60, pauseAfterDays: 5, pollMs: 20, keyTickMs: 0 },
        policy: { rotateEveryDays: 91, publishBeforeUseDays: 30, overlapDays: 90, shortOverlapReason: undefined },
        ...options,
      },
    )
    if ((await database.query('select 1 from api_keys where id = $1', ['testadmin'])).length === 0) {
      const wish = { name: 'test', role: 'admin', sourceId: null } as const
      await this.relay.administration.createApiKey('test', null, wish, { id: 'testadmin', secret: 'A'.repeat(43) })
    }
    const { observer, text } = metrics
    const parts = { relay: this.relay, database, logger: silentLogger, observer, metrics: text }
    this.server = await buildServer({
      ...parts,
      maxPayloadBytes: 1_048_576,
      trustedProxies: this.#options.trustedProxies ?? [],
    })
    await this.server.listen({ port: 0, host: '127.0.0.1' })
    this.relay.start()
    this.url = `http://127.0.0.1:${(this.server.server.address() as AddressInfo).port}`
    this.#running = true
  }

  /** What it publishes to, unless told otherwise. */
  openObjects(): Promise<ObjectStore> {
    return openObjects(this.folder)
  }

  async close(): Promise<void> {
    if (!this.#running) return
    this.#running = false
    await this.server.close()
    await this.relay.close()
  }

  async restart(): Promise<void> {
    await this.close()
    await this.open()
  }

  /** Ends it for good, database and folder included. */
  async stop(): Promise<void> {
    await this.close()
    await this.database.drop()
    await rm(this.folder, { recursive: true, force: true })
  }

  /** Any route. A `body` that is not a string is sent as JSON. */
  async call<T = Record<string, unknown>>(
    method: string,
    path: string,
    {
      key = adminKey,
      body,
      headers = {},
    }: { key?: string | null; body?: unknown; headers?: Record<string, string> } = {},
  ): Promise<Answer<T>> {
    const response = await fetch(this.url + path, {
      method,
      headers: {
        ...(key !== null && { authorization: `Bearer ${key}` }),
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body !== undefined && {
        body: typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body),
      }),
    } as RequestInit)
    const text = await response.text()
    const json = text !== '' && response.headers.get('content-type')?.includes('json')
    return { status: response.status, headers: response.headers, body: (json ? JSON.parse(text) : text) as T }
  }

  /** Creates; fails the test if that is refused. */
  async make<T = { id: string }>(path: string, body: unknown, key = adminKey): Promise<T> {
    const answer = await this.call<T>('POST', path, { body, key })
    expect(answer.status, JSON.stringify(answer.body)).toBe(201)
    return answer.body
  }

  async makeTenant(name = 'Acme'): Promise<TestTenant> {
    const { id } = await this.make('/v1/tenants', { name, tier: 'operation' })
    const { id: source } = await this.make(`/v1/tenants/${id}/sources`, { name: 'orders' })
    const tenant = await this.make<{ key: string }>(`/v1/tenants/${id}/api-keys`, { name: 'all', role: 'tenant' })
    const wish = { name: 'vendor', role: 'ingest', source }
    const ingest = await this.make<{ key: string }>(`/v1/tenants/${id}/api-keys`, wish)
    return { id, source, tenantKey: tenant.key, ingestKey: ingest.key }
  }

  makeEndpoint(tenant: TestTenant, url: string): Promise<{ id: string }> {
    return this.make(`/v1/tenants/${tenant.id}/endpoints`, { url })
  }

  /** Reads the audit log of a tenant, or of the deployment, all pages of it. */
  async readAudit(tenant: { id: string } | null, filter: Record<string, string> = {}): Promise<AuditItem[]> {
    const path = tenant === null ? '/v1/audit' : `/v1/tenants/${tenant.id}/audit`
    const data: AuditItem[] = []
    for (let after: string | undefined; ; ) {
      const query = new URLSearchParams({ ...filter, limit: '1000', ...(after !== undefined && { after }) })
      const { status, body } = await this.call<{ data: AuditItem[]; next?: string }>('GET', `${path}?${query}`)
      expect(status, JSON.stringify(body)).toBe(200)
      data.push(...body.data)
      if (body.next === undefined) return data
      after = body.next
    }
  }

  /** Posts a payload as a vendor. A receipt answered is kept for {@link check}. */
  async post(
    tenant: TestTenant,
    body: unknown,
    headers: Record<string, string> = {},
  ): Promise<Answer<MessageReceipt & { code?: string }>> {
    const path = `/v1/sources/${tenant.source}/messages`
    const answer = await this.call<MessageReceipt & { code?: string }>('POST', path, {
      key: tenant.ingestKey,
      body,
      headers,
    })
    if (answer.status === 202) this.receipts.set(answer.body.message, answer.body)
    return answer
  }

  /**
   * Looks at the whole from outside: reads the log over HTTP, rebuilds its root by the RFC's own recursion, and holds
   * every receipt ever answered against it and against `/v1/verify`.
   */
  async check(): Promise<void> {
    const text = async (path: string) => (await fetch(this.url + path)).text()
    const bytes = async (path: string) => {
      const response = await fetch(this.url + path)
      expect(response.status, path).toBe(200)
      return Buffer.from(await response.arrayBuffer())
    }
    const vkeys = (await text('/log/vkey')).trim().split('\n').map(parseVerifierKey)
    const checkpoint = openCheckpoint(await text('/log/checkpoint'), { origin: this.relay.origin, vkeys })
    const entries: Uint8Array[] = []
    for (let index = 0; index * 256 < checkpoint.treeSize; index++) {
      const width = Math.min(256, checkpoint.treeSize - index * 256)
      const bundle = decodeBundle(await bytes(`/log/${tilePath('entries', index, width)}`))
      const tile = await bytes(`/log/${tilePath(0, index, width)}`)
      expect(bundle).toHaveLength(width)
      expect(tile).toEqual(Buffer.concat((bundle ?? []).map(hashLeaf)))
      entries.push(...(bundle ?? []))
    }
    const slow = rfc6962((start, end) => (end - start === 1 ? hashLeaf(entries[start] ?? new Uint8Array()) : undefined))
    expect(Buffer.from(slow.treeHash(0, entries.length))).toEqual(Buffer.from(checkpoint.rootHash))

    const places = new Map(entries.map((entry, index) => [Buffer.from(entry).toString('hex'), index]))
    expect(places.size, 'no statement is in the log twice').toBe(entries.length)
    for (const [message, receipt] of this.receipts) {
      const entry = sha256(Buffer.from(receipt.payload, 'base64url')).toString('hex')
      expect(places.has(entry), `${message} is in the log`).toBe(true)
      const { body } = await this.call<{ verdict: string }>('POST', '/v1/verify', { key: null, body: { receipt } })
      expect(body.verdict, JSON.stringify(body)).toBe('valid')
    }
  }
}

/** SHA-256(0x00 || entry), RFC 6962 §2.1, not by the code under test. */
const hashLeaf = (entry: Uint8Array): Uint8Array => slowSha256(Uint8Array.of(0), entry)
