import type { Id } from '../message/id.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { Allowance } from './backlog.ts'
import {
  type Backlog,
  type ClaimedRow,
  claimDue,
  dropEmptyBacklogs,
  lockBacklogs,
  parkClaims,
  releaseClaims,
  renewLeases,
  scheduleBacklogs,
  takeFromBacklogs,
} from './claim-store.ts'
import type { ClaimedDelivery } from './delivery.ts'

/** Claimed in one statement. */
const pageLength = 500

/** Backlogs looked at in one transaction. */
const mostBacklogs = 64

/** What was drained, of which backlogs nothing is left, and when to look again at the one that is due first. */
export interface Drained {
  readonly claimed: readonly ClaimedDelivery[]
  readonly looked: readonly string[]
  readonly empty: ReadonlySet<string>
  readonly nextAt: Date | undefined
}

/**
 * The deliveries that this process holds, and until when nobody else may take them. A claim is a name on the row and a
 * time in it: whoever comes after that time takes over, and whatever the former claimant still has to say is fenced off
 * by the name. Leases are renewed as long as the delivery is in memory, so an attempt may take longer than a lease.
 */
export class Claims {
  readonly #database: Database
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #process: string
  readonly #leaseMs: number
  readonly #held = new Map<string, { claim: string; endsAt: Date }>()
  #made = 0

  /** `process` names this process's claims, and is not reused by the process that replaces it. */
  constructor(parts: { database: Database; clock: Clock; logger: Logger; process: string; leaseMs: number }) {
    this.#database = parts.database
    this.#clock = parts.clock
    this.#logger = parts.logger
    this.#process = parts.process
    this.#leaseMs = parts.leaseMs
  }

  /** A new claim, as rows are to carry it. */
  make(): { claim: string; leaseEndsAt: Date } {
    const claim = `${this.#process}.${this.#made++}`
    return { claim, leaseEndsAt: new Date(this.#clock.now().getTime() + this.#leaseMs) }
  }

  hold({ id, claim }: ClaimedDelivery, endsAt: Date): void {
    this.#held.set(id, { claim, endsAt })
  }

  /** It is settled, given back, or somebody else's. */
  drop({ id, claim }: ClaimedDelivery): void {
    if (this.#held.get(id)?.claim === claim) this.#held.delete(id)
  }

  /** How long the lease still holds, milliseconds; 0 once it is lost. */
  remainingMs({ id, claim }: ClaimedDelivery): number {
    const held = this.#held.get(id)
    return held?.claim === claim ? Math.max(0, held.endsAt.getTime() - this.#clock.now().getTime()) : 0
  }

  /** Whether there is time to begin something: a renewal has failed or two where less than a third of a lease is left. */
  isFresh(delivery: ClaimedDelivery): boolean {
    return this.remainingMs(delivery) * 3 > this.#leaseMs
  }

  /** Claims what is due, oldest first: retries, and what a process that died had claimed. */
  async takeDue(room: number): Promise<ClaimedDelivery[]> {
    const limit = Math.min(room, pageLength)
    if (limit === 0) return []
    const { claim, leaseEndsAt } = this.make()
    const rows = await claimDue(this.#database, { now: this.#clock.now(), leaseEndsAt, claim, limit })
    return this.#holdRows(rows, claim, leaseEndsAt)
  }

  /** Claims from the backlogs whose turn it is, from each as much as `allow` says. */
  async drain(allow: (backlog: Backlog) => Promise<Allowance>): Promise<Drained> {
    const { claim, leaseEndsAt } = this.make()
    const now = this.#clock.now()
    return this.#database.transaction(async (tx) => {
      const backlogs = await lockBacklogs(tx, now, mostBacklogs)
      if (backlogs.length === 0) return { claimed: [], looked: [], empty: new Set(), nextAt: undefined }
      const allowances = await Promise.all(backlogs.map(allow))
      const allowed = backlogs.map(({ endpointId }, i) => ({ endpointId, most: allowances[i]?.most ?? 0 }))
      const open = allowed.filter(({ most }) => most > 0)
      const rows = open.length === 0 ? [] : await takeFromBacklogs(tx, open, { leaseEndsAt, claim })
      const taken = Map.groupBy(rows, (row) => row.endpointId)
      const takenOf = (endpointId: string) => taken.get(endpointId)?.length ?? 0
      const next = backlogs.map(({ endpointId }, i) => {
        const after = allowances[i]?.after(takenOf(endpointId)) ?? { drainAt: now, notBefore: null, paidUntil: null }
        return { endpointId, ...after }
      })
      scheduleBacklogs(tx, next)
      const short = open.filter(({ endpointId, most }) => takenOf(endpointId) < most).map((each) => each.endpointId)
      const empty = short.length === 0 ? new Set<string>() : await dropEmptyBacklogs(tx, short, now)
      const left = next.filter(({ endpointId }) => !empty.has(endpointId)).map(({ drainAt }) => drainAt.getTime())
      const nextAt = left.length === 0 ? undefined : new Date(Math.min(...left))
      const looked = backlogs.map(({ endpointId }) => endpointId)
      return { claimed: this.#holdRows(rows, claim, leaseEndsAt), looked, empty, nextAt }
    })
  }

  /** Prolongs every lease of which a third is gone. One that has ended already is lost, and not won back. */
  async renew(): Promise<void> {
    const now = this.#clock.now()
    const due: { id: string; claim: string }[] = []
    for (const [id, { claim, endsAt }] of this.#held) {
      const leftMs = endsAt.getTime() - now.getTime()
      if (leftMs <= 0) this.#held.delete(id)
      else if (leftMs * 3 < this.#leaseMs * 2) due.push({ id, claim })
    }
    if (due.length === 0) return
    const leaseEndsAt = new Date(now.getTime() + this.#leaseMs)
    const renewed = await renewLeases(this.#database, due, { now, leaseEndsAt })
    for (const { id, claim } of due) {
      if (renewed.has(id) && this.#held.get(id)?.claim === claim) this.#held.set(id, { claim, endsAt: leaseEndsAt })
    }
  }

  /** Gives back, due at once. Never rejects: otherwise their leases end. */
  async release(deliveries: readonly ClaimedDelivery[]): Promise<void> {
    if (deliveries.length === 0) return
    for (const delivery of deliveries) this.drop(delivery)
    await releaseClaims(this.#database, deliveries, this.#clock.now()).catch((error: unknown) => {
      this.#logger.warn({ err: error, deliveries: deliveries.length }, 'delivery.release failed; the leases will end')
    })
  }

  /** Puts into the backlogs of their endpoints. Never rejects: otherwise their leases end, and they are claimed again. */
  async park(deliveries: readonly ClaimedDelivery[]): Promise<void> {
    if (deliveries.length === 0) return
    for (const delivery of deliveries) this.drop(delivery)
    await parkClaims(this.#database, deliveries, this.#clock.now()).catch((error: unknown) => {
      this.#logger.warn({ err: error, deliveries: deliveries.length }, 'delivery.park failed; the leases will end')
    })
  }

  #holdRows(rows: readonly ClaimedRow[], claim: string, leaseEndsAt: Date): ClaimedDelivery[] {
    const deliveries = rows.map((row) => ({ ...row, id: row.id as Id<'dlv'>, claim, cargo: undefined }))
    for (const delivery of deliveries) this.hold(delivery, leaseEndsAt)
    return deliveries.sort((a, b) => (a.id < b.id ? -1 : 1)) // oldest first
  }
}
