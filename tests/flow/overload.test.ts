import { expect, test } from 'vitest'
import { TestRelay } from '../support/relay.ts'

test('more posts than the relay can hold are refused with a time to come back, and the others lose nothing', async () => {
  const relay = await TestRelay.start({ maxQueue: 3 })
  try {
    const tenant = await relay.makeTenant()
    const answers = await Promise.all(Array.from({ length: 60 }, (_, n) => relay.post(tenant, { n })))
    const refused = answers.filter(({ status }) => status !== 202)
    expect(refused.length).toBeGreaterThan(0)
    expect(answers.length - refused.length).toBeGreaterThanOrEqual(3)
    for (const { status, headers, body } of refused) {
      expect({ status, code: body.code }).toEqual({ status: 503, code: 'overloaded' })
      expect(headers.get('retry-after')).toBe('1')
    }
    expect((await relay.post(tenant, { afterwards: true })).status).toBe(202)
    await relay.check()
  } finally {
    await relay.stop()
  }
})
