import { expect, test } from 'vitest'
import { UnderWay } from '../../src/delivery/under-way.ts'

test('who waits for less to be under way is told as soon as it is, and nobody before', async () => {
  const underWay = new UnderWay()
  expect(underWay.atMost(0)).toBeUndefined()
  for (let n = 0; n < 3; n++) underWay.begin()
  expect(underWay.atMost(3)).toBeUndefined()
  const told: number[] = []
  for (const most of [0, 2, 1, 2]) void underWay.atMost(most)?.then(() => told.push(most))
  const ended: number[][] = []
  for (let n = 0; n < 3; n++) {
    underWay.end()
    await Promise.resolve()
    ended.push([...told])
  }
  expect(ended).toEqual([
    [2, 2],
    [2, 2, 1],
    [2, 2, 1, 0],
  ])
})
