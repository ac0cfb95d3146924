import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { extendLog } from '../../bench/synthetic-log.ts'
import { openSession } from '../../src/adapters/database.ts'
import { newestSize } from '../../src/log/published.ts'
import { keyWrapper, TestRelay } from '../support/relay.ts'

/** Tiles of three levels: 390 full ones of level 0, one of level 1. */
const leaves = 100_000
/** Where tiles end, and near it. The older checkpoints are of these. */
const olderSizes = [255, 256, 257, 65_535, 65_536, 65_537]

const folder = await mkdtemp(join(tmpdir(), 'tlog-client-'))
const client = buildClient(folder)
if (client === undefined) {
  console.warn('LOUD SKIP: no Go, or no golang.org/x/mod, so no foreign client has read a log of three tile levels')
}

/** golang.org/x/mod's own client of transparency logs, and a hundred lines that call it: go/main.go. */
function buildClient(target: string): string | undefined {
  const go = ['go', '/usr/local/go/bin/go', '/usr/lib/go/bin/go'].find((command) => {
    return spawnSync(command, ['version'], { stdio: 'ignore' }).status === 0
  })
  if (go === undefined) return undefined
  const program = join(target, 'client')
  const cwd = fileURLToPath(new URL('go', import.meta.url))
  const built = spawnSync(go, ['build', '-o', program, '.'], { cwd, timeout: 120_000, encoding: 'utf8' })
  if (built.status !== 0) console.warn(built.stderr)
  return existsSync(program) ? program : undefined
}

afterAll(() => rm(folder, { recursive: true }))

describe.runIf(client !== undefined && keyWrapper === 'local')(`a log of ${leaves} leaves`, () => {
  let relay: TestRelay
  const older: string[] = []

  beforeAll(async () => {
    relay = await TestRelay.start()
    const session = await openSession(relay.database.connection)
    const fresh = { url: relay.database.url, session, dataDir: relay.folder }
    await relay.close()
    for (const size of [...olderSizes, leaves]) {
      await extendLog(fresh as Parameters<typeof extendLog>[0], size, () => {})
      const [head] = await relay.database.database.query<{ checkpoint: string }>('select checkpoint from log')
      const file = join(folder, `checkpoint-${size}`)
      await writeFile(file, head?.checkpoint ?? '')
      if (size !== leaves) older.push(file)
    }
    await session.close()
    await relay.open()
    await writeFile(join(folder, 'vkeys'), relay.relay.vkeys.join('\n'))
  })

  afterAll(() => relay.stop())

  test("is verified whole by Go's own client, as the relay serves it", async () => {
    expect(await readWith(`${relay.url}/log`)).toMatch(
      new RegExp(`^${leaves} leaves, .* ${older.length} older checkpoints`),
    )
  })

  test('is verified whole from the object store alone, with relay and database gone', async () => {
    await expect.poll(async () => newestSize(await relay.openObjects()), { timeout: 60_000 }).toBe(leaves)
    await relay.close()
    // Any static server will do: the folder is the log.
    const server = createServer(async ({ url = '' }, response) => {
      const bytes = await readFile(join(relay.folder, 'objects', url)).catch(() => undefined)
      response.writeHead(bytes ? 200 : 404).end(bytes)
    })
    await once(server.listen(0, '127.0.0.1'), 'listening')
    const { port } = server.address() as AddressInfo
    expect(await readWith(`http://127.0.0.1:${port}/log`)).toContain(`${leaves} leaves`)
    server.close()
  })

  async function readWith(url: string): Promise<string> {
    const child = spawn(client ?? '', [url, join(folder, 'vkeys'), ...older])
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (said += chunk))
    const [code] = await once(child, 'close')
    expect(code, said).toBe(0)
    return said
  }
})
