import { createPublicKey } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { type Ending, openRelay } from '../../src/main.ts'
import { silentLogger } from '../support/database.ts'
import { type KmsServer, startKmsServer } from '../support/kms-server.ts'
import { adminKey, TestRelay, type TestTenant } from '../support/relay.ts'
import { countersign, type Run, type RunOptions } from './run.ts'

const day = 86_400_000

interface Key {
  readonly kid: string
  readonly purpose: string
  readonly state: string
  readonly x: string
  readonly revoked_reason?: string
}

let relay: TestRelay
let tenant: TestTenant

const start = async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
}
const stop = () => relay.stop()

const keys = (args: readonly string[], options: RunOptions = {}): Promise<Run> =>
  countersign(['keys', ...args], { env: { COUNTERSIGN_ADMIN_KEY: adminKey }, ...options })

/** The keys of the relay, as it answers itself. */
const history = async (): Promise<Key[]> => {
  relay.clock.advance(1000) // the answer is remembered for a second
  return (await relay.call<{ keys: Key[] }>('GET', '/v1/keys', { key: null })).body.keys
}

const activeKey = async (purpose = 'payload'): Promise<Key> =>
  (await history()).find((key) => key.purpose === purpose && key.state === 'active') as Key

/** One sentence on standard error, exit code 2. */
function expectRefused({ code, stdout, stderr }: Run): void {
  expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
  expect(stderr).toMatch(/^countersign: [^\n]+\n$/)
  expect(stderr).not.toMatch(/\bat .+:\d+:\d+/)
}

describe('keys list', () => {
  beforeAll(start)
  afterAll(stop)

  test('shows each key within 100 columns, and that the answer is signed', async () => {
    const { code, stdout, stderr } = await keys(['list', '--relay', `${relay.url}/`])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const lines = stdout.split('\n')
    for (const { kid, purpose, state } of await history()) {
      expect(lines.filter((line) => line.startsWith(`${purpose.padEnd(7)} ${kid.slice(0, 8)} ${state}`))).toHaveLength(
        2,
      )
    }
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100)
    expect(lines.at(-2)).toMatch(/^Signed by /)
  })

  test('--ascii prints nothing else', async () => {
    const { code, stdout } = await keys(['list', '--ascii', '--relay', relay.url])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^[\n\x20-\x7e]*$/)
  })

  test('--json prints the answer as it came', async () => {
    const { code, stdout } = await keys(['list', '--json', '--relay', relay.url])
    expect(code).toBe(0)
    const answer = JSON.parse(stdout) as { keys: Key[]; signed: string }
    expect(answer.keys).toEqual(await history())
    expect(answer.signed.split('.')).toHaveLength(3)
  })

  describe('an answer that the active key did not sign', () => {
    interface Answer {
      readonly keys: readonly Record<string, unknown>[]
      readonly signed: string
    }
    const sign = (pattern: RegExp, by: string) => (answer: Answer) => ({
      ...answer,
      signed: answer.signed.replace(pattern, by),
    })
    const change = (change: object) => (answer: Answer) => ({
      ...answer,
      keys: answer.keys.map((key) => ({ ...key, ...change })),
    })

    test.each<[string, (answer: Answer) => Answer]>([
      ['a time was moved', change({ generated_at: '2020-01-01T00:00:00.000Z' })],
      ['a key was left out', ({ keys, signed }) => ({ signed, keys: keys.filter(({ purpose }) => purpose !== 'log') })],
      ['no key is active', change({ state: 'retired' })],
      ['the signature is another', sign(/[^.]+$/, 'A'.repeat(86))],
      ['the signature is missing', sign(/[^.]+$/, '')],
      ['there is a fourth part', sign(/$/, '.AAAA')],
      ['the header is another', sign(/^[^.]+/, 'eyJhbGciOiJub25lIn0')],
    ])('is shown, with exit code 1: %s', async (_, alter) => {
      const { body } = await relay.call<Answer>('GET', '/v1/keys', { key: null })
      await using liar = await serveJson(alter(body))
      const shown = await keys(['list', '--relay', liar.url])
      expect(shown.code).toBe(1)
      expect(shown.stdout).toMatch(/\nNOT SIGNED .+\n$/)
      expect((await keys(['list', '--json', '--relay', liar.url])).code).toBe(1)
      expectRefused(await keys(['export-public', '--dir', join(tmpdir(), 'never-written'), '--relay', liar.url]))
    })

    test.each<[string, unknown]>([
      ['no history', { jwks: [] }],
      ['a key that is none', { keys: [{ kid: 'x' }], signed: '' }],
      [
        'a kid that is not the thumbprint',
        {
          keys: [
            {
              kid: 'A'.repeat(43),
              x: 'A'.repeat(43),
              purpose: 'log',
              state: 'next',
              generated_at: '2026-01-01T00:00:00Z',
            },
          ],
          signed: '',
        },
      ],
    ])('is refused if it is %s', async (_, answer) => {
      await using liar = await serveJson(answer)
      expectRefused(await keys(['list', '--relay', liar.url]))
    })
  })

  test('tells in one sentence that nobody answers', async () => {
    const { url } = await serveJson({}).then(async (server) => {
      await server[Symbol.asyncDispose]()
      return server
    })
    expectRefused(await keys(['list', '--relay', url]))
    expectRefused(await keys(['rotate', '--purpose', 'log', '--dry-run', '--relay', url]))
  })

  test('tells in one sentence that the policy cannot be read', async () => {
    expectRefused(await keys(['list', '--relay', relay.url], { env: { KEY_POLICY: relay.folder } }))
  })
})

