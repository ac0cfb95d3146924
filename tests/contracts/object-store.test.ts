import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { FsObjectStore } from '../../src/adapters/object-store-fs.ts'
import { chunksOf, objectStoreContract, pattern } from './object-store.ts'

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
    await store.putIfAbsent('a/b', Uint8Array.of(2))
    await store.putIfAbsent('a/c', Uint8Array.of(2))
    await expect(store.put('a', Uint8Array.of(1))).rejects.toThrow() // a folder stands there
    await expect(store.putIfAbsent('a', Uint8Array.of(1))).rejects.toThrow()
    expect(await readdir(root)).toEqual(['a'])
  })

  it('makes what is to be retained read-only', async () => {
    const root = join(folder, 'retained')
    await new FsObjectStore(root).put('kept', Uint8Array.of(1), { retainUntil: new Date(Date.now() + 1000) })
    expect((await stat(join(root, 'kept'))).mode & 0o222).toBe(0)
  })
})

describe('a folder on a disk that is full', () => {
  it('refuses what has no room, keeps what it has, and goes on once there is room', async ({ skip }) => {
    const disk = join(folder, 'disk')
    await mkdir(disk)
    const mount = ['-t', 'tmpfs', '-o', 'size=1m', 'countersign-test', disk]
    if (spawnSync('mount', mount, { stdio: 'ignore' }).status !== 0) {
      console.warn('LOUD SKIP: only root can mount a small disk, so the folder was not tried on a full one')
      return skip()
    }
    try {
      const store = new FsObjectStore(join(disk, 'objects'))
      const half = pattern(600_000)
      await store.put('first', half)
      const full = { code: 'ENOSPC' }
      await expect(store.put('first', pattern(700_000))).rejects.toMatchObject(full)
      await expect(store.putIfAbsent('second', half)).rejects.toMatchObject(full)
      await expect(store.write('second', chunksOf(half, 50_000))).rejects.toMatchObject(full)
      expect(await store.find('first')).toEqual(half)
      expect(await store.find('second')).toBeUndefined()
      expect(await readdir(join(disk, 'objects'))).toEqual(['first'])
      await store.delete('first')
      await store.write('second', chunksOf(half, 50_000))
      expect(await store.find('second')).toEqual(half)
    } finally {
      spawnSync('umount', [disk])
    }
  })
})
