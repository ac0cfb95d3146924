import { randomBytes } from 'node:crypto'
import { type FileHandle, link, mkdir, open, readdir, readFile, rename, stat, unlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import {
  type ByteRange,
  checkKey,
  checkPrefix,
  ObjectAbsent,
  type ObjectStat,
  type ObjectStore,
  type PutOptions,
} from '../ports/object-store.ts'
import { syncFolder } from './sync-folder.ts'

/**
 * Objects as files below `root`, which is made when the first is put; a key is its path. A folder can promise no
 * retention: an object with one is a file that nobody may write to, which keeps off accidents, and no more.
 *
 * An object is written to a draft, synced, and then given its name. A process that dies leaves its draft behind, as a
 * hidden file in `root` that nobody reads and an operator may delete.
 */
export class FsObjectStore implements ObjectStore {
  readonly #root: string

  constructor(root: string) {
    this.#root = resolve(root)
  }

  put(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<void> {
    return this.#make(key, (draft) => draft.writeFile(bytes), rename, options)
  }

  async putIfAbsent(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<'stored' | 'exists'> {
    if ((await this.stat(key)) === undefined) {
      try {
        // Unlike rename, link never replaces.
        await this.#make(key, (draft) => draft.writeFile(bytes), link, options)
        return 'stored'
      } catch (error) {
        if (codeOf(error) !== 'EEXIST' || (await this.stat(key)) === undefined) throw error
      }
    }
    await syncFolder(dirname(this.#path(key))) // whoever stored it may not have come to that
    return 'exists'
  }

  async find(key: string): Promise<Uint8Array | undefined> {
    return unlessAbsent(async () => new Uint8Array(await readFile(this.#path(key))))
  }

  async stat(key: string): Promise<ObjectStat | undefined> {
    const found = await unlessAbsent(() => stat(this.#path(key)))
    return found?.isFile() ? { bytes: found.size } : undefined
  }

  async *read(
    key: string,
    { from, to = Number.POSITIVE_INFINITY }: ByteRange = { from: 0 },
  ): AsyncGenerator<Uint8Array> {
    const file = await unlessAbsent(() => open(this.#path(key), 'r'))
    try {
      const found = await file?.stat()
      if (file === undefined || !found?.isFile()) throw new ObjectAbsent(key)
      if (from > 0 && from >= found.size) throw new RangeError(`${key} has ${found.size} bytes, and none at ${from}`)
      yield* file.createReadStream({ start: from, end: to, autoClose: false })
    } finally {
      await file?.close()
    }
  }

  write(key: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    return this.#make(key, (draft) => draft.writeFile(chunks), rename)
  }

  async delete(key: string): Promise<void> {
    const path = this.#path(key)
    await unlessAbsent(async () => {
      await unlink(path)
      await syncFolder(dirname(path))
    })
  }

  async *list(prefix: string, after = ''): AsyncGenerator<string> {
    checkPrefix(prefix)
    yield* this.#listFolder(prefix.slice(0, prefix.lastIndexOf('/') + 1), prefix, after)
  }

  /** `folder` is empty, or ends in a slash. */
  async *#listFolder(folder: string, prefix: string, after: string): AsyncGenerator<string> {
    const entries = (await unlessAbsent(() => readdir(join(this.#root, folder), { withFileTypes: true }))) ?? []
    const keys = entries
      .filter(({ name }) => folder !== '' || !name.startsWith('.')) // drafts
      .map((entry) => `${folder}${entry.name}${entry.isDirectory() ? '/' : ''}`)
      .sort() // with the slash, a folder stands where its keys belong: `a-b` < `a.b` < `a/b`
    for (const key of keys) {
      if (!key.startsWith(prefix)) continue
      if (!key.endsWith('/')) {
        if (key > after) yield key
      } else if (key > after || after.startsWith(key)) yield* this.#listFolder(key, prefix, after)
    }
  }

  /** `name` gives the finished draft its name, and may leave the draft its own. */
  async #make(
    key: string,
    fill: (draft: FileHandle) => Promise<void>,
    name: (draft: string, path: string) => Promise<void>,
    { retainUntil }: PutOptions = {},
  ): Promise<void> {
    const path = this.#path(key)
    await this.#makeFolder(dirname(path))
    const draft = join(this.#root, `.${randomBytes(8).toString('hex')}.tmp`) // no key starts with a dot
    try {
      const file = await open(draft, 'wx')
      try {
        await fill(file)
        if (retainUntil !== undefined) await file.chmod(0o444)
        await file.sync()
      } finally {
        await file.close()
      }
      await name(draft, path)
    } finally {
      await unlink(draft).catch(() => undefined) // after a rename it is gone; otherwise the first error is the one to tell
    }
    await syncFolder(dirname(path))
  }

  #path(key: string): string {
    checkKey(key)
    return join(this.#root, key)
  }

  /** Makes the folders that lack, and syncs each name into its parent: an object is no safer than the way to it. */
  async #makeFolder(folder: string): Promise<void> {
    const first = await mkdir(folder, { recursive: true, mode: 0o700 })
    if (first === undefined) return
    for (let made = folder; ; made = dirname(made)) {
      await syncFolder(dirname(made))
      if (made === first) return
    }
  }
}

/** Nothing there, a file where a folder was meant, and the reverse: in each case there is no such object. */
const absent = new Set<unknown>(['ENOENT', 'ENOTDIR', 'EISDIR'])

async function unlessAbsent<T>(look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look()
  } catch (error) {
    if (absent.has(codeOf(error))) return undefined
    throw error
  }
}

const codeOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined)
