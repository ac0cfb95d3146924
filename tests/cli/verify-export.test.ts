import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { exported, linesOf, textOf } from '../support/export.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'
import { makePayloadKey } from './published.ts'
import { countersign } from './run.ts'

let relay: TestRelay
let tenant: TestTenant
let folder: string
let file: string
let lines: string[]
let vkey: string

beforeAll(async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
  for (let order = 0; order < 5; order++) await relay.post(tenant, { order })
  folder = await mkdtemp(join(tmpdir(), 'countersign-verify-export-'))
  const bytes = await exported(relay, tenant.id)
  lines = linesOf(bytes)
  file = await write('audit.ndjson.zst', bytes)
  vkey = await write('vkey.txt', (await relay.call<string>('GET', '/log/vkey', { key: null })).body)
})
afterAll(async () => {
  await relay?.stop()
  await rm(folder, { recursive: true, force: true })
})

async function write(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, content)
  return path
}

const verify = (...args: string[]) => countersign(['verify', 'export', ...args])

describe('an export that holds', () => {
  test('is valid, with a line for what was checked and one for what was not', async () => {
    const { code, stdout } = await verify(file, '--vkey', vkey)
    expect(code).toBe(0)
    const names = [...stdout.matchAll(/^✓ (\w+)/gm)].map(([, name]) => name)
    expect(names).toEqual(['checkpoint', 'inclusion', 'completeness', 'range', 'signatures'])
    expect(stdout).toContain('! THE SIGNING KEYS CAME WITH THE FILE')
    expect(stdout.trimEnd().split('\n').at(-1)).toBe(`valid: the audit log of ${tenant.id}`)
  })

  test.each(['/v1/keys', '/.well-known/jwks.json'])('is valid by the keys of %s', async (path) => {
    const keys = await write('keys.json', JSON.stringify((await relay.call('GET', path, { key: null })).body))
    const { code, stdout } = await verify(file, '--vkey', vkey, '--jwks', keys)
    expect(code).toBe(0)
    expect(stdout).not.toContain('!')
  })

  test('is valid by a vkey given as it is, and by keys from URLs', async () => {
    const { body } = await relay.call<string>('GET', '/log/vkey', { key: null })
    expect((await verify(file, '--vkey', body.trim())).code).toBe(0)
    expect((await verify(file, '--vkey', `${relay.url}/log/vkey`, '--jwks', `${relay.url}/v1/keys`)).code).toBe(0)
  })

  test('is valid from standard input, as gzip and as plain lines', async () => {
    expect(
      (await countersign(['verify', 'export', '-', '--vkey', vkey], { input: textOf(lines).toString() })).code,
    ).toBe(0)
    const gzip = await write('audit.ndjson.gz', gzipSync(textOf(lines)))
    expect((await verify(gzip, '--vkey', vkey)).code).toBe(0)
  })

  test('tells its progress apart from its verdict, which can be JSON', async () => {
    const { code, stdout, stderr } = await verify(file, '--vkey', vkey, '--json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ verdict: 'valid', tenant: tenant.id, signed: 5, withheld: 0 })
    expect(stderr).toMatch(/^100 %, [\d,]+ bytes read\n$/)
  })
})

describe('an export that does not hold', () => {
  test('is invalid, by the leaf that is wrong', async () => {
    const place = lines.findIndex((line) => /^\{"index".*"kid"/.test(line))
    const { index } = JSON.parse(lines[place] ?? '') as { index: number }
    const cut = await write('cut.ndjson', textOf(lines.toSpliced(place, 1)))
    const told = await verify(cut, '--vkey', vkey)
    expect(told.code).toBe(1)
    expect(told.stdout).toMatch(new RegExp(`^✗ removed — leaf ${index}, line \\d+: .+\\n\\ninvalid\\n$`))
    const { stdout } = await verify(cut, '--vkey', vkey, '--json')
    expect(JSON.parse(stdout)).toMatchObject({ verdict: 'invalid', fault: 'removed', leaf_index: index })
  })

  test('by the keys of somebody else, of the log or of payloads', async () => {
    const stranger = makePayloadKey()
    const keys = await write('stranger.json', JSON.stringify({ keys: [stranger.published] }))
    const byTheirs = await verify(file, '--vkey', vkey, '--jwks', keys)
    expect({ code: byTheirs.code, first: byTheirs.stdout.split(' — ')[0] }).toEqual({ code: 1, first: '✗ unsigned' })
    const another = await TestRelay.start()
    try {
      const byAnother = await verify(file, '--vkey', `${another.url}/log/vkey`)
      expect({ code: byAnother.code, first: byAnother.stdout.split(' — ')[0] }).toEqual({
        code: 1,
        first: '✗ unsigned',
      })
    } finally {
      await another.stop()
    }
  })
})

describe('what cannot be read is told in one sentence, with exit code 2', () => {
  test.each([
    ['no such file', () => [join(folder, 'missing'), '--vkey', vkey]],
    ['a folder', () => [folder, '--vkey', vkey]],
    ['no such vkey', () => [file, '--vkey', join(folder, 'missing')]],
    ['a vkey that is none', () => [file, '--vkey', file]],
    ['keys that are none', () => [file, '--vkey', vkey, '--jwks', vkey]],
    ['no vkey at all', () => [file]],
  ])('%s', async (_what, args) => {
    const { code, stdout, stderr } = await verify(...args())
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(/^countersign: [^\n]+\n$/)
  })
})
