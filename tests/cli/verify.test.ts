import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Cosigner, generateSecretKey, parseSecretKey } from '../../src/log/cosigner.ts'
import type { Verdict } from '../../src/receipt/verify.ts'
import { issuer, makeLogKey, makePayloadKey, makeReceipt, makeSourceReceipt, now, origin } from './published.ts'
import { countersign } from './run.ts'

const keys = { payloadKey: makePayloadKey(), logKey: makeLogKey() }
const payload = Buffer.from('{ "order": 4711, "total": 99.90 }')
const receipt = makeReceipt('msg_1', payload, keys)
const jwks = JSON.stringify({ keys: [keys.payloadKey.published] })
const vkey = `${keys.logKey.vkey}\n`

let folder: string
let files: Record<'receipt' | 'payload' | 'jwks' | 'vkey', string>

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'countersign-verify-'))
  files = {
    receipt: await file('receipt.json', JSON.stringify(receipt)),
    payload: await file('payload.json', payload),
    jwks: await file('jwks.json', jwks),
    vkey: await file('vkey.txt', vkey),
  }
})
afterAll(() => rm(folder, { recursive: true }))

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, content)
  return path
}

const verify = (changed: Partial<typeof files> & { more?: string[]; input?: string } = {}) => {
  const { more = [], input = '', ...paths } = { ...files, ...changed }
  return countersign(['verify', paths.receipt, paths.payload, '--jwks', paths.jwks, '--vkey', paths.vkey, ...more], {
    input,
  })
}

const linesOf = (text: string): string[] => text.split('\n').filter(Boolean)

describe('a receipt of something else than a message', () => {
  const subject = makeSourceReceipt('src_1', keys)
  const young = { keys: [{ ...keys.payloadKey.published, nbf: now.getTime() / 1000 + 3600 }] }

  test('is valid, and nobody misses a payload', async () => {
    const path = await file('source.json', JSON.stringify(subject))
    const { code, stdout } = await countersign(['verify', path, '--jwks', files.jwks, '--vkey', files.vkey])
    expect(code).toBe(0)
    expect(stdout).toContain('valid: source.created src_1')
    expect(stdout).not.toContain('payload')
  })

  test('by a key younger than its statement is valid if the log has the statement, and else is not', async () => {
    const path = await file('source.json', JSON.stringify(subject))
    const jwks = await file('younger.json', JSON.stringify(young))
    const proven = await countersign(['verify', path, '--jwks', jwks, '--vkey', files.vkey])
    expect(proven.code).toBe(0)
    const unproven = await countersign(['verify', path, '--jwks', jwks])
    expect(unproven.code).toBe(1)
    expect(unproven.stdout).toContain('✗ key_state — the statement is older than the key, and nothing proves')
  })
})

