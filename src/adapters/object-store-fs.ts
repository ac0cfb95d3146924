import { randomBytes } from 'node:crypto'
import { link, mkdir, open, readdir, readFile, rename, unlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import type { ObjectStore, PutOptions } from '../ports/object-store.ts'
import { syncFolder } from './sync-folder.ts'

/**
 * Objects as files below `root`, which is made when the first is put. A key is its path: lower-case names, digits and
 * `-`, with dots from the second segment on, e.g. `log/checkpoint` or `log/tile/0/x001/067.p/12`. Other keys are refused
 * with a `TypeError`, so no key leads out of `root`.
 */
export class FsObjectStore implements ObjectStore {
  readonly #root: string

  constructor(root: string) {
    this.#root = resolve(root)
  }

  put(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<void> {
    return this.#write(key, bytes, options, rename)
  }

  async putIfAbsent(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<'stored' | 'exists'> {
    try {
      // A second name for the draft, which unlike a rename never takes the place of another file.
      await this.#write(key, bytes, options, link)
      return 'stored'
    } catch (error) {
      if (!isSystemError(error, 'EEXIST')) throw error
      await syncFolder(dirname(this.#path(key))) // whoever made it may have died before this
      return 'exists'
    }
  }

  async find(key: string): Promise<Uint8Array | undefined> {
    try {
      return new Uint8Array(await readFile(this.#path(key)))
    } catch (error) {
      if (isSystemError(error, ...absent)) return undefined
      throw error
    }
  }

  async *list(prefix: string, after = ''): AsyncIterable<string> {
    const folder = prefix.slice(0, prefix.lastIndexOf('/') + 1)
    for await (const key of this.#walk(folder, prefix, after)) if (key.startsWith(prefix) && key > after) yield key
  }

  /** Everything below `folder`, which is empty or ends in a slash, but for folders that hold nothing that is asked for. */
  async *#walk(folder: string, prefix: string, after: string): AsyncIterable<string> {
    for (const name of await this.#namesIn(folder)) {
      const key = folder + name
      if (!key.endsWith('/')) yield key
      else if ((key.startsWith(prefix) || prefix.startsWith(key)) && (key >= after || after.startsWith(key)))
        yield* this.#walk(key, prefix, after)
    }
  }

  /** In the order of the keys below them: a folder's name counts with its slash. */
  async #namesIn(folder: string): Promise<string[]> {
    try {
      const found = await readdir(join(this.#root, folder), { withFileTypes: true })
      const names = found.map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name))
      return names.filter((name) => !name.startsWith('.')).sort()
    } catch (error) {
      if (isSystemError(error, ...absent)) return []
      throw error
    }
  }

  /** Writes a draft, syncs it, and lets `place` give it its name. */
  async #write(
    key: string,
    bytes: Uint8Array,
    { retainUntil }: PutOptions,
    place: (draft: string, path: string) => Promise<void>,
  ): Promise<void> {
    const path = this.#path(key)
    await this.#makeFolder(dirname(path))
    const draft = join(this.#root, `.${randomBytes(8).toString('hex')}.tmp`) // no key starts with a dot
    try {
      const file = await open(draft, 'wx')
      try {
        await file.writeFile(bytes)
        if (retainUntil !== undefined) await file.chmod(0o444) // a reminder: a folder cannot keep its owner from anything
        await file.sync()
      } finally {
        await file.close()
      }
      await place(draft, path)
    } finally {
      await unlink(draft).catch(() => undefined) // gone if it was renamed; else the first error is the one to tell
    }
    await syncFolder(dirname(path))
  }

  #path(key: string): string {
    if (key.length > maxKeyLength || !keyPattern.test(key)) {
      throw new TypeError(`${JSON.stringify(key)} is not the key of an object`)
    }
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

const maxKeyLength = 512
/** The segments `.` and `..` are what the lookahead refuses. */
const keyPattern = /^[a-z0-9-]+(\/(?!\.{1,2}(\/|$))[a-z0-9.-]+)*$/
/** Nothing there, a file where a folder was meant, and the reverse: in each case there is no such object. */
const absent = ['ENOENT', 'ENOTDIR', 'EISDIR']

const isSystemError = (error: unknown, ...codes: string[]): boolean =>
  error instanceof Error && 'code' in error && codes.some((code) => code === error.code)