describe('keys rotate', () => {
  beforeEach(start)
  afterEach(stop)

  test('--dry-run changes nothing, and knows whether receivers have seen the key that would sign', async () => {
    const before = await history()
    const young = await keys(['rotate', '--purpose', 'payload', '--dry-run', '--relay', relay.url])
    expect(young.code).toBe(0)
    expect(young.stdout).toContain('not published before')
    expect(young.stdout).toContain('300 s')
    expect(await history()).toEqual(before)

    relay.clock.advance(61 * day)
    const due = await keys(['rotate', '--purpose', 'payload', '--dry-run', '--relay', relay.url])
    expect(due.stdout).toContain('generate payload key, generate log key')
    await relay.relay.rotation.tick()
    const next = (await history()).find((key) => key.state === 'next' && key.purpose === 'payload')
    const published = await keys(['rotate', '--purpose', 'payload', '--dry-run', '--relay', relay.url])
    expect(published.stdout).toContain(`activate ${next?.kid.slice(0, 8)}. It was published on`)
    expect(published.stdout).not.toContain('not published before')
  })

  test.each(['payload', 'log'])(
    'makes a new %s key sign at once, and what is posted then verifies',
    async (purpose) => {
      const before = await activeKey(purpose)
      const { code, stdout } = await keys(['rotate', '--purpose', purpose, '--relay', relay.url])
      expect(code).toBe(0)
      const after = await activeKey(purpose)
      expect(after.kid).not.toBe(before.kid)
      expect(stdout).toContain(after.kid.slice(0, 8))
      expect(stdout.includes('not published before')).toBe(purpose === 'payload')
      await relay.post(tenant, { after: true })
      await relay.check()
    },
  )

  test('is refused without an admin key, with one that is none, and with a tenant’s', async () => {
    for (const key of ['', `cs_somebody_${'B'.repeat(43)}`, tenant.tenantKey]) {
      for (const more of [[], ['--dry-run']]) {
        const env = { COUNTERSIGN_ADMIN_KEY: key }
        expectRefused(await keys(['rotate', '--purpose', 'log', ...more, '--relay', relay.url], { env }))
      }
    }
    expect(await history()).toHaveLength(2)
  })
})

