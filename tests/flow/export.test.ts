import { afterAll, beforeAll, expect, test } from 'vitest'
import { exported, linesOf, trustIn, verify } from '../support/export.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let acme: TestTenant

beforeAll(async () => {
  relay = await TestRelay.start()
  acme = await relay.makeTenant('Acme')
  for (let i = 0; i < 20; i++) await relay.post(acme, { order: i })
})
afterAll(() => relay?.stop())

test('an export holds every statement of its tenant and proves it', async () => {
  const file = await exported(relay, acme.id)
  console.log(
    linesOf(file)
      .map((l) => l.slice(0, 150))
      .join('\n'),
    file.length,
  )
  const verdict = await verify(file, await trustIn(relay))
  expect(verdict).toMatchObject({ verdict: 'valid' })
  await relay.check()
})
