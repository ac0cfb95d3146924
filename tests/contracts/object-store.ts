import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ObjectAbsent, type ObjectStore } from '../../src/ports/object-store.ts'

/** What every object store must do. `open` returns one over the same objects each time. */
export function objectStoreContract(name: string, open: () => ObjectStore | Promise<ObjectStore>): void {
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

  describe(`${name} as an object store`, () => {
    it('finds what was put, also after it was opened again', async () => {
      await (await open()).put('log/checkpoint', bytes('first'))
      expect(await (await open()).find('log/checkpoint')).toEqual(bytes('first'))
    })

    it('finds nothing where nothing was put', async () => {
      const store = await open()
      await store.put('some/object', bytes('x'))
      for (const key of ['absent', 'some', 'some/other', 'some/object/below']) {
        expect(await store.find(key), key).toBeUndefined()
        expect(await store.stat(key), key).toBeUndefined()
        await expect(collect(store.read(key)), key).rejects.toThrow(ObjectAbsent)
      }
    })

    it('replaces an object whole', async () => {
      const store = await open()
      await store.put('replaced', bytes('a longer text'))
      await store.put('replaced', bytes('short'))
      expect(await store.find('replaced')).toEqual(bytes('short'))
      expect(await store.stat('replaced')).toEqual({ bytes: 5 })
    })

    it('keeps every byte, and none at all', async () => {
      const store = await open()
      const every = Uint8Array.from({ length: 256 }, (_, i) => i)
      await store.put('bytes/every', every)
      await store.put('bytes/none', new Uint8Array())
      expect(await store.find('bytes/every')).toEqual(every)
      expect(await store.find('bytes/none')).toEqual(new Uint8Array())
      expect(await store.stat('bytes/none')).toEqual({ bytes: 0 })
    })

    it('shows a reader one of the objects put at the same moment, never a part', async () => {
      const store = await open()
      const puts = Array.from({ length: 10 }, (_, i) => store.put('raced', new Uint8Array(100_000).fill(i)))
      await puts[0]
      const seen = (await store.find('raced')) ?? new Uint8Array()
      expect(seen).toHaveLength(100_000)
      expect(new Set(seen).size).toBe(1)
      await Promise.all(puts)
    })

    it('puts an object that is absent, and then says that it exists and keeps it', async () => {
      const store = await open()
      expect(await store.putIfAbsent('once/only', bytes('first'))).toBe('stored')
      expect(await store.putIfAbsent('once/only', bytes('second'))).toBe('exists')
      expect(await (await open()).putIfAbsent('once/only', bytes('first'))).toBe('exists')
      expect(await store.find('once/only')).toEqual(bytes('first'))
    })

    it('lets one of those store who put the same absent object at once', async () => {
      const store = await open()
      const puts = Array.from({ length: 8 }, (_, i) => store.putIfAbsent('race/for/one', Uint8Array.of(i)))
      const outcomes = await Promise.all(puts)
      expect(outcomes.filter((outcome) => outcome === 'stored')).toHaveLength(1)
      expect(await store.find('race/for/one')).toEqual(Uint8Array.of(outcomes.indexOf('stored')))
    })

    it('goes on with an object that is to be retained', async () => {
      const store = await open()
      const retainUntil = new Date(Date.now() + 60_000)
      expect(await store.putIfAbsent('retained', bytes('first'), { retainUntil })).toBe('stored')
      await store.put('retained', bytes('second'), { retainUntil })
      expect(await store.find('retained')).toEqual(bytes('second'))
      await store.delete('retained')
      expect(await store.find('retained')).toBeUndefined()
    })

    it('reads any range as HTTP means it', async () => {
      const store = await open()
      const whole = Uint8Array.from({ length: 100 }, (_, i) => i)
      await store.put('ranges', whole)
      const offset = fc.nat(99)
      const run = async (from: number, to: number | undefined) => {
        const seen = await collect(store.read('ranges', { from, ...(to !== undefined && { to }) }))
        expect(seen).toEqual(whole.slice(from, to === undefined ? undefined : to + 1))
      }
      await run(0, 0)
      await run(99, 99)
      await run(50, 5000)
      await fc.assert(
        fc.asyncProperty(offset, fc.option(fc.nat(200), { nil: undefined }), (from, more) =>
          run(from, more === undefined ? undefined : from + more),
        ),
        { numRuns: 15 },
      )
    })

    it('refuses to read where there is no byte, but reads nothing of nothing', async () => {
      const store = await open()
      await store.put('three', bytes('abc'))
      await store.put('empty', new Uint8Array())
      await expect(collect(store.read('three', { from: 3 }))).rejects.toThrow(RangeError)
      await expect(collect(store.read('three', { from: 7, to: 9 }))).rejects.toThrow(RangeError)
      expect(await collect(store.read('empty'))).toEqual(new Uint8Array())
      expect(await collect(store.read('empty', { from: 0, to: 10 }))).toEqual(new Uint8Array())
    })

    it('lets a reader stop early', async () => {
      const store = await open()
      await store.put('long', new Uint8Array(1_000_000).fill(1))
      for await (const chunk of store.read('long')) {
        expect(chunk[0]).toBe(1)
        break
      }
      expect(await store.stat('long')).toEqual({ bytes: 1_000_000 })
    })

    it.each([0, 1, 8 * mebibyte - 1, 8 * mebibyte, 17 * mebibyte])('writes %i bytes as they come', async (length) => {
      const store = await open()
      const whole = pattern(length)
      await store.write('written', chunksOf(whole, 777_777))
      expect(await store.stat('written')).toEqual({ bytes: length })
      expect(Buffer.compare(await collect(store.read('written')), whole)).toBe(0)
    })

    it('shows nothing of what is being written, and nothing ever if that breaks off', async () => {
      const store = await open()
      await store.put('rewritten', bytes('before'))
      for (const length of [10, 9 * mebibyte]) {
        const broken = async function* () {
          yield* chunksOf(pattern(length), mebibyte)
          expect(await store.find('rewritten')).toEqual(bytes('before'))
          throw new Error('the source broke off')
        }
        await expect(store.write('rewritten', broken())).rejects.toThrow('the source broke off')
        await expect(store.write('never-written', broken())).rejects.toThrow('the source broke off')
        expect(await store.find('rewritten')).toEqual(bytes('before'))
        expect(await store.find('never-written')).toBeUndefined()
      }
    })

    it('deletes what is there and what is not', async () => {
      const store = await open()
      await store.put('deleted/object', bytes('x'))
      for (const key of ['deleted/object', 'deleted/object', 'deleted/never', 'nowhere/at/all']) await store.delete(key)
      expect(await store.find('deleted/object')).toBeUndefined()
      expect(await keysOf(store, 'deleted')).toEqual([])
      expect(await store.putIfAbsent('deleted/object', bytes('y'))).toBe('stored')
      expect(await store.find('deleted/object')).toEqual(bytes('y'))
    })

    it('lists keys in the order of their bytes, from a prefix on and behind a key', async () => {
      const store = await open()
      // A folder stands where its slash does: `ab-` < `ab.` < `ab/`.
      const keys = [
        'list/a',
        'list/a-b/c',
        'list/a.b',
        'list/ab-0',
        'list/ab.0',
        'list/ab/0',
        'list/ab/x.p/1',
        'list/b',
        'listed',
      ]
      for (const key of keys.toReversed()) await store.put(key, bytes(key))
      expect(await keysOf(store, 'list')).toEqual(keys)
      expect(await keysOf(store, 'list/')).toEqual(keys.slice(0, 8))
      expect(await keysOf(store, 'list/a')).toEqual(keys.slice(0, 7))
      expect(await keysOf(store, 'list/ab/')).toEqual(['list/ab/0', 'list/ab/x.p/1'])
      expect(await keysOf(store, 'list/ab/x.')).toEqual(['list/ab/x.p/1'])
      expect(await keysOf(store, 'list/c')).toEqual([])
      expect(await keysOf(store, 'nothing/here')).toEqual([])
      for (const [place, after] of keys.entries()) {
        expect(await keysOf(store, 'list', after), after).toEqual(keys.slice(place + 1))
      }
      expect(await keysOf(store, 'list', 'list/a-b')).toEqual(keys.slice(1))
      expect((await keysOf(store, '')).filter((key) => key.startsWith('list'))).toEqual(keys)
    })

    it('lists whatever was put as sorting would', async () => {
      const store = await open()
      let round = 0
      // Of two letters each, so that no key is the folder of another.
      const key = fc
        .array(fc.stringMatching(/^[a-b][a.-]$/), { minLength: 2, maxLength: 2 })
        .map((parts) => parts.join('/'))
      await fc.assert(
        fc.asyncProperty(fc.uniqueArray(key, { maxLength: 6 }), key, async (keys, after) => {
          const root = `sorted/${round++}/`
          for (const each of keys) await store.put(root + each, bytes(each))
          const sorted = keys.map((each) => root + each).sort()
          expect(await keysOf(store, root)).toEqual(sorted)
          expect(await keysOf(store, root, root + after)).toEqual(sorted.filter((each) => each > root + after))
        }),
        { numRuns: 8 },
      )
    })

    it('takes the paths of tiles', async () => {
      const store = await open()
      await store.put('log/tile/0/x001/067.p/12', bytes('tile'))
      expect(await store.find('log/tile/0/x001/067.p/12')).toEqual(bytes('tile'))
    })

    it.each([
      ...['', '/', '/etc/passwd', 'a/', 'a//b', '.', '..', '../a', 'a/..', 'a/../b', 'a/./b', './a', '.hidden', 'A'],
      ...['a b', 'a\\b', 'a\0b', 'ä', 'a\n', 'a.b', 'a/%2e%2e', `a/${'b'.repeat(600)}`],
    ])('refuses the key %j', async (key) => {
      const store = await open()
      await expect(store.put(key, bytes('x'))).rejects.toThrow(TypeError)
      await expect(store.putIfAbsent(key, bytes('x'))).rejects.toThrow(TypeError)
      await expect(store.write(key, chunksOf(bytes('x'), 1))).rejects.toThrow(TypeError)
      await expect(store.find(key)).rejects.toThrow(TypeError)
      await expect(store.stat(key)).rejects.toThrow(TypeError)
      await expect(store.delete(key)).rejects.toThrow(TypeError)
      await expect(collect(store.read(key))).rejects.toThrow(TypeError)
    })

    it.each(['/', '..', '../', 'a/../', 'A', '.h', 'a//'])('refuses the prefix %j', async (prefix) => {
      await expect(keysOf(await open(), prefix)).rejects.toThrow(TypeError)
    })
  })
}

const mebibyte = 1024 * 1024

/** Bytes that differ from place to place, so that a piece which is lost, repeated or moved shows. */
export const pattern = (length: number): Uint8Array =>
  new Uint8Array(
    Uint32Array.from({ length: Math.ceil(length / 4) }, (_, i) => Math.imul(i + 1, 2654435761)).buffer,
    0,
    length,
  )

export async function* chunksOf(whole: Uint8Array, chunkBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < whole.length; at += chunkBytes) yield whole.subarray(at, at + chunkBytes)
}

export const collect = async (chunks: AsyncIterable<Uint8Array>): Promise<Uint8Array> => {
  const collected: Uint8Array[] = []
  for await (const chunk of chunks) collected.push(chunk)
  return new Uint8Array(Buffer.concat(collected))
}

export const keysOf = async (store: ObjectStore, prefix: string, after?: string): Promise<string[]> => {
  const keys: string[] = []
  for await (const key of store.list(prefix, after)) keys.push(key)
  return keys
}
