import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FsObjectStore } from '../../src/adapters/object-store-fs.ts'
import { objectStoreContract } from './object-store.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'object-store-'))
})
afterAll(() => rm(folder, { recursive: true }))

objectStoreContract('a folder', () => new FsObjectStore(join(folder, 'made', 'on', 'demand')))

describe('a folder of objects', () => {
  it('keeps no draft behind, neither of what was put nor of what could not be', async () => {
    const root = join(folder, 'drafts')
    const store = new FsObjectStore(root)
    await store.put('a/b', Uint8Array.of(1))
    await expect(store.put('a', Uint8Array.of(1))).rejects.toThrow() // a folder stands there
    expect(await readdir(root)).toEqual(['a'])
  })
})
