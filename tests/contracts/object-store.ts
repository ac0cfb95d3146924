import { describe, expect, it } from 'vitest'
import type { ObjectStore } from '../../src/ports/object-store.ts'

/** What every object store must do. `open` returns one over the same objects each time. */
export function objectStoreContract(name: string, open: () => ObjectStore): void {
  const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)

  describe(`${name} as an object store`, () => {
    it('finds what was put, also after it was opened again', async () => {
      await open().put('log/checkpoint', bytes('first'))
      expect(await open().find('log/checkpoint')).toEqual(bytes('first'))
    })

    it('finds nothing where nothing was put', async () => {
      await open().put('some/object', bytes('x'))
      for (const key of ['absent', 'some', 'some/other', 'some/object/below']) {
        expect(await open().find(key), key).toBeUndefined()
      }
    })

    it('replaces an object whole', async () => {
      const store = open()
      await store.put('replaced', bytes('a longer text'))
      await store.put('replaced', bytes('short'))
      expect(await store.find('replaced')).toEqual(bytes('short'))
    })

    it('keeps every byte, and none at all', async () => {
      const every = Uint8Array.from({ length: 256 }, (_, i) => i)
      await open().put('bytes/every', every)
      await open().put('bytes/none', new Uint8Array())
      expect(await open().find('bytes/every')).toEqual(every)
      expect(await open().find('bytes/none')).toEqual(new Uint8Array())
    })

    it('shows a reader one of the objects put at the same moment, never a part', async () => {
      const store = open()
      const puts = Array.from({ length: 10 }, (_, i) => store.put('raced', new Uint8Array(100_000).fill(i)))
      await puts[0]
      const seen = (await store.find('raced')) ?? new Uint8Array()
      expect(seen).toHaveLength(100_000)
      expect(new Set(seen).size).toBe(1)
      await Promise.all(puts)
    })

    it('takes the paths of tiles', async () => {
      await open().put('log/tile/0/x001/067.p/12', bytes('tile'))
      expect(await open().find('log/tile/0/x001/067.p/12')).toEqual(bytes('tile'))
    })

    it('puts where nothing is, and leaves alone what is there', async () => {
      expect(await open().putIfAbsent('once/first', bytes('first'))).toBe('stored')
      expect(await open().putIfAbsent('once/first', bytes('second'))).toBe('exists')
      expect(await open().find('once/first')).toEqual(bytes('first'))
    })

    it('lets one of many that put where nothing is at the same moment', async () => {
      const store = open()
      const puts = Array.from({ length: 8 }, (_, i) => store.putIfAbsent('once/raced', Uint8Array.of(i)))
      const outcomes = await Promise.all(puts)
      expect(outcomes.filter((outcome) => outcome === 'stored')).toHaveLength(1)
      expect(await store.find('once/raced')).toEqual(Uint8Array.of(outcomes.indexOf('stored')))
    })

    it('takes objects that are to be retained', async () => {
      const retainUntil = new Date(Date.now() + 60_000)
      expect(await open().putIfAbsent('retained/once', bytes('kept'), { retainUntil })).toBe('stored')
      expect(await open().putIfAbsent('retained/once', bytes('other'), { retainUntil })).toBe('exists')
      expect(await open().find('retained/once')).toEqual(bytes('kept'))
    })

    it('lists keys in the order of their bytes, from anywhere on', async () => {
      const store = open()
      const keys = [
        'listed/a-b',
        'listed/a/b',
        'listed/a/c/d',
        'listed/a0',
        'listed/b',
        'listed/b.p/1',
        'listed/b.p/12',
      ]
      for (const key of [...keys].reverse()) await store.put(key, bytes(key))
      const list = async (prefix: string, after?: string) => {
        const found: string[] = []
        for await (const key of store.list(prefix, after)) found.push(key)
        return found
      }
      expect(await list('listed/')).toEqual(keys)
      expect(await list('listed/a')).toEqual(keys.slice(0, 4))
      expect(await list('listed/a/')).toEqual(keys.slice(1, 3))
      expect(await list('listed/none')).toEqual([])
      expect(await list('nowhere/at/all')).toEqual([])
      for (const [i, key] of keys.entries()) expect(await list('listed/', key), key).toEqual(keys.slice(i + 1))
      expect(await list('listed/', 'listed/a/c')).toEqual(keys.slice(2))
    })

    it.each([
      ...['', '/', '/etc/passwd', 'a/', 'a//b', '.', '..', '../a', 'a/..', 'a/../b', 'a/./b', './a', '.hidden', 'A'],
      ...['a b', 'a\\b', 'a\0b', 'ä', 'a\n', 'a.b', 'a/%2e%2e', `a/${'b'.repeat(600)}`],
    ])('refuses the key %j', async (key) => {
      await expect(open().put(key, bytes('x'))).rejects.toThrow(TypeError)
      await expect(open().putIfAbsent(key, bytes('x'))).rejects.toThrow(TypeError)
      await expect(open().find(key)).rejects.toThrow(TypeError)
    })
  })
}
