import type { Clock } from '../ports/clock.ts'
import type { Logger } from '../ports/logger.ts'
import type { Endpoint } from '../tenant/records.ts'
import type { FailureWatch } from './failure.ts'
import type { EndpointHealth } from './health.ts'
import type { Reconciled, Reconciler } from './reconciler.ts'
import { Wakeable } from './wakeable.ts'

/** What is looked after beside the deliveries themselves: endpoints that fail, the accounts, and rows nobody needs. */
export class Upkeep {
  readonly #failures: FailureWatch
  readonly #reconciler: Reconciler
  readonly #health: EndpointHealth
  readonly #logger: Logger
  readonly #loop: Wakeable

  constructor(parts: {
    failures: FailureWatch
    reconciler: Reconciler
    health: EndpointHealth
    clock: Clock
    logger: Logger
    everyMs: number
  }) {
    this.#failures = parts.failures
    this.#reconciler = parts.reconciler
    this.#health = parts.health
    this.#logger = parts.logger
    this.#loop = new Wakeable({ look: () => this.look(), pollMs: parts.everyMs, clock: parts.clock })
  }

  start(): void {
    this.#loop.start()
  }

  stop(): Promise<void> {
    return this.#loop.stop()
  }

  /** An endpoint answered 410 Gone. */
  gone(endpoint: Endpoint): void {
    this.#failures.gone(endpoint).catch((error: unknown) => {
      this.#logger.warn({ err: error, endpoint: endpoint.id }, 'endpoint.paused failed; the next 410 will pause it')
    })
  }

  /** One look of the reconciler alone; undefined if another process is looking. */
  reconcile(): Promise<Reconciled | undefined> {
    return this.#reconciler.look()
  }

  /** Never rejects: what fails is tried again at the next look. */
  async look(): Promise<undefined> {
    for (const duty of [() => this.#failures.look(), () => this.#reconciler.look(), () => this.#health.tidy()]) {
      await duty().catch((error: unknown) =>
        this.#logger.warn({ err: error }, 'delivery.upkeep failed, will try again'),
      )
    }
  }
}
