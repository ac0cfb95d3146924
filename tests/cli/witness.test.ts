/** `countersign witness` as a customer runs it: a process, a key, a file of state, and HTTP to the byte. */
import { type ChildProcess, spawn } from 'node:child_process'
import { hash } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { WitnessMemory } from '../../src/cli/witness/memory.ts'
import { buildWitnessServer } from '../../src/cli/witness/server.ts'
import { openCheckpoint, signCheckpoint } from '../../src/log/checkpoint.ts'
import { generateSecretKey, parseSecretKey } from '../../src/log/cosigner.ts'
import { makeVerifierKey, parseVerifierKey } from '../../src/log/note.ts'
import { hashLeaf, proveConsistency } from '../../src/log/tree.ts'
import { formatRequest, witnessedNothing } from '../../src/log/witness.ts'
import { makeNoteKey } from '../log/note-key.ts'
import { rfc6962 } from '../log/rfc6962.ts'
import { countersign } from './run.ts'

const origin = 'relay.test/log'
const logKey = makeNoteKey(origin, 1)
const logVkey = makeVerifierKey(origin, logKey.publicKey)
const leaves = Array.from({ length: 400 }, (_, i) => hashLeaf(hash('sha256', `leaf ${i}`, 'buffer')))
const slow = rfc6962((start, end) => (end - start === 1 ? leaves[start] : undefined))
const checkpointAt = (treeSize: number) =>
  signCheckpoint({ origin, treeSize, rootHash: slow.treeHash(0, treeSize) }, [logKey.signer])
const requestFor = (oldSize: number, treeSize: number) => {
  const node = (level: number, i: number) => slow.treeHash(i * 2 ** level, (i + 1) * 2 ** level)
  const proof = oldSize === 0 ? [] : proveConsistency(oldSize, treeSize, node)
  return formatRequest({ oldSize, proof, checkpoint: checkpointAt(treeSize) })
}

let folder: string
const running: ChildProcess[] = []
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'countersign-witness-'))
})
afterEach(async () => {
  for (const child of running.splice(0)) child.kill('SIGKILL')
  await rm(folder, { recursive: true, force: true })
})

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
const argumentsFor = (log: string) => {
  const files = ['--key', join(folder, 'key'), '--state', join(folder, 'state')]
  return ['witness', '--log', log, ...files, '--name', 'acme.test/witness', '--listen', '127.0.0.1:0']
}

interface RunningWitness {
  readonly url: string
  readonly vkey: string
  readonly firstLine: string
  /** Ends it, and resolves to its exit code; null if it was killed. */
  end(signal: NodeJS.Signals): Promise<number | null>
}

async function startWitness(): Promise<RunningWitness> {
  const child = spawn(process.execPath, [main, ...argumentsFor(logVkey)], { stdio: ['ignore', 'pipe', 'inherit'] })
  running.push(child)
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  const firstLine = String((await lines.next()).value)
  const vkey = String((await lines.next()).value).replace('vkey ', '')
  void (async () => {
    while (!(await lines.next()).done); // or the pipe would fill
  })()
  const url = /http:\S+/.exec(firstLine)?.[0] ?? ''
  return {
    ...{ url, vkey, firstLine },
    async end(signal) {
      child.kill(signal)
      const [code] = (await once(child, 'exit')) as [number | null]
      return code
    },
  }
}

const add = async (url: string, body: Uint8Array) => {
  const answer = await fetch(`${url}/add-checkpoint`, { method: 'POST', body } as RequestInit)
  return { status: answer.status, type: answer.headers.get('content-type'), body: await answer.text() }
}

const trusting = (vkey: string) => ({ origin, vkeys: [logKey.key, parseVerifierKey(vkey)] })

