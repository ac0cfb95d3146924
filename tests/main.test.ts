import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { urlOf } from '../src/adapters/database.ts'
import { createTestDatabase } from './support/database.ts'
import { type Program, startProgram } from './support/program.ts'
import { Receiver } from './support/receiver.ts'
import { startS3Server } from './support/s3-server.ts'
import { startSystemPostgres, systemPostgresPresent } from './support/system-postgres.ts'

let folder: string
const running: ChildProcess[] = []

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'countersign-main-'))
})

afterEach(async () => {
  for (const child of running.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
  await rm(folder, { recursive: true, force: true })
})

const adminKey = `cs_mainadmin_${'B'.repeat(40)}`

test('the first start prints an admin key once, and a signal to the whole group drains relay and PostgreSQL', async () => {
  const first = start({})
  const { url } = await first.listening()
  await first.said(/Your admin key, shown this once: {3}(cs_\S+)/)
  const key = /shown this once: +(cs_\S+)/.exec(first.output())?.[1] ?? ''
  const created = await post(`${url}/v1/tenants`, key, { name: 'Acme', tier: 'standard' })
  expect(created.status).toBe(201)

  // What Ctrl-C in a terminal does: everyone in the process group gets SIGINT, PostgreSQL must not be among them.
  process.kill(-(first.child.pid ?? 0), 'SIGINT')
  expect(await first.ended()).toBe(0)
  expect(first.output()).toContain('"msg":"stopped"')
  expect(existsSync(join(folder, 'postgres', 'postmaster.pid'))).toBe(false)

  const second = start({})
  const again = await second.listening()
  expect(second.output()).not.toContain('shown this once')
  expect((await fetch(`${again.url}/v1/tenants`, { headers: { authorization: `Bearer ${key}` } })).status).toBe(200)
})

test('a stop under load answers every post, with a receipt or a refusal, and keeps what it receipted', async () => {
  const relay = start({ COUNTERSIGN_ADMIN_KEY: adminKey })
  const { url } = await relay.listening()
  const { id: tenant } = await made(url, '/v1/tenants', { name: 'Acme', tier: 'standard' })
  const { id: source } = await made(url, `/v1/tenants/${tenant}/sources`, { name: 'orders' })
  const { key } = await made(url, `/v1/tenants/${tenant}/api-keys`, { name: 'v', role: 'ingest', source })
  const accepted: string[] = []
  const refusals = new Set<number | undefined>()
  let stopping = false
  const vendor = async (): Promise<void> => {
    for (let n = 0; ; n++) {
      const answer = await post(`${url}/v1/sources/${source}/messages`, key, { n }).catch(() => undefined)
      if (answer?.status === 202) accepted.push(((await answer.json()) as { message: string }).message)
      else if (stopping) return void refusals.add(answer?.status) // refused, or nobody listens any more
      if (accepted.length === 100) {
        stopping = true
        relay.child.kill('SIGTERM')
      }
    }
  }
  await Promise.all(Array.from({ length: 8 }, vendor))
  for (const status of refusals) expect([503, undefined]).toContain(status)
  expect(await relay.ended()).toBe(0)

  const next = start({ COUNTERSIGN_ADMIN_KEY: adminKey })
  const after = await next.listening()
  for (const message of accepted) {
    const response = await fetch(`${after.url}/v1/messages/${message}`, {
      headers: { authorization: `Bearer ${adminKey}` },
    })
    expect(response.status).toBe(200)
  }
})

test('a second relay on the same data folder is refused in one sentence, and the first goes on', async () => {
  const first = start({})
  const { url } = await first.listening()
  const second = start({})
  expect(await second.ended()).toBe(1)
  expect(second.errors()).toMatch(/^countersign: .*another relay/i)
  expect(second.errors().trim().split('\n')).toHaveLength(1)
  expect((await fetch(`${url}/readyz`)).status).toBe(200)
})

test('a port that is taken is said in one sentence, and PostgreSQL is stopped again', async () => {
  const squatter = createServer().listen(0, '127.0.0.1')
  await once(squatter, 'listening')
  const { port } = squatter.address() as AddressInfo
  const relay = start({ PORT: String(port) })
  expect(await relay.ended()).toBe(1)
  expect(relay.errors()).toContain(`port ${port} on 127.0.0.1 is taken`)
  expect(existsSync(join(folder, 'postgres', 'postmaster.pid'))).toBe(false)
  squatter.close()
})

test.each([
  ['PORT', '80800'],
  ['KEY_WRAPPER', 'gcp-kms'],
  ['OBJECT_STORE', 'gcs'],
  ['COUNTERSIGN_ADMIN_KEY', 'hunter2'],
  ['COUNTERSIGN_ADMINKEY', 'x'],
  ['DATABASE_URL', 'mysql://x'],
  ['PUBLIC_URL', 'relay.example.com'],
  ['EGRESS_ALLOW', '10.0.0.0/99'],
  ['TRUSTED_PROXIES', 'loopback'],
  ['RETRY_SCHEDULE', '5 seconds'],
])('%s=%s is refused at start by name', async (name, value) => {
  const relay = start({ [name]: value })
  expect(await relay.ended()).toBe(1)
  expect(relay.errors()).toContain(name)
  expect(relay.errors()).not.toContain('    at ')
  expect(relay.errors()).not.toContain('hunter2')
})

test('OBJECT_STORE=s3 publishes to the bucket, and a start that cannot use the bucket is refused in one sentence', async () => {
  const s3 = await startS3Server()
  const env = { ...s3.environment, S3_PREFIX: 'countersign/one' }
  for (const [lack, sentence] of [
    [{ S3_BUCKET: '' }, /^countersign: OBJECT_STORE=s3 needs S3_BUCKET$/],
    [{ S3_PREFIX: '/one' }, /^countersign: S3_PREFIX must be [^\n]+$/],
    [{ S3_BUCKET: 'another' }, /^countersign: S3 has no such bucket\. Check S3_BUCKET, [^\n]+$/],
  ] as const) {
    const refused = start({ ...env, ...lack })
    expect(await refused.ended()).toBe(1)
    expect(refused.errors().trim()).toMatch(sentence)
  }
  const relay = start(env)
  const { url } = await relay.listening()
  const head = await (await fetch(`${url}/log/checkpoint`)).text()
  relay.child.kill('SIGTERM')
  expect(await relay.ended()).toBe(0)
  expect(String(s3.versions('countersign/one/checkpoints/latest').at(-1)?.bytes)).toBe(head)
  expect(existsSync(join(folder, 'objects'))).toBe(false)
  await s3.stop()
})

const servers = [
  { name: 'an embedded one of somebody else', open: async () => createTestDatabase() },
  ...(systemPostgresPresent ? [{ name: 'the oldest of the system', open: openSystemDatabase }] : []),
]

test.each(servers)('DATABASE_URL runs the relay on a server that is not its own: $name', async ({ open }) => {
  const external = await open()
  const receiver = await Receiver.start()
  const relay = start({ DATABASE_URL: external.url, COUNTERSIGN_ADMIN_KEY: adminKey, EGRESS_ALLOW: '127.0.0.0/8' })
  const { url } = await relay.listening()
  const { id: tenant } = await made(url, '/v1/tenants', { name: 'Acme', tier: 'standard' })
  const { id: source } = await made(url, `/v1/tenants/${tenant}/sources`, { name: 'orders' })
  const { key } = await made(url, `/v1/tenants/${tenant}/api-keys`, { name: 'v', role: 'ingest', source })
  await made(url, `/v1/tenants/${tenant}/endpoints`, { url: receiver.url })
  receiver.answer = (_arrived, response) => response.writeHead(receiver.arrived.length === 1 ? 500 : 204).end()
  // Enough for a full tile, and a first attempt that fails.
  const posts = await Promise.all(
    Array.from({ length: 300 }, (_, n) => post(`${url}/v1/sources/${source}/messages`, key, { n })),
  )
  expect(posts.map(({ status }) => status)).toEqual(posts.map(() => 202))
  await receiver.until(() => receiver.messages.size === 300)
  const receipt = await posts[0]?.json()
  const verdict = await post(`${url}/v1/verify`, key, { receipt, payload: { n: 0 } })
  expect(await verdict.json()).toMatchObject({ verdict: 'valid' })
  expect(existsSync(join(folder, 'postgres'))).toBe(false)
  relay.child.kill('SIGTERM')
  expect(await relay.ended()).toBe(0)
  await receiver.stop()
  await external.drop()
})

async function openSystemDatabase() {
  const { connection, stop } = await startSystemPostgres()
  return { url: urlOf(connection), drop: stop }
}

function start(env: Record<string, string>): Program {
  const program = startProgram(folder, env)
  running.push(program.child)
  return program
}

const post = (url: string, key: string, body: unknown): Promise<Response> =>
  fetch(url, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })

async function made(url: string, path: string, body: unknown): Promise<Record<'id' | 'key', string>> {
  const answer = await post(url + path, adminKey, body)
  expect(answer.status).toBe(201)
  return (await answer.json()) as Record<'id' | 'key', string>
}