describe('a receipt that holds', () => {
  test('is valid, with a line for each check', async () => {
    const { code, stdout, stderr } = await verify({ more: ['--issuer', issuer] })
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const lines = linesOf(stdout)
    const names = lines.filter((line) => line.startsWith('✓')).map((line) => line.split(' ')[1])
    expect(names).toEqual([
      'format',
      'checkpoint_signature',
      'log_inclusion',
      'key_known',
      'signature',
      'statement',
      'key_state',
      'payload_digest',
    ])
    expect(lines.at(-1)).toBe(`valid: message.accepted msg_1, stated by ${issuer} at ${now.toISOString()}`)
  })

  test('is valid with a payload written differently', async () => {
    const payload = await file('rewritten.json', '{"total":99.9,"order":4711}')
    expect((await verify({ payload })).code).toBe(0)
  })

  test('is valid from standard input', async () => {
    expect((await verify({ receipt: '-', input: JSON.stringify(receipt) })).code).toBe(0)
  })

  test('is valid by a JWKS with keys of other kinds, and by one whose key is about to leave it', async () => {
    const leaving = { ...keys.payloadKey.published, exp: now.getTime() / 1000 + 86_400 }
    const jwks = await file('more-keys.json', JSON.stringify({ keys: [{ kty: 'RSA', n: 'x', e: 'AQAB' }, leaving] }))
    expect((await verify({ jwks })).code).toBe(0)
  })

  test('is valid by one of several keys of the log', async () => {
    const vkey = await file('vkeys.txt', `${makeLogKey().vkey}\n${keys.logKey.vkey}\n`)
    expect((await verify({ vkey })).code).toBe(0)
  })

  test('without the key of the log is valid, and says loudly that inclusion was not checked', async () => {
    const { code, stdout } = await countersign(['verify', files.receipt, '--jwks', files.jwks])
    expect(code).toBe(0)
    expect(stdout).not.toContain('log_inclusion')
    expect(linesOf(stdout).filter((line) => line.startsWith('!'))).toEqual([
      expect.stringContaining('NOT CHECKED'),
      expect.stringContaining('no payload'),
    ])
  })

  test('gives its verdict as JSON, in the form of POST /v1/verify', async () => {
    const { code, stdout } = await verify({ more: ['--json'] })
    expect(code).toBe(0)
    const verdict = JSON.parse(stdout) as Verdict
    expect(verdict).toMatchObject({
      verdict: 'valid',
      key: { kid: keys.payloadKey.kid },
      log: { origin, leaf_index: 4, tree_size: 5 },
      statement: { sub: 'msg_1' },
    })
  })
})

describe('a receipt of which cosignatures are demanded', () => {
  const makeWitness = (name: string) => parseSecretKey(generateSecretKey(name))
  const [one, two, absent] = ['one.test/w', 'two.test/w', 'absent.test/w'].map(makeWitness) as [
    Cosigner,
    Cosigner,
    Cosigner,
  ]
  const cosigned = () => file('cosigned.json', JSON.stringify(makeReceipt('msg_1', payload, keys, [one, two])))
  const demand = (...witnesses: Cosigner[]) => witnesses.flatMap(({ vkey }) => ['--witness', vkey])

  test('is valid if all are there, or as many as the quorum, and the verdict names them', async () => {
    const { code, stdout } = await verify({ receipt: await cosigned(), more: demand(one, two) })
    expect({ code, line: linesOf(stdout).find((line) => line.includes('cosignatures')) }).toEqual({
      code: 0,
      line: '✓ cosignatures — 2 of the witnesses given cosigned the checkpoint',
    })
    const more = [...demand(one, absent), '--quorum', '1', '--json']
    const verdict = JSON.parse((await verify({ receipt: await cosigned(), more })).stdout)
    expect(verdict).toMatchObject({
      verdict: 'valid',
      log: { cosignatures: [{ witness: 'one.test/w', cosigned_at: now.toISOString() }] },
    })
  })

  test('is invalid if one is missing, or signed another checkpoint', async () => {
    const missing = await verify({ receipt: await cosigned(), more: demand(one, absent) })
    expect({ code: missing.code, stdout: missing.stdout }).toEqual({
      code: 1,
      stdout: expect.stringContaining('✗ cosignatures — 1 of the witnesses given cosigned the checkpoint, 2 must'),
    })
    const liar: Cosigner = {
      ...two,
      at: () => ({ ...two.at(now), sign: () => two.at(now).sign(Buffer.from('another')) }),
    }
    const lie = await file('lie.json', JSON.stringify(makeReceipt('msg_1', payload, keys, [one, liar])))
    const { code, stdout } = await verify({ receipt: lie, more: [...demand(one, two), '--quorum', '1'] })
    expect({ code, stdout }).toEqual({ code: 1, stdout: expect.stringContaining('✗ checkpoint_signature') })
  })

  test('without a witness says that another party may be shown another log', async () => {
    const { stdout } = await verify({ receipt: await cosigned() })
    expect(linesOf(stdout)).toContainEqual(expect.stringMatching(/^! no witness was demanded/))
  })

  test.each([
    ['a key of a log', () => demand({ ...one, vkey: keys.logKey.vkey })],
    ['the same witness twice', () => demand(one, one)],
    ['a quorum larger than the witnesses', () => [...demand(one), '--quorum', '2']],
    ['a quorum without a witness', () => ['--quorum', '1']],
  ])('%s is told in one sentence', async (_what, more) => {
    expectUnreadable(await verify({ receipt: await cosigned(), more: more() }))
  })
})

