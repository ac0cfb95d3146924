import { createHash } from 'node:crypto'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { AnswerReader, mostKeptBytes } from '../../src/delivery/answer.ts'

const chunk = fc.integer({ min: 1, max: mostKeptBytes + 1 }).map((length) => Buffer.alloc(length, `${length}.`))

test('an answer counts, hashes and begins as what was read of it under the cap, however it was cut into chunks', () => {
  fc.assert(
    fc.property(
      fc.array(chunk, { maxLength: 5 }),
      fc.integer({ min: 0, max: 3 * mostKeptBytes }),
      (chunks, maxBytes) => {
        const reader = new AnswerReader(500, maxBytes)
        const fits = chunks.every((each) => reader.take(each))
        const body = Buffer.concat(chunks)
        const read = body.subarray(0, maxBytes)
        expect(fits).toBe(body.length <= maxBytes)
        const { status, bytes, sha256, head, complete } = reader.finish(fits)
        expect({ status, bytes, complete }).toEqual({ status: 500, bytes: read.length, complete: fits })
        expect(Buffer.from(sha256)).toEqual(createHash('sha256').update(read).digest())
        expect(Buffer.from(head)).toEqual(read.subarray(0, mostKeptBytes))
      },
    ),
  )
})

test('the head of an answer outlives the buffer that it was read into', () => {
  const reader = new AnswerReader(500, 100)
  const buffer = Buffer.from('no such order')
  reader.take(buffer)
  buffer.fill(0)
  expect(Buffer.from(reader.finish(true).head).toString()).toBe('no such order')
})
