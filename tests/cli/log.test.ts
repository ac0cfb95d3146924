import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { keyWrapper, TestRelay, type TestTenant } from '../support/relay.ts'
import { countersign } from './run.ts'

let relay: TestRelay
let tenant: TestTenant
let env: NodeJS.ProcessEnv

beforeAll(async () => {
  relay = await TestRelay.start()
  tenant = await relay.makeTenant()
  await Promise.all(Array.from({ length: 300 }, (_, n) => relay.post(tenant, { n })))
  await relay.restart()
  env = { DATABASE_URL: relay.database.url, DATA_DIR: relay.folder }
  await writeFile(join(relay.folder, 'vkey.txt'), relay.relay.vkeys.join('\n'))
})

afterAll(() => relay.stop())

test.runIf(keyWrapper === 'local')(
  'log check finds nothing wrong beside a relay that runs, and says against what',
  async () => {
    const [receipt] = relay.receipts.values()
    const file = join(relay.folder, 'receipt.json')
    await writeFile(file, JSON.stringify(receipt))
    const vkey = join(relay.folder, 'vkey.txt')
    const { code, stdout, stderr } = await countersign(['log', 'check', '--vkey', vkey, '--checkpoints', file], { env })
    expect(stderr).toBe('')
    expect(stdout).toMatch(/nothing is wrong: \d+ leaves held against \d+ checkpoints\n$/)
    expect(stdout).not.toContain('!')
    expect(code).toBe(0)
  },
)

test('log check says that keys from the database prove little', async () => {
  const { code, stdout } = await countersign(['log', 'check'], { env })
  expect(stdout).toContain('whoever rewrote it may have rewritten them')
  expect(code).toBe(0)
})

test('log check reads what was published with the database gone', async () => {
  const { code, stdout } = await countersign(['log', 'check', '--object-store-only'], {
    env: { DATA_DIR: relay.folder, DATABASE_URL: 'postgres://nobody@127.0.0.1:1/gone' },
  })
  expect(stdout).toMatch(/nothing is wrong: \d+ leaves/)
  expect(code).toBe(0)
})

test('log check names the first leaf that is wrong and exits with 1, in JSON too', async () => {
  await relay.close()
  await relay.database.tamper(['update statements set entry = sha256(entry) where leaf_index in (17, 200)'])
  try {
    const told = await countersign(['log', 'check'], { env })
    expect(told.stdout).toMatch(/✗ entry_mismatch — the entry in the database differs at leaf 17 from/)
    expect(told.stdout).toMatch(/findings, the first at leaf 17:/)
    expect(told.code).toBe(1)
    const { code, stdout } = await countersign(['log', 'check', '--json'], { env })
    expect(JSON.parse(stdout).findings[0]).toMatchObject({ word: 'entry_mismatch', leaf_index: 17 })
    expect(code).toBe(1)
  } finally {
    await relay.open()
  }
})

test.each([
  ['a database that is not there', [], { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/gone' }],
  ['a folder without a database', [], { DATA_DIR: '/nonexistent/countersign', DATABASE_URL: '' }],
  ['checkpoints that are not there', ['--checkpoints', '/nonexistent'], {}],
  ['a vkey that is none', ['--vkey', '/dev/null'], {}],
  ['an object store without a checkpoint', ['--object-store-only'], { DATA_DIR: '/nonexistent/countersign' }],
])('log check tells of %s in one line, with exit code 2', async (_what, args, more) => {
  const { code, stderr } = await countersign(['log', 'check', ...args], { env: { ...env, ...more } })
  expect(stderr).toMatch(/^countersign: .+\n$/)
  expect(code).toBe(2)
})

test('log without a subcommand leads to --help', async () => {
  const { code, stderr } = await countersign(['log'])
  expect(code).toBe(2)
  expect(stderr).toMatch(/--help\n$/)
  expect((await countersign(['log', 'check', '--help'])).stdout).toContain('--object-store-only')
})
