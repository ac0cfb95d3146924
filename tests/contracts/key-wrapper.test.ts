import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openLocalKeyWrapper } from '../../src/adapters/key-wrapper-local.ts'
import { keyWrapperContract } from './key-wrapper.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'key-wrapper-'))
})
afterAll(() => rm(folder, { recursive: true }))

keyWrapperContract('a local key', () => openLocalKeyWrapper(join(folder, 'shared', 'wrapping.key')))

describe('the file of a local wrapping key', () => {
  it('is made once, for its owner alone, and nothing else stays behind', async () => {
    const path = join(folder, 'made', 'wrapping.key')
    await openLocalKeyWrapper(path)
    const first = await readFile(path)
    await openLocalKeyWrapper(path)
    expect(await readFile(path)).toEqual(first)
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    expect(first).toHaveLength(32)
    expect(await readdir(join(folder, 'made'))).toEqual(['wrapping.key'])
  })

  it('is the same for processes that start at once', async () => {
    const path = join(folder, 'race', 'wrapping.key')
    const wrappers = await Promise.all(Array.from({ length: 8 }, () => openLocalKeyWrapper(path)))
    const wrapped = await Promise.all(wrappers.map((wrapper) => wrapper.wrap(Uint8Array.of(1), {})))
    expect(new Set(wrapped.map(({ wrappingKey }) => wrappingKey)).size).toBe(1)
    expect(await readdir(join(folder, 'race'))).toEqual(['wrapping.key'])
  })

  it.each([0o640, 0o604, 0o660, 0o777])('is refused when others may read it: mode %o', async (mode) => {
    const path = join(folder, `mode-${mode}`)
    await writeFile(path, new Uint8Array(32))
    await chmod(path, mode)
    await expect(openLocalKeyWrapper(path)).rejects.toThrow(path)
  })

  it.each([0, 31, 33, 64])('is refused, and kept, when it is %i bytes long', async (length) => {
    const path = join(folder, `length-${length}`)
    await writeFile(path, new Uint8Array(length), { mode: 0o600 })
    await expect(openLocalKeyWrapper(path)).rejects.toThrow(path)
    expect((await stat(path)).size).toBe(length)
  })

  it('that was replaced leaves a refusal which names both wrapping keys', async () => {
    const path = join(folder, 'replaced.key')
    const wrapped = await (await openLocalKeyWrapper(path)).wrap(Uint8Array.of(1), {})
    await rm(path)
    const other = await openLocalKeyWrapper(path)
    const { wrappingKey } = await other.wrap(Uint8Array.of(1), {})
    const refusal = other.unwrap(wrapped, {})
    await expect(refusal).rejects.toThrow(wrapped.wrappingKey)
    await expect(refusal).rejects.toThrow(wrappingKey)
  })
})