describe('keys revoke', () => {
  beforeEach(start)
  afterEach(stop)

  const from = '2026-01-01T00:00:00Z'
  const revoke = (kid: string, more: string[] = []) =>
    keys(['revoke', '--reason', 'stolen', '--from', from, '--relay', relay.url, ...more, '--', kid])

  test('takes a kid as keys list shortens it, for good, and puts another key in the place of the one that signs', async () => {
    const { kid } = await activeKey()
    const { code, stdout } = await revoke(kid.slice(0, 8))
    expect(code).toBe(0)
    expect(stdout).toContain(kid)
    expect((await history()).find((key) => key.kid === kid)).toMatchObject({
      state: 'revoked',
      revoked_reason: 'stolen',
    })
    expect(stdout).toContain((await activeKey()).kid.slice(0, 8))
    const again = await revoke(kid)
    expectRefused(again)
    expect(again.stderr).toContain('key_revoked')
  })

  test('says of a log key what its revocation means', async () => {
    const { kid } = await activeKey('log')
    const { code, stdout } = await revoke(kid)
    expect(code).toBe(0)
    expect(stdout).toContain('/log/vkey')
  })

  test.each([
    ['a kid that no key has', '-AAAAAAAAA', from],
    ['too little of a kid', 'AAAAAAA', from],
    ['a time without its offset', 'AAAAAAAA', '2026-01-01T00:00:00'],
    ['a time that is none', 'AAAAAAAA', 'yesterday'],
    ['a day that is none', undefined, '2026-13-45T00:00:00Z'],
  ])('refuses %s, and revokes nothing', async (_, kid, time) => {
    const whose = kid ?? (await activeKey()).kid
    expectRefused(await revoke(whose, ['--from', time]))
    expect((await history()).map(({ state }) => state)).toEqual(['active', 'active'])
  })
})

describe('keys export-public', () => {
  let folder: string
  beforeAll(async () => {
    await start()
    folder = await mkdtemp(join(tmpdir(), 'countersign-public-'))
  })
  afterAll(async () => {
    await rm(folder, { recursive: true })
    await stop()
  })

  test('prints the JWKS', async () => {
    const { code, stdout } = await keys(['export-public', '--relay', relay.url])
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toEqual(JSON.parse(await (await fetch(`${relay.url}/.well-known/jwks.json`)).text()))
  })

  test('writes a folder that verifies receipts offline, with a PEM of each payload key', async () => {
    const { body: receipt } = await relay.post(tenant, { kept: true })
    await keys(['rotate', '--purpose', 'payload', '--relay', relay.url])
    const all = await history()
    const { code, stdout } = await keys(['export-public', '--dir', join(folder, 'new'), '--relay', relay.url])
    expect(code).toBe(0)
    const file = (name: string) => join(folder, 'new', name)
    const payloadKeys = all.filter(({ purpose }) => purpose === 'payload')
    const expected = ['jwks.json', 'keys.json', 'vkeys.txt', ...payloadKeys.map(({ kid }) => `${kid}.pem`)]
    expect((await readdir(join(folder, 'new'))).sort()).toEqual(expected.sort())
    expect(stdout.trim().split('\n').sort()).toEqual(expected.map(file).sort())
    for (const { kid, x } of payloadKeys) {
      expect(createPublicKey(await readFile(file(`${kid}.pem`))).export({ format: 'jwk' }).x).toBe(x)
    }
    await writeFile(file('receipt.json'), JSON.stringify(receipt))
    const args = ['verify', file('receipt.json'), '--jwks', file('jwks.json'), '--vkey', file('vkeys.txt')]
    expect((await countersign(args)).code).toBe(0)
  })
})

