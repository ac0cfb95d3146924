import type { Sequencer } from '../log/sequencer.ts'
import { state } from '../log/statement.ts'
import type { Clock } from '../ports/clock.ts'
import { type Admission, bind, type Effect } from '../ports/effect.ts'
import type { Logger } from '../ports/logger.ts'
import type { Directory } from '../tenant/directory.ts'
import type { Endpoint } from '../tenant/records.ts'
import type { Endpoints } from './endpoints.ts'
import type { EndpointHealth } from './health.ts'
import { advanceStages, type HealthRow, stagesOf } from './health-store.ts'
import type { Notices } from './notices.ts'

const hour = 3_600_000
const day = 24 * hour

/** A tenant is told of an endpoint that fails once it has failed for so long, without a single success. */
const failingStagesMs = [hour, day, 3 * day]

export interface FailureParts {
  readonly health: EndpointHealth
  readonly endpoints: Endpoints
  readonly directory: Directory
  readonly notices: Notices
  readonly sequencer: Sequencer
  readonly clock: Clock
  readonly issuer: string
  readonly logger: Logger
  /** An endpoint that has failed for so long is paused. */
  readonly pauseAfterMs: number
}

/**
 * Tells a tenant of an endpoint that fails, in stages, as statements and as operational webhooks, and pauses it in the
 * end: its deliveries wait, and are sent when it is resumed. Every process looks; each stage is stated once.
 */
export class FailureWatch {
  readonly #parts: FailureParts

  constructor(parts: FailureParts) {
    this.#parts = parts
  }

  async look(): Promise<void> {
    const { health, clock, pauseAfterMs } = this.#parts
    const now = clock.now().getTime()
    for (const row of health.failing()) {
      if (row.failingSince === null) continue
      const failingMs = now - row.failingSince.getTime()
      if (failingMs >= pauseAfterMs) await this.#pauseFailing(row, row.failingSince)
      else await this.#tell(row, row.failingSince, failingStagesMs.filter((stageMs) => failingMs >= stageMs).length)
    }
  }

  /** 410: the receiver says that it wants nothing more. */
  async gone({ id, tenantId }: Endpoint): Promise<void> {
    await this.#pause(tenantId, id, 'gone', {})
  }

  async #tell({ endpointId, tenantId, stage: told }: HealthRow, since: Date, stage: number): Promise<void> {
    const { sequencer, issuer, clock, notices, health } = this.#parts
    if (stage <= told) return
    const facts = { sub: endpointId, tenant: tenantId, since: since.toISOString(), stage }
    const stated = state(issuer, { kind: 'endpoint.failing', ...facts }, clock.now())
    const place = await sequencer.append({ stated, effects: [bind(stageOnce, { endpointId, stage })] })
    await health.look() // or this process would ask again at once
    if (place.kind === 'superseded') return
    const data = { since: since.toISOString() }
    await notices.send(tenantId, { type: 'endpoint.failing', endpointId, data })
  }

  async #pauseFailing({ endpointId, tenantId }: HealthRow, since: Date): Promise<void> {
    await this.#pause(tenantId, endpointId, 'failing', { since: since.toISOString() })
    // When it is resumed it has not failed yet.
    await this.#parts.health.forget(endpointId)
  }

  async #pause(tenantId: string, endpointId: string, reason: 'gone' | 'failing', data: Record<string, string>) {
    const { endpoints, directory, notices, logger } = this.#parts
    const endpoint = await directory.findEndpoint(tenantId, endpointId)
    if (endpoint === undefined || endpoint.pausedAt !== null) return
    await endpoints.pause('deployment', tenantId, endpointId, reason)
    logger.warn({ endpoint: endpointId, tenant: tenantId, reason }, 'endpoint.paused')
    await notices.send(tenantId, { type: 'endpoint.paused', endpointId, data: { ...data, reason } })
  }
}

/** Two processes may see the same stage reached at once: whoever comes second says nothing. */
const stageOnce: Effect<{ endpointId: string; stage: number }> = {
  async write(tx, rows) {
    const told = rows.map(({ row }) => row)
    advanceStages(
      tx,
      told.sort((a, b) => (a.endpointId < b.endpointId ? -1 : 1)),
    )
    return undefined
  },

  doubt: () => true,

  async admit(tx, rows): Promise<Admission[]> {
    const known = await stagesOf(
      tx,
      rows.map(({ endpointId }) => endpointId),
    )
    const stages = new Map(known.map(({ endpointId, stage }) => [endpointId, stage]))
    return rows.map(({ endpointId, stage }) =>
      (stages.get(endpointId) ?? 0) >= stage ? { kind: 'superseded', by: endpointId } : { kind: 'admitted' },
    )
  },
}
