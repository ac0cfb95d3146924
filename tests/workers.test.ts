import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type Program, startProgram } from './support/program.ts'
import { Receiver } from './support/receiver.ts'

const adminKey = `cs_mainadmin_${'B'.repeat(40)}`

let folder: string
let relay: Program

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'countersign-workers-'))
})

afterEach(async () => {
  const { child } = relay
  if (child.exitCode === null && child.signalCode === null) {
    child.kill('SIGTERM')
    await once(child, 'exit')
  }
  await rm(folder, { recursive: true, force: true })
})

const start = (env: Record<string, string> = {}): Program => {
  relay = startProgram(folder, { WORKERS: '2', COUNTERSIGN_ADMIN_KEY: adminKey, DELIVERY_LEASE_S: '20', ...env })
  return relay
}

/** Of the workers that were started, in order. */
const workerPids = (): number[] => [...relay.output().matchAll(/"worker":(\d+),"msg":"worker.started"/g)].map(toPid)
const toPid = (match: RegExpExecArray): number => Number(match[1])

test('a rolling restart under load refuses no post, loses none, and sends nothing twice', async () => {
  start()
  await relay.said(/"msg":"workers listen"/)
  const { url } = await relay.listening()
  const receiver = await Receiver.start()
  const posting = await startPosting(url, receiver)
  await posting.accepted(50)
  const before = workerPids()
  expect(before).toHaveLength(2)
  relay.child.kill('SIGHUP')
  await relay.said(/"msg":"rolling restart done"/)
  await posting.accepted(50)
  const seen = await posting.stop()
  await receiver.until(() => [...seen.messages].every((message) => receiver.messages.has(message)))

  expect(workerPids()).toHaveLength(4)
  for (const pid of before) expect(() => process.kill(pid, 0)).toThrow('ESRCH')
  // What a vendor sees is its connection closed: after an answer, or, idle, while it was about to post.
  expect(seen.refusals).toEqual([])
  expect(seen.messages.size).toBe(seen.answers)
  expect(receiver.messages.size).toBeLessThanOrEqual(seen.answers + seen.unanswered)
  expect(receiver.arrived.length, 'nothing arrived twice').toBe(receiver.messages.size)
  await receiver.stop()
})

test('a worker that is killed is replaced, the others go on, and what it held is delivered', async () => {
  start()
  await relay.said(/"msg":"workers listen"/)
  const { url } = await relay.listening()
  const receiver = await Receiver.start()
  const posting = await startPosting(url, receiver)
  await posting.accepted(50)
  const [first = 0] = workerPids()
  process.kill(first, 'SIGKILL')
  await relay.said(/"msg":"worker.lost"/)
  await posting.accepted(50)
  await relay.said(/(?:"msg":"worker.started"[\s\S]*){3}/)
  const seen = await posting.stop()
  expect(seen.refusals).toEqual([])
  await receiver.until(() => [...seen.messages].every((message) => receiver.messages.has(message)))
  await receiver.stop()
})

test('a signal to all drains the workers first and PostgreSQL last', async () => {
  start()
  await relay.said(/"msg":"workers listen"/)
  expect(existsSync(join(folder, 'postgres', 'postmaster.pid'))).toBe(true)
  process.kill(-(relay.child.pid ?? 0), 'SIGINT')
  expect(await relay.ended()).toBe(0)
  expect(relay.output().match(/"msg":"stopped"/g)).toHaveLength(3)
  expect(relay.output()).not.toContain('database.lost')
  expect(existsSync(join(folder, 'postgres', 'postmaster.pid'))).toBe(false)
})

test('a start that cannot succeed is given up and said once', async () => {
  const squatter = createServer().listen(0, '127.0.0.1')
  await once(squatter, 'listening')
  const { port } = squatter.address() as AddressInfo
  start({ PORT: String(port) })
  expect(await relay.ended()).toBe(1)
  expect(relay.errors().trim().split('\n')).toHaveLength(1)
  expect(relay.errors()).toContain(`port ${port} on 127.0.0.1 is taken`)
  expect(existsSync(join(folder, 'postgres', 'postmaster.pid'))).toBe(false)
  squatter.close()
})

/** Eight vendors who post one after the other, each over a connection that it keeps. */
async function startPosting(url: string, receiver: Receiver) {
  const send = (path: string, key: string, body: unknown): Promise<Response> =>
    fetch(url + path, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    })
  const make = async (path: string, body: unknown) =>
    (await (await send(path, adminKey, body)).json()) as Record<'id' | 'key', string>
  const { id: tenant } = await make('/v1/tenants', { name: 'Acme', tier: 'standard' })
  const { id: source } = await make(`/v1/tenants/${tenant}/sources`, { name: 'orders' })
  const { key } = await make(`/v1/tenants/${tenant}/api-keys`, { name: 'v', role: 'ingest', source })
  await make(`/v1/tenants/${tenant}/endpoints`, { url: receiver.url })

  const seen = { messages: new Set<string>(), answers: 0, refusals: [] as string[], unanswered: 0 }
  let stopping = false
  let waiting: { until: number; resolve: () => void } | undefined
  const vendor = async (): Promise<void> => {
    for (let n = 0; !stopping; n++) {
      const answer = await send(`/v1/sources/${source}/messages`, key, { n }).catch(() => undefined)
      if (answer === undefined) seen.unanswered += 1
      else if (answer.status !== 202) seen.refusals.push(`${answer.status} ${await answer.text()}`)
      else {
        seen.messages.add(((await answer.json()) as { message: string }).message)
        seen.answers += 1
        if (waiting && seen.answers >= waiting.until) waiting.resolve()
      }
    }
  }
  const vendors = Promise.all(Array.from({ length: 8 }, vendor))
  return {
    /** Resolves when so many more are accepted. */
    accepted(count: number): Promise<void> {
      const { promise, resolve } = Promise.withResolvers<void>()
      waiting = { until: seen.answers + count, resolve }
      return promise
    },
    async stop() {
      stopping = true
      await vendors
      return seen
    },
  }
}