describe('a witness process', () => {
  test('makes its key at first start, and answers to the byte what the specification says', async () => {
    const witness = await startWitness()
    expect(witness.firstLine).toContain('from 0 leaves on')
    expect(witness.vkey).toMatch(/^acme\.test\/witness\+[0-9a-f]{8}\+B/)
    for (const file of ['key', 'state']) expect((await stat(join(folder, file))).mode & 0o777).toBe(0o600)

    const monitored = `${witness.url}/${hash('sha256', origin)}/checkpoint`
    expect((await fetch(monitored)).status).toBe(404)
    const cosigned = await add(witness.url, requestFor(0, 10))
    expect(cosigned).toMatchObject({ status: 200, type: 'text/plain; charset=utf-8' })
    expect(cosigned.body).toMatch(/^— acme\.test\/witness [A-Za-z0-9+/]+=*\n$/)
    const opened = openCheckpoint(checkpointAt(10) + cosigned.body, trusting(witness.vkey))
    expect(Math.abs(Date.now() - Number(opened.verified[1]?.cosignedAt))).toBeLessThan(60_000)

    expect(await add(witness.url, requestFor(0, 20))).toEqual({ status: 409, type: 'text/x.tlog.size', body: '10\n' })
    const answers = await Promise.all([
      add(witness.url, Buffer.from('old 10')),
      add(witness.url, Buffer.from(requestFor(10, 20).toString().replaceAll(origin, 'else.test/log'))),
      add(witness.url, formatRequest({ oldSize: 10, proof: [], checkpoint: checkpointAt(20) })),
      add(witness.url, Buffer.alloc(65 * 1024, 'x')),
      fetch(`${witness.url}/add-checkpoint`),
      fetch(`${witness.url}/elsewhere`, { method: 'POST', body: 'x' }),
    ])
    expect(answers.map(({ status }) => status)).toEqual([400, 404, 422, 413, 405, 404])
    const shown = await fetch(monitored)
    expect(await shown.text()).toBe(checkpointAt(10) + cosigned.body)
    expect(await witness.end('SIGTERM')).toBe(0)
  })

  test('goes on from where it was, with the same key', async () => {
    const first = await startWitness()
    expect((await add(first.url, requestFor(0, 10))).status).toBe(200)
    await first.end('SIGTERM')
    const second = await startWitness()
    expect(second).toMatchObject({ vkey: first.vkey, firstLine: expect.stringContaining('from 10 leaves on') })
    expect(await add(second.url, requestFor(5, 12))).toMatchObject({ status: 409, body: '10\n' })
    expect((await add(second.url, requestFor(10, 12))).status).toBe(200)
  })

  test('of many requests at the same time takes one after the other: nobody is cosigned twice, or behind', async () => {
    const witness = await startWitness()
    const sizes = Array.from({ length: 30 }, (_, i) => i + 1)
    const answers = await Promise.all(sizes.map((treeSize) => add(witness.url, requestFor(0, treeSize))))
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
    expect(new Set(answers.filter(({ status }) => status === 409).map(({ body }) => body)).size).toBe(1)
  })

  test('killed at any moment has not forgotten what it answered', async () => {
    let cosigned = 0
    for (let round = 0; round < 3; round++) {
      const witness = await startWitness()
      expect(Number(/from (\d+) leaves/.exec(witness.firstLine)?.[1])).toBeGreaterThanOrEqual(cosigned)
      const growing = (async () => {
        let size = Number((await add(witness.url, requestFor(399, 400))).body) // 409 tells
        for (;;) {
          if ((await add(witness.url, requestFor(size, size + 1))).status === 200) cosigned = size + 1
          size += 1
        }
      })().catch(() => {}) // the connection that the kill ends
      await expect.poll(() => cosigned, { timeout: 10_000, interval: 1 }).toBeGreaterThan(round * 20 + 10)
      await witness.end('SIGKILL')
      await growing
    }
  })
})

describe('a witness that has lost its memory does not start', () => {
  const refused = async (what: RegExp, log = logVkey) => {
    const { code, stdout, stderr } = await countersign(argumentsFor(log))
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^countersign: [^\n]+\n$/)
    expect(stderr).toMatch(what)
  }
  beforeEach(async () => {
    const witness = await startWitness()
    await add(witness.url, requestFor(0, 10))
    await witness.end('SIGTERM')
  })

  test('a state file that is torn, empty, or gone', async () => {
    const state = join(folder, 'state')
    const kept = await readFile(state)
    await writeFile(state, kept.subarray(0, kept.length - 20))
    await refused(/state cannot be used/)
    await writeFile(state, '')
    await refused(/state cannot be used/)
    await rm(state)
    await refused(/would cosign a fork/)
  })

  test('a key that is gone, or another, or another log', async () => {
    await refused(/state cannot be used: wrong_origin/, makeVerifierKey('else.test/log', logKey.publicKey))
    await writeFile(join(folder, 'key'), generateSecretKey('acme.test/witness'))
    await refused(/state cannot be used: no_known_signature/)
    await writeFile(join(folder, 'key'), 'nonsense')
    await refused(/key cannot be used/)
    await rm(join(folder, 'key'))
    await refused(/not its key/)
  })
})

test('what cannot be kept is not answered, and not remembered', async () => {
  const cosigner = parseSecretKey(generateSecretKey('acme.test/witness'))
  const witness = { cosigner, log: { origin, vkeys: [logKey.key] } }
  let disk: 'full' | 'fine' = 'full'
  const told: string[] = []
  const memory = new WitnessMemory(witness, witnessedNothing(witness, new Date()), async () => {
    if (disk === 'full') throw new Error('ENOSPC: no space left on device')
  })
  const server = buildWitnessServer(memory, origin, (line) => void told.push(line))
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  expect(await add(url, requestFor(0, 10))).toMatchObject({ status: 500, body: 'nothing was cosigned\n' })
  expect(told.at(-1)).toContain('ENOSPC')
  disk = 'fine'
  expect((await add(url, requestFor(0, 5))).status).toBe(200)
  server.closeAllConnections()
  server.close()
})
