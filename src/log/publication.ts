import { setTimeout as delay } from 'node:timers/promises'
import type { Clock } from '../ports/clock.ts'
import type { Tx } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { ObjectStore } from '../ports/object-store.ts'
import { type LogTrust, openCheckpoint } from './checkpoint.ts'
import {
  checkpointKey,
  findPublished,
  latestKey,
  mirrorKey,
  PublishedUnreadable,
  tileKey,
  vkeyKey,
} from './published.ts'
import { findEntries, findTile } from './reader.ts'
import { LogBroken } from './sequencer.ts'
import { encodeBundle, partialWidth, type TileLevel } from './tile.ts'
import { tileWidth } from './tree.ts'
import type { Witnesses } from './witnesses.ts'

/** How often a growing log publishes. Each publication is some fsyncs or requests, so not with each batch. */
const intervalMs = 1000

/** How often the partial tiles at the right edge go with it, so that the log can be read as files up to its last leaf.
 *  Each time leaves a few small objects behind. */
const edgeIntervalMs = 5 * 60_000

/** Tiles put at a time. */
const concurrency = 4

/** How long stopping may take to publish what is newest. What it does not get to, the next start publishes. */
const stopMs = 5000

/** How long no one can replace or delete a numbered checkpoint, where the store enforces it: as long as statements are
 *  kept by default. */
const retentionMonths = 12

/**
 * Has the newest checkpoint cosigned and publishes it outside the database, in the background, at most once a second, and
 * when it stops. The life of a publication is {@link CheckpointPublisher.#publish}; published.ts says where everything is
 * found again.
 *
 * Several processes may publish at once: all objects but three are put where there is none, and hold the same bytes
 * whoever puts them. That `latest` may step back for a moment does no harm, since the numbers behind it are looked at too.
 */
export class CheckpointPublisher {
  readonly #store: ObjectStore
  readonly #database: Tx
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #cosign: Witnesses['cosign']
  readonly #trust: () => LogTrust
  readonly #vkeys: () => readonly string[]
  readonly #onBroken: (error: LogBroken) => void
  /** Below this size every full tile is in the store. */
  #tiledSize: number
  #edgeAt = Number.NEGATIVE_INFINITY
  #newest: string | undefined
  /** The newest that is published as well as it ever will be. */
  #settled: string | undefined
  /** The note in the store. */
  #stored: string | undefined
  #broken = false
  #running: Promise<void> | undefined
  readonly #stopping = new AbortController()

  constructor(parts: {
    store: ObjectStore
    database: Tx
    clock: Clock
    logger: Logger
    cosign: Witnesses['cosign']
    /** By which a checkpoint published before is opened. */
    trust: () => LogTrust
    vkeys: () => readonly string[]
    /** The size of the newest checkpoint found in the store at start; 0 if there was none. */
    publishedSize: number
    /** Told once if what stands in the store contradicts the log. */
    onBroken: (error: LogBroken) => void
  }) {
    this.#store = parts.store
    this.#database = parts.database
    this.#clock = parts.clock
    this.#logger = parts.logger
    this.#cosign = parts.cosign
    this.#trust = parts.trust
    this.#vkeys = parts.vkeys
    this.#tiledSize = parts.publishedSize
    this.#onBroken = parts.onBroken
  }

  publish(checkpoint: string): void {
    this.#newest = checkpoint
    this.#running ??= this.#run()
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#running
    this.#edgeAt = Number.NEGATIVE_INFINITY
    await this.#attempt(AbortSignal.timeout(stopMs))
  }

