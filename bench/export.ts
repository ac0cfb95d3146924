import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import pino from 'pino'
import { readConfig } from '../src/config.ts'
import { type Ending, openRelay } from '../src/main.ts'
import { appendStatements } from '../tests/support/many-statements.ts'
import { residentMiB } from './cpu.ts'
import type { Figures } from './figures.ts'
import { clockMs } from './ledger.ts'
import { adminKey, type RelayProcess } from './relay-process.ts'
import type { FreshDatabase, Testbed } from './testbed.ts'

const progressStatements = 100_000

/** One tenant's audit log of `statements`: written, downloaded, and verified by our own command, each timed by itself. */
export async function measureExport(
  testbed: Testbed,
  statements: number,
  say: (sentence: string) => void,
): Promise<Figures> {
  const database = await testbed.createDatabase()
  const tenant = await seedTenant(database, statements, say)
  const relay = await testbed.startRelay(database)
  await relay.call('GET', '/readyz')

  const before = await residentMiB(relay.pid)
  relay.forgetStalls()
  const exporting = await during(relay.pid, () => writeExport(relay, tenant))
  const stalls = await relay.stalls()
  const { id, bytes, seconds } = exporting.result
  const file = join(testbed.folder, `${id}.ndjson.zst`)
  await download(relay, `/v1/tenants/${tenant}/exports/${id}/file`, file)
  const verifying = await verifyFile(relay, file)
  say(`  ${statements.toLocaleString('en-US')} statements: ${(bytes / 1e6).toFixed(1)} MB, verified`)
  return {
    exportedPerS: statements / seconds,
    verifiedPerS: statements / verifying.seconds,
    exportBytes: bytes / statements,
    residentBeforeMiB: before,
    residentMaxMiB: exporting.mostMiB,
    verifierMaxMiB: verifying.mostMiB,
    stallP99Ms: stalls.p99Ms,
    stallMaxMs: stalls.maxMs,
  }
}

/** A relay in this process writes them: through its own sequencer, so they are what any statement is. */
async function seedTenant(
  { url, dataDir }: FreshDatabase,
  statements: number,
  say: (sentence: string) => void,
): Promise<string> {
  const environment = { DATA_DIR: dataDir, DATABASE_URL: url, PUBLIC_URL: 'http://relay.bench', EGRESS_ALLOW: '' }
  const ending: Ending = []
  try {
    const { relay } = await openRelay(readConfig(environment), pino({ level: 'silent' }), ending, (error) => {
      throw error
    })
    const { sequencer, issuer } = relay
    const tenant = await relay.administration.createTenant('bench', { name: 'bench', tier: 'operation' })
    for (let done = 0; done < statements; done += progressStatements) {
      const count = Math.min(progressStatements, statements - done)
      await appendStatements({ sequencer, issuer, now: () => new Date() }, count, () => tenant.id)
      say(`  ${(done + count).toLocaleString('en-US')} statements appended`)
    }
    return tenant.id
  } finally {
    for (const end of ending.reverse()) await end()
  }
}

async function writeExport(relay: RelayProcess, tenant: string) {
  const path = `/v1/tenants/${tenant}/exports`
  const beganMs = clockMs()
  const { id } = await relay.call<{ id: string }>('POST', path, {})
  for (;;) {
    const { state, reason, bytes } = await relay.call<{ state: string; reason?: string; bytes: number }>(
      'GET',
      `${path}/${id}`,
    )
    if (state === 'failed') throw new Error(`the export failed: ${reason}`)
    if (state === 'done') return { id, bytes, seconds: (clockMs() - beganMs) / 1000 }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

async function download(relay: RelayProcess, path: string, file: string): Promise<void> {
  const { body, status } = await fetch(relay.url + path, { headers: { authorization: `Bearer ${adminKey}` } })
  if (status !== 200 || body === null) throw new Error(`the download was answered ${status}`)
  await pipeline(Readable.fromWeb(body), createWriteStream(file))
}

/** As a customer would, start of the command included. */
async function verifyFile(relay: RelayProcess, file: string) {
  const beganMs = clockMs()
  const from = ['--vkey', `${relay.url}/log/vkey`, '--jwks', `${relay.url}/v1/keys`]
  const child = spawn(process.execPath, [command, 'verify', 'export', file, ...from], {
    stdio: ['ignore', 'ignore', 2],
  })
  const { result, mostMiB } = await during(child.pid ?? 0, () => once(child, 'close'))
  if (result[0] !== 0) throw new Error(`verify export ended with ${result[0]}`)
  return { seconds: (clockMs() - beganMs) / 1000, mostMiB }
}

const command = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url))

/** Does `work`, and looks meanwhile how much memory a process has. */
async function during<T>(pid: number, work: () => Promise<T>): Promise<{ result: T; mostMiB: number | undefined }> {
  let mostMiB: number | undefined
  const timer = setInterval(async () => {
    const size = await residentMiB(pid)
    if (size !== undefined) mostMiB = Math.max(mostMiB ?? 0, size)
  }, 100)
  try {
    const result = await work()
    return { result, mostMiB }
  } finally {
    clearInterval(timer)
  }
}