describe('keys from a URL', () => {
  const answers: Record<string, [status: number, body: string | Uint8Array, headers?: Record<string, string>]> = {
    '/jwks': [200, jwks],
    '/vkey': [200, vkey],
    '/gone': [404, jwks],
    '/moved': [302, '', { location: '/jwks' }],
    '/endless': [200, jwks.padEnd(17 * 1024 * 1024)], // a JWKS all the same
  }
  const server = createServer(({ url = '' }, response) => {
    const [status, body, headers] = answers[url] ?? [500, '']
    response.writeHead(status, headers).end(body)
  })
  let url: string
  beforeAll(async () => {
    await once(server.listen(0, '127.0.0.1'), 'listening')
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  })
  afterAll(() => server.close())

  test('verify as keys from a file do', async () => {
    expect((await verify({ jwks: `${url}/jwks`, vkey: `${url}/vkey` })).code).toBe(0)
  })

  test.each(['/gone', '/moved', '/endless'])('are refused from %s, in one sentence', async (path) => {
    expectUnreadable(await verify({ jwks: `${url}${path}` }))
  })

  test('are refused from where nobody answers, in one sentence', async () => {
    const closed = createServer().listen(0, '127.0.0.1')
    await once(closed, 'listening')
    const { port } = closed.address() as AddressInfo
    await once(closed.close(), 'close')
    expectUnreadable(await verify({ jwks: `http://127.0.0.1:${port}/` }))
  })
})

describe('a receipt that does not hold is invalid, and names the check that failed', () => {
  const stranger = { payloadKey: makePayloadKey(), logKey: makeLogKey() }

  test.each([
    ['no receipt', { some: 'object' }, 'format'],
    ['another message', { ...receipt, message: 'msg_2' }, 'statement'],
    ['another signature', { ...receipt, signature: makeReceipt('msg_1', payload, keys).signature }, 'signature'],
    ['a stranger’s receipt', makeReceipt('msg_1', payload, stranger), 'key_known'],
    [
      'another log’s receipt',
      makeReceipt('msg_1', payload, { ...keys, logKey: stranger.logKey }),
      'checkpoint_signature',
    ],
    ['another receipt’s proof', { ...receipt, header: makeReceipt('msg_1', payload, keys).header }, 'log_inclusion'],
    [
      'a proof that is none',
      { ...receipt, header: { 'tlog-proof': 'c2sp.org/tlog-proof@v1\n' } },
      'checkpoint_signature',
    ],
  ])('%s', async (name, value, check) => {
    const { code, stdout, stderr } = await verify({ receipt: await file(`${name}.json`, JSON.stringify(value)) })
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    expect(stdout).toContain(`✗ ${check} — `)
    expect(stdout).toMatch(/\ninvalid: \d of \d checks failed\n$/)
  })

  test.each([
    ['another payload', '{"order":4712,"total":99.9}'],
    ['no JSON', '{"order":'],
    ['nothing', ''],
  ])('for a payload file that holds %s', async (name, content) => {
    const { code, stdout } = await verify({ payload: await file(`payload ${name}.json`, content) })
    expect(code).toBe(1)
    expect(stdout).toContain('✗ payload_digest — ')
  })

  test('by another issuer than the one expected', async () => {
    const { code, stdout } = await verify({ more: ['--issuer', 'https://relay.example'] })
    expect(code).toBe(1)
    expect(stdout).toContain('✗ statement — ')
  })

  test('by a key that was not active yet', async () => {
    const { published } = keys.payloadKey
    const jwks = await file(
      'young.json',
      JSON.stringify({ keys: [{ ...published, nbf: now.getTime() / 1000 + 3600 }] }),
    )
    const { code, stdout } = await verify({ jwks })
    expect(code).toBe(1)
    expect(stdout).toContain('✗ key_state — ')
  })

  test('as JSON too', async () => {
    const { code, stdout } = await verify({ more: ['--json', '--issuer', 'https://relay.example'] })
    expect(code).toBe(1)
    expect(JSON.parse(stdout)).toMatchObject({ verdict: 'invalid' })
  })
})