  async #run(): Promise<void> {
    const { signal } = this.#stopping
    while (this.#newest !== this.#settled && !signal.aborted && !this.#broken) {
      await this.#attempt(signal)
      await delay(intervalMs, undefined, { signal }).catch(() => {})
    }
    this.#running = undefined
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    const newest = this.#newest
    if (newest === undefined || this.#broken) return
    const edgeDue = this.#clock.now().getTime() - this.#edgeAt >= edgeIntervalMs
    if (newest === this.#settled && !edgeDue) return
    try {
      const { note, settled } = await this.#cosign(newest)
      if (note !== undefined && (note !== this.#stored || edgeDue)) await this.#publish(note, edgeDue, signal)
      if (settled) this.#settled = newest
    } catch (error) {
      if (signal.aborted) return
      if (error instanceof LogBroken) {
        this.#broken = true
        this.#onBroken(error)
      } else this.#logger.error({ err: error }, 'checkpoint.publish failed, will try again')
    }
  }

  /**
   * In this order, so that whatever a reader finds, all that it stands on is there already; and so that a process that
   * dies in between is found again by the next, which puts the same objects once more.
   */
  async #publish(note: string, withEdge: boolean, signal: AbortSignal): Promise<void> {
    const { treeSize } = openCheckpoint(note, this.#trust())
    await this.#putFullTiles(treeSize, signal)
    if (withEdge) await this.#putPartialTiles(treeSize)
    await this.#putNumbered(treeSize, note)
    await this.#store.put(latestKey, Buffer.from(note))
    this.#stored = note
    if (withEdge) await this.#putMirror(note)
  }

  async #putFullTiles(treeSize: number, signal: AbortSignal): Promise<void> {
    const tiles = fullTilesBetween(this.#tiledSize, treeSize)
    const put = async (): Promise<void> => {
      // Shared by all: each takes the next.
      for (const { level, index } of tiles) {
        signal.throwIfAborted()
        await this.#putTile(level, index, tileWidth)
      }
    }
    await Promise.all(Array.from({ length: concurrency }, put))
    this.#tiledSize = Math.max(this.#tiledSize, treeSize)
  }

  async #putPartialTiles(treeSize: number): Promise<void> {
    for (let level = 0; tileWidth ** level <= treeSize; level++) {
      const width = partialWidth(level, treeSize)
      if (width === 0) continue
      const index = Math.floor(treeSize / tileWidth ** (level + 1))
      if (level === 0) await this.#putTile('entries', index, width)
      await this.#putTile(level, index, width)
    }
  }

  /** A tile is never replaced: one of other bytes is of another log than the one in the database. */
  async #putTile(level: TileLevel, index: number, width: number): Promise<void> {
    const key = tileKey(level, index, width)
    const bytes = await readTile(this.#database, level, index, width)
    if (bytes === undefined) throw new LogBroken(`the database lacks ${key}, which its head stands on`)
    if ((await this.#store.putIfAbsent(key, bytes)) === 'stored') return
    const before = await this.#store.find(key)
    if (before === undefined || Buffer.compare(before, bytes) !== 0) {
      throw new LogBroken(`${key} was published with other bytes than the database holds now`)
    }
  }

  /** Two checkpoints of one size with different roots prove a fork. Different signatures on one root do not. */
  async #putNumbered(treeSize: number, note: string): Promise<void> {
    const retainUntil = this.#clock.now()
    retainUntil.setUTCMonth(retainUntil.getUTCMonth() + retentionMonths)
    const key = checkpointKey(treeSize)
    if ((await this.#store.putIfAbsent(key, Buffer.from(note), { retainUntil })) === 'stored') return
    const trust = this.#trust()
    const before = await findPublished(this.#store, key, trust).catch((cause: unknown) => {
      throw cause instanceof PublishedUnreadable ? new LogBroken(cause.message, { cause }) : cause
    })
    if (before === undefined || Buffer.compare(before.rootHash, openCheckpoint(note, trust).rootHash) !== 0) {
      throw new LogBroken(`another checkpoint of ${treeSize} leaves was published before`)
    }
  }

  /** The log as files: whoever serves the folder `log/` over HTTP serves a log (c2sp.org/tlog-tiles). */
  async #putMirror(note: string): Promise<void> {
    await this.#store.put(vkeyKey, Buffer.from(`${this.#vkeys().join('\n')}\n`))
    await this.#store.put(mirrorKey, Buffer.from(note))
    this.#edgeAt = this.#clock.now().getTime()
  }
}

/** The tiles and bundles that became full while the tree grew. */
function* fullTilesBetween(fromSize: number, toSize: number): Generator<{ level: TileLevel; index: number }> {
  for (let level = 0, leaves = tileWidth; leaves <= toSize; level++, leaves *= tileWidth) {
    for (let index = Math.floor(fromSize / leaves); index < Math.floor(toSize / leaves); index++) {
      if (level === 0) yield { level: 'entries', index }
      yield { level, index }
    }
  }
}

async function readTile(tx: Tx, level: TileLevel, index: number, width: number): Promise<Uint8Array | undefined> {
  if (level !== 'entries') return findTile(tx, level, index, width)
  const entries = await findEntries(tx, index, width)
  return entries && encodeBundle(entries)
}
