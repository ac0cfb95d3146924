import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Param } from '../../src/ports/database.ts'
import { TestRelay } from '../support/relay.ts'

let relay: TestRelay
beforeEach(async () => {
  relay = await TestRelay.start()
  await relay.close()
})
afterEach(() => relay.stop())

interface Row {
  readonly kid: string
  readonly purpose: string
  readonly serial: string
  readonly seed: Uint8Array
}

const change = (statement: string, ...params: Param[]) => relay.database.database.query(statement, params)

const readRows = () => relay.database.database.query<Row>('select kid, purpose, serial, wrapped_seed as seed from keys')

/** The relay does not start, says which of these keys it was, and where it is written what to do. */
async function expectRefused(rows: readonly Row[]): Promise<void> {
  const refused = await relay.open().then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  )
  expect(rows.map(({ kid }) => kid)).toContain(/the \w+ key ([\w-]{43}) /.exec(refused ?? '')?.[1])
  expect(refused).toContain('keys/README.md')
  expect(refused).toContain('"A key does not unwrap"')
}

test('untouched, the same relay starts again', async () => {
  await relay.open()
  await relay.check()
})

test('two keys whose wrapped seeds were swapped are refused at start', async () => {
  const [one, other] = (await readRows()) as [Row, Row]
  await change('update keys set wrapped_seed = $2 where kid = $1', one.kid, other.seed)
  await change('update keys set wrapped_seed = $2 where kid = $1', other.kid, one.seed)
  await expectRefused([one, other])
})

test('two keys of one purpose whose wrapped seeds and serials were swapped unwrap, to each other, and are refused', async () => {
  // The wrapping is intact here: only comparing the public keys tells.
  await relay.open()
  await relay.call('POST', '/v1/keys/rotate', { body: { purpose: 'payload' } })
  await relay.close()
  const [one, other] = (await readRows()).filter(({ purpose }) => purpose === 'payload') as [Row, Row]
  await change('update keys set serial = $2 where kid = $1', one.kid, 'aside')
  await change('update keys set serial = $2, wrapped_seed = $3 where kid = $1', other.kid, one.serial, one.seed)
  await change('update keys set serial = $2, wrapped_seed = $3 where kid = $1', one.kid, other.serial, other.seed)
  await expectRefused([one, other])
})

test.each<[string, (row: Row) => readonly [column: string, value: Param]]>([
  ['serial was edited', ({ serial }) => ['serial', serial.replace(/^./, (digit) => (digit === '0' ? '1' : '0'))]],
  ['wrapped seed was cut short', ({ seed }) => ['wrapped_seed', seed.subarray(0, -1)]],
  ['wrapped seed was cut to nothing', () => ['wrapped_seed', new Uint8Array()]],
  [
    'wrapped seed has one bit flipped',
    ({ seed }) => ['wrapped_seed', seed.map((byte, at) => (at === 20 ? byte ^ 1 : byte))],
  ],
  ['public key was replaced', () => ['public_key', new Uint8Array(32).fill(1)]],
  ['wrapping key was renamed', () => ['wrapping_key', 'local:0000000000000000']],
])('a key whose %s is refused at start', async (_, alter) => {
  for (const row of await readRows()) {
    const [column, value] = alter(row)
    const [{ before } = { before: null }] = (await change(
      `select ${column} as before from keys where kid = $1`,
      row.kid,
    )) as { before: Param }[]
    await change(`update keys set ${column} = $2 where kid = $1`, row.kid, value)
    await expectRefused([row])
    await change(`update keys set ${column} = $2 where kid = $1`, row.kid, before)
  }
  await relay.open()
})

test('another wrapping key than the one that wrapped them is refused at start', async () => {
  await rm(join(relay.folder, 'wrapping-key'))
  await expectRefused(await readRows())
})

test('a relay whose active key has lost its seed does not start', async () => {
  for (const { kid, purpose, seed } of await readRows()) {
    await change('update keys set wrapped_seed = null where kid = $1', kid)
    await expect(relay.open()).rejects.toThrow(
      new RegExp(`${purpose} key ${kid} has lost its private half.*keys/README`),
    )
    await change('update keys set wrapped_seed = $2 where kid = $1', kid, seed)
  }
  await relay.open()
})
