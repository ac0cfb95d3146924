import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import { type Health, type HealthEvent, healthAfter, type Passage, passageOf } from './breaker.ts'
import {
  changedHealth,
  forgetRecovered,
  type HealthRow,
  lockHealth,
  storeHealth,
  storeRecovery,
} from './health-store.ts'

/** Events kept for one endpoint until they are written; beyond it the oldest of a long row of failures add nothing. */
const mostEvents = 100

/**
 * How each endpoint does, as all processes share it (breaker.ts decides, this remembers). Asked for each delivery, so it
 * answers from memory; only endpoints that fail are in it. What this process sees is true here at once, written within
 * one look ({@link look}), and known to the others at their next.
 */
export class EndpointHealth {
  readonly #database: Database
  readonly #clock: Clock
  readonly #random: () => number
  readonly #logger: Logger
  readonly #onChange: (endpointId: string, passage: Passage) => void
  readonly #known = new Map<string, HealthRow>()
  /** What happened since it was last written, by endpoint, in order. */
  #unwritten = new Map<string, { tenantId: string; events: HealthEvent[] }>()
  #readUntil = new Date(0)

  /** `onChange` is told when what may be sent to an endpoint changes, whoever changed it. */
  constructor(parts: {
    database: Database
    clock: Clock
    random: () => number
    logger: Logger
    onChange: (endpointId: string, passage: Passage) => void
  }) {
    this.#database = parts.database
    this.#clock = parts.clock
    this.#random = parts.random
    this.#logger = parts.logger
    this.#onChange = parts.onChange
  }

  passage(endpointId: string): Passage {
    const health = this.#known.get(endpointId)
    return health === undefined ? flows : passageOf(health, this.#clock.now())
  }

  /** Endpoints that have failed since their last success. */
  failing(): HealthRow[] {
    return [...this.#known.values()].filter((row) => row.failingSince !== null)
  }

  /** Takes note of what an attempt said. Costs nothing for an endpoint that is well and stays so. */
  note(endpoint: { id: string; tenantId: string }, event: HealthEvent): void {
    const before = this.#known.get(endpoint.id)
    if (before === undefined && event.kind === 'delivered') return
    this.#remember(endpoint, before, healthAfter(before, event, this.#random))
    const unwritten = this.#unwritten.get(endpoint.id)
    if (unwritten === undefined) this.#unwritten.set(endpoint.id, { tenantId: endpoint.tenantId, events: [event] })
    else if (unwritten.events.push(event) > mostEvents) unwritten.events.shift()
  }

  /** As if it had never failed: it was paused, and starts afresh when it is resumed. */
  async forget(endpointId: string): Promise<void> {
    this.#known.delete(endpointId)
    this.#unwritten.delete(endpointId)
    await this.#database.transaction(async (tx) => storeRecovery(tx, [endpointId]))
  }

  /** Writes what happened here and reads what happened elsewhere. */
  async look(): Promise<void> {
    if (this.#unwritten.size > 0) await this.#write()
    const rows = await changedHealth(this.#database, this.#readUntil)
    for (const { changedAt, ...row } of rows) {
      if (changedAt > this.#readUntil) this.#readUntil = changedAt
      if (this.#unwritten.has(row.endpointId)) continue // what we know is newer
      const wellAgain = row.failingSince === null && row.heldUntil === null
      const endpoint = { id: row.endpointId, tenantId: row.tenantId }
      this.#remember(endpoint, this.#known.get(row.endpointId), wellAgain ? undefined : row, row.stage)
    }
  }

  /** Housekeeping: rows of endpoints that have long been well. */
  tidy(): Promise<unknown> {
    return forgetRecovered(this.#database)
  }

  /** Applies the events to the rows as they are in the database, under their lock: another process may have seen more. */
  async #write(): Promise<void> {
    const unwritten = this.#unwritten
    this.#unwritten = new Map()
    try {
      await this.#database.transaction(async (tx) => {
        const ids = [...unwritten.keys()].sort()
        const before = new Map((await lockHealth(tx, ids)).map((row) => [row.endpointId, row]))
        const ill: Omit<HealthRow, 'stage'>[] = []
        const recovered: string[] = []
        for (const [endpointId, { tenantId, events }] of unwritten) {
          const row = before.get(endpointId)
          let health: Health | undefined = row?.failingSince === null && row.heldUntil === null ? undefined : row
          for (const event of events) health = healthAfter(health, event, this.#random)
          if (health !== undefined) ill.push({ ...health, endpointId, tenantId })
          else if (row !== undefined) recovered.push(endpointId)
        }
        if (ill.length > 0) storeHealth(tx, ill)
        if (recovered.length > 0) storeRecovery(tx, recovered)
      })
    } catch (error) {
      // Kept for the next look, behind nothing that came meanwhile.
      for (const [endpointId, { tenantId, events }] of unwritten) {
        const later = this.#unwritten.get(endpointId)?.events ?? []
        this.#unwritten.set(endpointId, { tenantId, events: [...events, ...later].slice(-mostEvents) })
      }
      throw error
    }
  }

  #remember(
    { id, tenantId }: { id: string; tenantId: string },
    before: HealthRow | undefined,
    health: Health | undefined,
    stage = before?.stage ?? 0,
  ): void {
    const now = this.#clock.now()
    const from = passageOf(before, now)
    const to = passageOf(health, now)
    if (health === undefined) this.#known.delete(id)
    else this.#known.set(id, { ...health, endpointId: id, tenantId, stage })
    if (from.kind === to.kind) return
    this.#logger.info({ endpoint: id, tenant: tenantId, from: from.kind, to: to.kind, ...to }, 'endpoint.passage')
    this.#onChange(id, to)
  }
}

const flows: Passage = { kind: 'flows' }