describe('what cannot be read is told in one sentence, with exit code 2', () => {
  const { published } = keys.payloadKey
  const jwksOf = (...members: unknown[]): string => JSON.stringify({ keys: members })

  test.each<[string, keyof typeof files, string | Uint8Array]>([
    ['an empty receipt', 'receipt', ''],
    ['a receipt cut short', 'receipt', JSON.stringify(receipt).slice(0, -1)],
    ['a receipt with a member twice', 'receipt', JSON.stringify(receipt).replace('{', '{"message":"msg_2",')],
    ['a receipt that is not UTF-8', 'receipt', Uint8Array.of(0x22, 0xff, 0x22)],
    ['a receipt nested beyond the limit', 'receipt', `${'['.repeat(65)}${']'.repeat(65)}`],
    ['a JWKS that is no JSON', 'jwks', '<html>'],
    ['a JWKS that is an array', 'jwks', '[]'],
    ['a JWKS without keys', 'jwks', '{}'],
    ['a JWKS of no keys', 'jwks', jwksOf()],
    ['a JWKS of things that are no keys', 'jwks', jwksOf(null, 1, [], 'key', {})],
    ['a JWKS with a key of 31 bytes', 'jwks', jwksOf({ ...published, x: published.x.slice(2) })],
    ['a JWKS with another kid', 'jwks', jwksOf({ ...published, kid: makePayloadKey().kid })],
    ['a JWKS with a time that is none', 'jwks', jwksOf({ ...published, nbf: 'yesterday' })],
    ['a JWKS with a time beyond every date', 'jwks', jwksOf({ ...published, exp: 1e15 })],
    ['a vkey file without a line', 'vkey', '\n'],
    ['a vkey that is none', 'vkey', 'localhost:8080/log+00000000+AAAA\n'],
    ['a vkey whose key was exchanged', 'vkey', vkey.replace(/[^+]+$/, makeLogKey().vkey.split('+')[2] ?? '')],
    ['vkeys of two logs', 'vkey', `${vkey}${makeLogKey('example.com/log').vkey}\n`],
    ['bytes for a vkey', 'vkey', Uint8Array.of(0x00, 0xff, 0x0a)],
  ])('%s', async (name, role, content) => {
    expectUnreadable(await verify({ [role]: await file(`${name}.${role}`, content) }))
  })

  test.each(['receipt', 'payload', 'jwks', 'vkey'] as const)('a %s file that is missing, or a folder', async (role) => {
    await mkdir(join(folder, 'a-folder'), { recursive: true })
    expectUnreadable(await verify({ [role]: join(folder, 'missing') }))
    expectUnreadable(await verify({ [role]: join(folder, 'a-folder') }))
  })

  test.each(['payload', 'jwks', 'vkey'] as const)(
    'a %s from standard input, which only the receipt may use',
    async (role) => {
      expectUnreadable(await verify({ [role]: '-' }))
    },
  )
})

function expectUnreadable({ code, stdout, stderr }: Awaited<ReturnType<typeof countersign>>): void {
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toMatch(/^countersign: [^\n]+\n$/)
  expect(stderr).not.toMatch(/\bat .+:\d+:\d+/)
}
