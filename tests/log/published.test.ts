import fc from 'fast-check'
import { expect, test } from 'vitest'
import { checkpointKey, newestSize } from '../../src/log/published.ts'
import type { ObjectStore } from '../../src/ports/object-store.ts'

/** A store of these keys, which counts how often it is listed. */
function storeOf(sizes: readonly number[]): { store: ObjectStore; listings: () => number } {
  const keys = [...sizes.map(checkpointKey), 'checkpoints/latest'].sort()
  let listings = 0
  const store = {
    async *list(prefix: string, after = '') {
      listings += 1
      yield* keys.filter((key) => key.startsWith(prefix) && key > after)
    },
  }
  return { store: store as unknown as ObjectStore, listings: () => listings }
}

const size = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })

test('the newest of the numbered checkpoints is found from any of them, or from none, in a few dozen requests', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(size), fc.nat(), async (sizes, pick) => {
      const hint = sizes[pick % (sizes.length + 1)]
      const { store, listings } = storeOf(sizes)
      expect(await newestSize(store, hint)).toBe(sizes.length === 0 ? undefined : Math.max(...sizes))
      expect(listings()).toBeLessThan(120)
    }),
  )
})

test('of a dense million the newest is found without a hint, and one request tells that nothing is newer', async () => {
  const sizes = Array.from({ length: 2000 }, (_, i) => i * 500)
  const blind = storeOf(sizes)
  expect(await newestSize(blind.store)).toBe(999_500)
  expect(blind.listings()).toBeLessThan(60)
  const hinted = storeOf(sizes)
  expect(await newestSize(hinted.store, 999_500)).toBe(999_500)
  expect(hinted.listings()).toBe(1)
})
