import { setTimeout as delay } from 'node:timers/promises'
import { OperatorError } from '../errors.ts'
import type { Tx } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { ObjectStore } from '../ports/object-store.ts'
import { type LogTrust, openCheckpoint } from './checkpoint.ts'
import { consistent } from './reader.ts'
import type { HeadRow } from './store.ts'
import type { TileCache } from './tile-cache.ts'
import type { Witnesses } from './witnesses.ts'

const latest = 'checkpoints/latest'

/** The log in the database is not the one that was published. Starting would fork it. */
export class LogForked extends OperatorError {
  override readonly name = 'LogForked'
}

const remedy =
  'Nothing was changed. Most likely the database was restored from a backup or replaced. Bring back the newest database; ' +
  'if it is lost, start a new log under another PUBLIC_URL and keep the old checkpoint as evidence.'

/**
 * Compares the head in the database with the last checkpoint published outside of it (DESIGN.md rule 4). Throws
 * LogForked if the database is behind it, or does not extend it.
 */
export async function checkAgainstPublished(
  tx: Tx,
  tiles: TileCache,
  store: ObjectStore,
  head: HeadRow,
  trust: LogTrust,
): Promise<void> {
  const bytes = await store.find(latest)
  if (bytes === undefined) return
  let published: ReturnType<typeof openCheckpoint>
  try {
    published = openCheckpoint(bytes, trust)
  } catch (cause) {
    const sentence = `The checkpoint in the object store (${latest}) is not one of this log.`
    throw new LogForked(`${sentence} ${remedy}`, { cause })
  }
  if (published.treeSize > head.treeSize) {
    const sizes = `${published.treeSize} leaves were published and the database holds ${head.treeSize}`
    throw new LogForked(`The log in the database is behind what it published: ${sizes}. ${remedy}`)
  }
  if (!(await consistent(tx, tiles, published, head))) {
    throw new LogForked(`The log in the database contradicts its checkpoint at ${published.treeSize} leaves. ${remedy}`)
  }
}

/** How often a growing log publishes. Each publication is an fsync or a request, so not with each batch. */
const intervalMs = 1000

/** Has the newest checkpoint cosigned and writes it to the object store, in the background, at most once a second, and
 *  when it stops. */
export class CheckpointPublisher {
  readonly #store: ObjectStore
  readonly #cosign: Witnesses['cosign']
  readonly #logger: Logger
  #newest: string | undefined
  /** The newest that is published as well as it ever will be. */
  #settled: string | undefined
  /** The note in the object store. */
  #stored: string | undefined
  #running: Promise<void> | undefined
  readonly #stopping = new AbortController()

  constructor(store: ObjectStore, cosign: Witnesses['cosign'], logger: Logger) {
    this.#store = store
    this.#cosign = cosign
    this.#logger = logger
  }

  publish(checkpoint: string): void {
    this.#newest = checkpoint
    this.#running ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#running
    await this.#write()
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping
    while (this.#newest !== this.#settled && !signal.aborted) {
      await this.#write()
      await delay(intervalMs, undefined, { signal }).catch(() => {})
    }
    this.#running = undefined
  }

  async #write(): Promise<void> {
    const newest = this.#newest
    if (newest === undefined || newest === this.#settled) return
    const { note, settled } = await this.#cosign(newest)
    try {
      if (note !== undefined && note !== this.#stored) {
        await this.#store.put(latest, Buffer.from(note))
        this.#stored = note
      }
      if (settled) this.#settled = newest
    } catch (error) {
      this.#logger.error({ err: error }, 'checkpoint.publish failed, will try again')
    }
  }
}
