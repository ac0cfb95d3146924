/**
 * Our witness and what it cosigns, held against others: a published conversation with litewitness, played to ours, and
 * the verifiers of torchwood and transparency-dev/formats (witness-go), which have never heard of us.
 */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { makeVerifierKey, parseVerifierKey } from '../../src/log/note.ts'
import { sha256 } from '../../src/message/digest.ts'
import type { Receipt } from '../../src/receipt/receipt.ts'
import { TestRelay } from '../support/relay.ts'
import { TestWitness } from '../support/witness.ts'

const program = fileURLToPath(new URL('./witness-go', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'countersign-witness-go-'))
const built = join(folder, 'witness-go')
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const go = [...(process.env.PATH ?? '').split(delimiter), '/usr/local/go/bin', '/usr/lib/go/bin']
  .map((path) => join(path, 'go'))
  .find((path) => existsSync(path))

/** Where Go keeps the module with the published conversation, once the program is built; undefined if it cannot be. */
function buildProgram(): string | undefined {
  if (go === undefined) return undefined
  const run = (...args: string[]) =>
    execFileSync(go, args, { cwd: program, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 240_000 })
  try {
    run('build', '-buildvcs=false', '-o', built, '.')
    return run('list', '-m', '-f', '{{.Dir}}', 'filippo.io/torchwood').trim()
  } catch (error) {
    console.warn(String(error))
    return undefined
  }
}

const torchwood = buildProgram()
if (torchwood === undefined) console.warn('LOUD SKIP: no Go, or no modules for it, so no third party checks witnesses')

const check = (input: string, ...args: string[]): string =>
  execFileSync(built, args, { input, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'] })

describe.skipIf(torchwood === undefined)('other people’s code', () => {
  test('verifies our cosignatures, and receipts whose policy demands two of them', { timeout: 60_000 }, async () => {
    const witnesses = [await TestWitness.start('one.test/w'), await TestWitness.start('two.test/w')]
    const relay = await TestRelay.start({ witnesses: witnesses.map(({ address }) => address), witnessQuorum: 2 })
    const { body: vkey } = await relay.call<string>('GET', '/log/vkey', { key: null })
    const log = { origin: relay.relay.origin, vkeys: [parseVerifierKey(vkey.trim())] }
    for (const witness of witnesses) await witness.watch(log)
    relay.clock.advance(60_000)
    const tenant = await relay.makeTenant()
    const { body: early } = await relay.post(tenant, { order: 1 })
    const { treeSize } = await relay.relay.head()
    const served = async () => (await relay.call<string>('GET', '/log/checkpoint', { key: null })).body
    await expect
      .poll(async () => Number(String(await served()).split('\n')[1]), { timeout: 20_000 })
      .toBeGreaterThanOrEqual(treeSize)

    const checkpoint = await served()
    for (const { vkey } of witnesses) expect(Number(check(checkpoint, 'cosigned', vkey))).toBeGreaterThan(1.7e9)
    const [one, two] = witnesses.map(({ vkey }) => vkey)
    const policy = `log ${vkey.trim()}\nwitness one ${one}\nwitness two ${two}\ngroup both all one two\nquorum both\n`
    const { body: receipt } = await relay.call<Receipt>('GET', `/v1/messages/${early.message}/receipt`)
    const entry = sha256(Buffer.from(receipt.payload, 'base64url')).toString('base64')
    const proof = (text: string, about = entry) => check(text, 'proof', policy, about)
    expect(proof(receipt.header['tlog-proof'])).toBe('')
    expect(() => proof(early.header['tlog-proof']), 'the receipt of the 202 has no cosignatures').toThrow()
    expect(() => proof(receipt.header['tlog-proof'], sha256(Buffer.from('x')).toString('base64'))).toThrow()
    await relay.stop()
    for (const witness of witnesses) await witness.stop()
  })

  test('our witness answers the conversation published with litewitness as litewitness does', async () => {
    const script = readFileSync(join(torchwood ?? '', 'cmd/litewitness/testdata/litewitness.txt'), 'utf8')
    const conversation = [
      ...script.matchAll(
        /POST \S+\/add-checkpoint\n```\n([\s\S]*?)```\nHTTP (\d+)\n\[Asserts\]\nbody (\w+|==) (".*")\n/g,
      ),
    ]
    expect(conversation.length).toBeGreaterThan(7)
    const origin = /^(sigsum\.org\/v1\/tree\/\S+)$/m.exec(script)?.[1] ?? ''
    const key = Buffer.from(/add-sigsum-log -key=([0-9a-f]{64})/.exec(script)?.[1] ?? '', 'hex')
    const witness = await TestWitness.start('example.com/witness')
    await witness.watch({ origin, vkeys: [parseVerifierKey(makeVerifierKey(origin, key))] })
    for (const [i, [, body = '', status, relation, quoted = '']] of conversation.entries()) {
      const answer = await fetch(`${witness.url}/add-checkpoint`, { method: 'POST', body })
      const text = await answer.text()
      expect(answer.status, `${i}: ${text}`).toBe(Number(status))
      if (relation === '==') expect(text).toBe(JSON.parse(quoted)) // what the others contain is wording
      if (answer.status === 200) expect(text).toContain(JSON.parse(quoted))
    }
    await witness.stop()
  })
})