describe('keys rewrap', () => {
  let kms: KmsServer
  let environment: Record<string, string>

  beforeEach(async () => {
    await start()
    kms = await startKmsServer()
    environment = {
      ...kms.environment,
      ...{ KEY_WRAPPER: 'local', DATABASE_URL: relay.database.url, DATA_DIR: relay.folder },
    }
  })
  afterEach(async () => {
    vi.unstubAllEnvs()
    await stop()
    await kms.stop()
  })

  const rewrap = (to: string, env: Record<string, string> = {}) =>
    keys(['rewrap', '--to', to], { env: { ...environment, ...env } })

  const wrappingKeys = async () => {
    const rows = await relay.database.database.query<{ name: string }>(
      'select wrapping_key as name from keys union select wrapping_key from data_keys',
    )
    return rows.map(({ name }) => name)
  }

  /** Opens the relay as serve does, with KMS. */
  async function openWithKms<T>(work: (opened: Awaited<ReturnType<typeof openRelay>>) => T): Promise<Awaited<T>> {
    for (const [name, value] of Object.entries(kms.environment)) vi.stubEnv(name, value)
    const ending: Ending = []
    try {
      const config = readConfig({ ...environment, KEY_WRAPPER: 'aws-kms' })
      return await work(await openRelay(config, silentLogger, ending, () => {}))
    } finally {
      for (const end of ending.reverse()) await end()
    }
  }

  test('moves every key to KMS and none changes: the relay opens there and no more here, and old receipts verify', async () => {
    const { body: receipt } = await relay.post(tenant, { before: true })
    await keys(['rotate', '--purpose', 'payload', '--relay', relay.url])
    const before = await history()
    await relay.close()

    const { code, stdout, stderr } = await rewrap('aws-kms')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain('5 of 5 keys') // two payload keys, a log key, and the data keys of deployment and tenant
    expect(await wrappingKeys()).toEqual([kms.keyId])
    await expect(relay.open()).rejects.toThrow(/cannot be unwrapped/)

    await openWithKms(async ({ relay: moved }) => {
      expect(moved.keyring.kids.sort()).toEqual(before.map(({ kid }) => kid).sort())
      const { verdict } = await moved.verify(JSON.parse(JSON.stringify({ receipt })))
      expect(verdict).toBe('valid')
      const message = await moved.getMessage(null, receipt.message)
      const content = await moved.archive.contentOf(message)
      expect(content.state === 'available' && Buffer.from(content.payload).toString()).toBe('{"before":true}')
    })

    // And back, with the same wrapping key file as before.
    expect((await rewrap('local', { KEY_WRAPPER: 'aws-kms' })).code).toBe(0)
    await relay.open()
    expect((await history()).map(({ kid }) => kid)).toEqual(before.map(({ kid }) => kid))
    await relay.check()
  })

  test('a move that fails in the middle is finished by running it again', async () => {
    await relay.close()
    // Past the opening of KMS and of the relay's keys, which asks it about none of them.
    kms.switches.fault = { kind: 'AccessDeniedException', times: 1, after: 5 }
    const { code, stderr } = await rewrap('aws-kms')
    expect(code).toBe(2)
    expect(stderr).toMatch(/^countersign: .+kms_access_denied.+run the same command again to finish the move\.\n$/)
    expect(await wrappingKeys()).toHaveLength(2)
    await expect(relay.open()).rejects.toThrow(/cannot be unwrapped/)

    const again = await rewrap('aws-kms')
    expect(again).toMatchObject({ code: 0 })
    expect(await wrappingKeys()).toEqual([kms.keyId])
  })

  test('a signal in the middle waits for the end: no key is left behind', async () => {
    await relay.close()
    // Opening takes two requests, and a key two more: what follows has to be asked for again, so there is a middle.
    kms.switches.fault = { kind: 'ThrottlingException', times: 3, after: 4 }
    const interruptAt = { seen: '] 0 of', signal: 'SIGINT' } as const
    const { code, stderr } = await keys(['rewrap', '--to', 'aws-kms'], { env: environment, interruptAt })
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining('finishing') })
    expect(await wrappingKeys()).toEqual([kms.keyId])
  })

  test.each<[string, string, () => Record<string, string>]>([
    ['the wrapper that is in use', 'local', () => ({})],
    ['a wrapper there is not', 'vault', () => ({})],
    ['KMS without a key', 'aws-kms', () => ({ KMS_KEY_ID: '' })],
    ['KMS where it does not answer', 'aws-kms', () => ({ AWS_ENDPOINT_URL_KMS: 'http://127.0.0.1:1' })],
    ['KMS with a key it does not have', 'aws-kms', () => ({ KMS_KEY_ID: 'alias/other' })],
    [
      'KMS from a local wrapper that has lost its key',
      'aws-kms',
      () => ({ DATA_DIR: join(relay.folder, 'elsewhere') }),
    ],
  ])('to %s is refused in one sentence, and nothing has moved', async (_, to, changed) => {
    await relay.close()
    const before = await wrappingKeys()
    const { code, stdout, stderr } = await rewrap(to, changed())
    expect(code).not.toBe(0)
    expect(stdout).toBe('')
    expect(stderr).toMatch(/^countersign: [^\n]+\n$/)
    expect(await wrappingKeys()).toEqual(before)
    await relay.open()
  })

  test('is refused while a relay runs on the database', async () => {
    await relay.relay.rotation.tick()
    expectRefused(await rewrap('aws-kms'))
    expect(await wrappingKeys()).not.toContain(kms.keyId)
  })
})

/** Answers everything with `value`. */
async function serveJson(value: unknown): Promise<{ url: string } & AsyncDisposable> {
  const server = createServer((_, response) => response.end(JSON.stringify(value))).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      if (server.listening) await once(server.close(), 'close')
    },
  }
}
