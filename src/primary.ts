/**
 * The primary of `--workers N`: relay processes on one machine that share its port and one database. It accepts no posts
 * itself, so there is little in it that could die.
 *
 *  - The listening socket is the primary's (node:cluster), and each worker accepts from it. One that ends takes none of the
 *    connections with it that it has not accepted yet, which a socket shared by SO_REUSEPORT would have reset. And none is
 *    handed over by the primary: one on its way to a worker that is killed would stay open, and nobody would ever answer.
 *  - A worker that dies is replaced, at once or, if it dies again soon, after a wait that doubles.
 *  - A rolling restart replaces one worker at a time: the new one listens before the old one is told to drain.
 *  - Without its primary a worker ends at once, as if killed: what it held falls due again for those that come next.
 */
import cluster, { type Worker } from 'node:cluster'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Logger } from './ports/logger.ts'

const worker = fileURLToPath(new URL('main.ts', import.meta.url))

/** A start replays nothing, but may wait for PostgreSQL to recover. */
const listenWithinMs = 120_000
const firstWaitMs = 100
const longestWaitMs = 10_000
/** A worker that lived for so long did not die of how it was started. */
const soundAfterMs = 30_000

export interface PrimaryParts {
  readonly workers: number
  /** Environment of each worker, on top of the primary's own. */
  readonly env: NodeJS.ProcessEnv
  readonly logger: Logger
}

export class Primary {
  readonly #parts: PrimaryParts
  readonly #stopping = new AbortController()
  /** Workers that belong here. One that is told to drain is taken out first, so that its end is no news. */
  readonly #staff = new Set<Worker>()
  /** Before the next start, milliseconds. */
  #waitMs = 0
  #rolling: Promise<void> | undefined
  #rollAgain = false

  constructor(parts: PrimaryParts) {
    this.#parts = parts
    cluster.schedulingPolicy = cluster.SCHED_NONE
    cluster.setupPrimary({ exec: worker, args: [] })
  }

  /** Resolves when all workers listen; false if the first did not, which has said why. It comes alone, so that whatever
   *  is wrong with a start is said once. */
  async start(): Promise<boolean> {
    const { workers, logger } = this.#parts
    const first = await this.#hire()
    if (first === undefined) return false
    await Promise.all(Array.from({ length: workers - 1 }, () => this.#replace()))
    logger.info({ workers }, 'workers listen')
    return true
  }

  /** Replaces every worker, one after the other. Asked again meanwhile, it begins again: the code may have changed since. */
  roll(): Promise<void> {
    this.#rollAgain = this.#rolling !== undefined
    this.#rolling ??= this.#rollOnce().finally(() => {
      this.#rolling = undefined
      if (this.#rollAgain && !this.#stopping.signal.aborted) void this.roll()
    })
    return this.#rolling
  }

  /** Drains all workers at once. Resolves when they have ended; each ends by itself in time. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    const left = Object.values(cluster.workers ?? {}).filter((each) => each !== undefined)
    await Promise.all(left.map((each) => this.#retire(each)))
  }

  async #rollOnce(): Promise<void> {
    const { logger } = this.#parts
    logger.info({ workers: this.#staff.size }, 'rolling restart')
    for (const old of [...this.#staff]) {
      const next = await this.#hire()
      if (next === undefined) return void logger.error({}, 'rolling restart given up: a new worker does not start')
      await this.#retire(old)
      if (this.#stopping.signal.aborted) return
    }
    logger.info({ workers: this.#staff.size }, 'rolling restart done')
  }

  /** A worker that listens; undefined if it ended before, or did not in time. */
  async #hire(): Promise<Worker | undefined> {
    const { env, logger } = this.#parts
    if (this.#stopping.signal.aborted) return undefined
    const hired = cluster.fork(env)
    hired.on('error', (error) => logger.warn({ err: error, worker: hired.process.pid }, 'worker.error'))
    const settled = new AbortController()
    const listening = once(hired, 'listening', { signal: settled.signal }).then(() => true)
    const ended = once(hired, 'exit', { signal: settled.signal }).then(() => false)
    const late = delay(listenWithinMs, false, { signal: settled.signal })
    const listens = await Promise.race([listening, ended, late])
    settled.abort()
    await Promise.allSettled([listening, ended, late])
    if (!listens) return void hired.process.kill('SIGKILL')
    if (hired.isDead()) return undefined
    const hiredAt = performance.now()
    this.#staff.add(hired)
    hired.once('exit', (exitCode, signal) => {
      if (!this.#staff.delete(hired) || this.#stopping.signal.aborted) return
      const livedMs = Math.round(performance.now() - hiredAt)
      logger.error({ worker: hired.process.pid, exitCode, signal, livedMs }, 'worker.lost')
      this.#waitMs = livedMs > soundAfterMs ? 0 : longer(this.#waitMs)
      void this.#replace()
    })
    logger.info({ worker: hired.process.pid }, 'worker.started')
    return hired
  }

  /** Hires until one listens, or we are stopping. */
  async #replace(): Promise<void> {
    const { signal } = this.#stopping
    for (; !signal.aborted; this.#waitMs = longer(this.#waitMs)) {
      await delay(this.#waitMs, undefined, { signal }).catch(() => {})
      if ((await this.#hire()) !== undefined) return
    }
  }

  /** Has a worker finish what it has, and end. */
  async #retire(old: Worker): Promise<void> {
    this.#staff.delete(old)
    if (old.isDead()) return
    const ended = once(old, 'exit')
    old.process.kill('SIGTERM')
    await ended
  }
}

const longer = (waitMs: number): number => Math.min(Math.max(2 * waitMs, firstWaitMs), longestWaitMs)
