import { execFile } from 'node:child_process'
import { mkdir, rename, rm, statfs } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)

const bytes = 4 * 2 ** 30
const stepBytes = 64 * 1024

/** A file system in memory that can be made full: it shrinks to what is in it. Takes root, on Linux. */
export class Disk {
  readonly #folder: string

  private constructor(folder: string) {
    this.#folder = folder
  }

  /** Mounted at `folder`, which is made; undefined where this process may not. */
  static async mount(folder: string): Promise<Disk | undefined> {
    await mkdir(folder, { mode: 0o711 })
    const options = `size=${bytes},mode=0711`
    const mounted = await run('mount', ['-t', 'tmpfs', '-o', options, 'countersign-drill', folder]).then(
      () => true,
      () => false,
    )
    return mounted ? new Disk(folder) : undefined
  }

  /** Leaves no room, for so long. */
  async fill(lastsMs: number): Promise<void> {
    for (let slack = 0; ; slack += stepBytes) {
      const { blocks, bfree, bsize } = await statfs(this.#folder)
      // What is written between the two makes the size too small, which the kernel refuses.
      const size = (blocks - bfree) * bsize + slack
      if (
        await this.#resize(size).then(
          () => true,
          () => false,
        )
      )
        break
    }
    await delay(lastsMs)
    await this.#resize(bytes)
  }

  /** Copies what is in it to where it was mounted, if it is to be `kept`. */
  async unmount(kept: boolean): Promise<void> {
    const copy = `${this.#folder}.kept`
    if (kept) await run('cp', ['-a', this.#folder, copy])
    await run('umount', [this.#folder])
    await rm(this.#folder, { recursive: true })
    if (kept) await rename(copy, this.#folder)
  }

  async #resize(size: number): Promise<void> {
    await run('mount', ['-o', `remount,size=${size}`, this.#folder])
  }
}
