import type { Sequencer } from '../log/sequencer.ts'
import { type AuditEvent, state } from '../log/statement.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import { bind, type Effect } from '../ports/effect.ts'
import { letNextFollow, type Settled } from './order.ts'
import { abandonDeliveries, type HopelessDelivery, pendingOfErased, pendingOfExpired } from './store.ts'

/** A delivery that is given up. */
export interface Abandoned extends Settled {
  readonly id: string
  readonly at: Date
}

/** The row of a delivery that was abandoned, and the turn of the next in its order. */
export const abandonments: Effect<Abandoned> = {
  async write(tx, rows) {
    abandonDeliveries(
      tx,
      rows.map(({ row: { id }, leafIndex }) => ({ id, leafIndex })),
    )
    const settled = rows.map(({ row }) => row)
    letNextFollow(tx, settled, settled[0]?.at ?? new Date())
    return undefined
  },
}

const lookBackMs = 7 * 86_400_000

/** One page becomes one batch of the log. */
const pageLength = 256

/**
 * Gives up, of its own accord, on what nobody will ever be able to send: deliveries of a tenant that was erased, and those
 * whose payload expired, such as behind an endpoint paused for a month. Each is a statement like every other end. An
 * attempt under way at that moment is still recorded; it finds its delivery settled.
 */
export class Abandonment {
  readonly #database: Database
  readonly #sequencer: Sequencer
  readonly #clock: Clock
  readonly #issuer: string

  constructor(parts: { database: Database; sequencer: Sequencer; clock: Clock; issuer: string }) {
    this.#database = parts.database
    this.#sequencer = parts.sequencer
    this.#clock = parts.clock
    this.#issuer = parts.issuer
  }

  /** Of the tenants erased in the last days: whatever was cut short is made good long before. */
  async ofErased(): Promise<void> {
    const since = new Date(this.#clock.now().getTime() - lookBackMs)
    await this.#all('tenant_erased', () => pendingOfErased(this.#database, since, pageLength))
  }

  async ofExpired(): Promise<void> {
    await this.#all('payload_expired', () => pendingOfExpired(this.#database, this.#clock.now(), pageLength))
  }

  async #all(reason: 'tenant_erased' | 'payload_expired', next: () => Promise<HopelessDelivery[]>): Promise<void> {
    for (let page = await next(); page.length > 0; page = await next()) {
      await Promise.all(page.map((delivery) => this.#abandon(delivery, reason)))
    }
  }

  async #abandon(delivery: HopelessDelivery, reason: 'tenant_erased' | 'payload_expired') {
    const { id, tenantId, messageId: message, endpointId: endpoint, attempts } = delivery
    const event: AuditEvent = {
      ...{ kind: 'delivery.abandoned', sub: id, tenant: tenantId, message, endpoint, attempts, reason },
    }
    const at = this.#clock.now()
    const stated = state(this.#issuer, event, at)
    await this.#sequencer.append({ stated, effects: [bind(abandonments, { ...delivery, at })] })
  }
}
