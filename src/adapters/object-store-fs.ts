import { randomBytes } from 'node:crypto'
import { mkdir, open, readFile, rename, unlink } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import type { ObjectStore } from '../ports/object-store.ts'
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

  async put(key: string, bytes: Uint8Array): Promise<void> {
    const path = this.#path(key)
    await this.#makeFolder(dirname(path))
    const draft = join(this.#root, `.${randomBytes(8).toString('hex')}.tmp`) // no key starts with a dot
    try {
      const file = await open(draft, 'wx')
      try {
        await file.writeFile(bytes)
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(draft, path)
    } catch (error) {
      await unlink(draft).catch(() => undefined) // the first error is the one to tell
      throw error
    }
    await syncFolder(dirname(path))
  }

  async find(key: string): Promise<Uint8Array | undefined> {
    try {
      return new Uint8Array(await readFile(this.#path(key)))
    } catch (error) {
      if (error instanceof Error && 'code' in error && absent.has(error.code)) return undefined
      throw error
    }
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
const absent = new Set<unknown>(['ENOENT', 'ENOTDIR', 'EISDIR'])
