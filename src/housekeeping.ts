import { setTimeout as delay } from 'node:timers/promises'
import type { RetentionRun } from './log/retention-run.ts'
import type { KeyRotation } from './log/rotation.ts'
import type { TenantHeads } from './log/tenant-heads.ts'
import type { Clock } from './ports/clock.ts'
import type { Logger } from './ports/logger.ts'
import type { Directory } from './tenant/directory.ts'

/** How often somebody looks whether a month is over. */
const retentionTickMs = 3_600_000

export interface HousekeepingParts {
  readonly rotation: KeyRotation
  readonly heads: TenantHeads
  readonly retention: RetentionRun
  readonly directory: Directory
  readonly clock: Clock
  readonly logger: Logger
  /** How often, milliseconds; 0 leaves it to the caller (tests). */
  readonly everyMs: number
}

/** What has to be done from time to time, whether anything is posted or not: keys, tenants' heads, retention. */
export class Housekeeping {
  readonly retention: RetentionRun
  readonly #parts: HousekeepingParts
  readonly #stopping = new AbortController()
  #keyTicksFailed = 0
  #retentionAtMs = 0
  #keeping: Promise<void> = Promise.resolve()

  constructor(parts: HousekeepingParts) {
    this.retention = parts.retention
    this.#parts = parts
  }

  start(): void {
    if (this.#parts.everyMs > 0) this.#keeping = this.#keep()
  }

  async stop(): Promise<void> {
    this.#stopping.abort()
    await this.#keeping
    await this.#parts.rotation.stop().catch(() => {}) // without the database, it will be forgotten by its silence
  }

  /** How often in a row the keys could not be looked after: the wrapping service, or the database, is out of reach. The
   *  keys in memory go on signing. */
  get keyTicksFailed(): number {
    return this.#keyTicksFailed
  }

  /** One look after the keys. Never rejects: what fails is tried again at the next. */
  async lookAfterKeys(): Promise<void> {
    const { rotation, logger } = this.#parts
    try {
      await rotation.tick()
      if (this.#keyTicksFailed > 0) logger.info({ failures: this.#keyTicksFailed }, 'keyring.tick works again')
      this.#keyTicksFailed = 0
    } catch (error) {
      // Said once for an outage, which may last; the gauge says that it does.
      if (this.#keyTicksFailed === 0)
        logger.warn({ err: error }, 'keyring.tick failed; the keys in memory go on signing')
      this.#keyTicksFailed += 1
    }
  }

  /** One look at what has expired. Never rejects: what fails, such as because somebody is reading, is tried in an hour. */
  async lookAfterRetention(): Promise<void> {
    const { clock, logger } = this.#parts
    if (clock.now().getTime() - this.#retentionAtMs < retentionTickMs) return
    this.#retentionAtMs = clock.now().getTime()
    await this.retention
      .tick()
      .catch((error: unknown) => logger.warn({ err: error }, 'retention failed, will try again'))
  }

  async #keep(): Promise<void> {
    const { signal } = this.#stopping
    const { heads, directory, logger, everyMs } = this.#parts
    while (!signal.aborted) {
      await this.lookAfterKeys()
      // Every tenant's leaves are counted from time to time, whether somebody exports them or not.
      await heads
        .appendDue()
        .catch((error: unknown) => logger.warn({ err: error }, 'tenant.head failed, will try again'))
      // A process that serves nobody must hear all the same that a tenant was erased.
      await directory.refresh().catch((error: unknown) => logger.debug({ err: error }, 'directory.refresh failed'))
      await this.lookAfterRetention()
      await delay(everyMs, undefined, { signal }).catch(() => {})
    }
  }
}
