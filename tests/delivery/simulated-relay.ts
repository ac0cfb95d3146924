/**
 * Relays on one queue, in simulated time: what decides is the real thing (lanes, breaker, backlog, schedule); the clock,
 * chance, the receivers and the rows of the queue are ours. The rows follow the SQL of src/delivery, statement by
 * statement, so read them side by side. After each attempt the rules are asserted; a broken one names seed and time.
 */
import { allowanceOf } from '../../src/delivery/backlog.ts'
import { type Health, healthAfter, healthEventOf, passageOf } from '../../src/delivery/breaker.ts'
import type { Outcome } from '../../src/delivery/client.ts'
import { Lanes, type LaneTerms } from '../../src/delivery/lanes.ts'
import { defaultScheduleMs, nextAttemptAt } from '../../src/delivery/schedule.ts'

export const second = 1000
export const minute = 60 * second
export const hour = 60 * minute
export const day = 24 * hour

const leaseMs = minute
const timeoutMs = 15 * second
const pauseAfterMs = 5 * day

export interface SimulatedEndpoint {
  readonly id: string
  readonly tenantId: string
  readonly rateLimit: { perSecond: number; burst: number } | null
  readonly concurrency: number | null
  readonly fifo: boolean
  /** What the receiver does with an attempt that begins at `atMs`. */
  readonly receive: (atMs: number) => { outcome: Outcome; tookMs: number }
}

/** A row of `deliveries`, or of `settled_deliveries` once it is settled. */
interface Row {
  readonly id: number
  readonly endpoint: SimulatedEndpoint
  at: number
  claim: string | null
  waitsFor: 'endpoint' | 'turn' | null
  attempts: number
  settled: 'delivered' | 'abandoned' | null
  /** When the latest attempt ended, for the rules. */
  endedAt: number
}

interface Claimed {
  readonly row: Row
  readonly claim: string
}

export class SimulatedRelays {
  readonly #random: () => number
  readonly #endpoints: readonly SimulatedEndpoint[]
  readonly #concurrency: number
  nowMs = Date.UTC(2026, 0, 1)
  readonly #events = new Agenda()
  readonly #due = new Agenda<Row>()
  readonly #backlogs = new Map<string, Row[]>()
  readonly #drains = new Map<string, { drainAt: number; notBefore: number; paidUntil: Date | null }>()
  readonly #orders = new Map<string, Row[]>()
  readonly #health = new Map<string, Health>()
  readonly #paused = new Map<string, number>()
  readonly #begun = new Map<string, number[]>()
  readonly #probes = new Map<string, number>()
  readonly #flying = new Map<Claimed, SimulatedProcess>()
  #processes: SimulatedProcess[]
  #claims = 0
  #made = 0
  readonly counts = { owed: 0, attempts: 0, delivered: 0, abandoned: 0, crashes: 0, stops: 0, pauses: 0, looks: 0 }

  constructor(parts: {
    random: () => number
    endpoints: readonly SimulatedEndpoint[]
    processes: number
    concurrency: number
  }) {
    this.#random = parts.random
    this.#endpoints = parts.endpoints
    this.#concurrency = parts.concurrency
    this.#processes = Array.from({ length: parts.processes }, () => this.#startProcess())
  }

  get pending(): number {
    return this.counts.owed - this.counts.delivered - this.counts.abandoned
  }

  at(ms: number, work: () => void): void {
    this.#events.add(Math.ceil(ms), work) // a Date has no fractions
  }

  /** Lets time pass until `untilMs`; between events, everyone who would look, looks. */
  async run(untilMs: number): Promise<void> {
    for (;;) {
      const nextMs = Math.min(this.#events.nextMs, this.#nextLookMs())
      if (nextMs > untilMs) break
      this.nowMs = Math.max(this.nowMs, nextMs)
      for (const work of this.#events.take(this.nowMs)) work()
      await Promise.resolve() // a lane goes on in the continuation of its work
      await Promise.resolve()
      this.#look()
    }
    this.nowMs = untilMs
  }

  /** A message for this endpoint, accepted by one of the processes. */
  owe(endpoint: SimulatedEndpoint): void {
    const process = this.#someProcess()
    const row: Row = {
      ...{ id: this.#made++, endpoint, at: this.nowMs, claim: null, waitsFor: null, attempts: 0 },
      ...{ settled: null, endedAt: Number.NEGATIVE_INFINITY },
    }
    this.counts.owed++
    if (endpoint.fifo) {
      const order = this.#orderOf(endpoint)
      order.push(row)
      if (order.length > 1) row.waitsFor = 'turn'
      else this.#park(row)
    } else if (this.#takes(endpoint) && !this.#backlogs.has(endpoint.id) && process.lanes.reserve()(endpoint.id, 0)) {
      const claimed = this.#lease(row)
      process.push(claimed, 'first')
    } else {
      this.#park(row)
    }
  }

  /** Kills a process: what it held in memory is gone, and what it had sent is never recorded. Another takes its place. */
  crash(): void {
    const victim = this.#someProcess()
    this.counts.crashes++
    victim.dead = true
    for (const claimed of victim.lanes.clear()) this.#lapse(claimed)
    this.#processes = this.#processes.map((process) => (process === victim ? this.#startProcess() : process))
  }

  resumeAll(): void {
    for (const endpointId of this.#paused.keys()) {
      this.#paused.delete(endpointId)
      this.#health.delete(endpointId)
      const drain = this.#drains.get(endpointId)
      if (drain !== undefined) Object.assign(drain, { drainAt: this.nowMs, notBefore: 0 })
    }
  }

  /** Every delivery is terminal or scheduled: it is due at a time, or in a backlog that is looked at, or has its turn to
   *  come. */
  check(): void {
    for (const [endpointId, rows] of this.#backlogs) {
      const drainAt = this.#drains.get(endpointId)?.drainAt
      if (rows.length > 0) this.#must(drainAt !== undefined, `the backlog of ${endpointId} is looked at`)
      const longest = this.#paused.has(endpointId) ? minute : 15 * minute * 1.2
      this.#must((drainAt ?? 0) <= this.nowMs + longest, `the backlog of ${endpointId} is looked at soon`)
    }
    for (const [endpointId, order] of this.#orders) {
      const turns = order.filter((row) => row.waitsFor === 'turn').length
      this.#must(turns === Math.max(0, order.length - 1), `one of the order of ${endpointId} has its turn`)
    }
  }

  #startProcess(): SimulatedProcess {
    return new SimulatedProcess({
      concurrency: this.#concurrency,
      nowMs: () => this.nowMs,
      attempt: (process, claimed) => this.#attempt(process, claimed),
    })
  }

  /** claim, in-flight caps, rate, breaker, order: then the receiver's answer, when it has taken its time. */
  #attempt(process: SimulatedProcess, claimed: Claimed): Promise<'eased' | 'strained' | 'unchanged'> {
    const { row } = claimed
    const { endpoint } = row
    if (row.claim !== claimed.claim || row.at <= this.nowMs) return Promise.resolve('unchanged') // the lease is lost
    this.#assertMayBegin(process, row)
    this.counts.attempts++
    const { outcome, tookMs } = endpoint.receive(this.nowMs)
    row.at = Math.max(row.at, this.nowMs + tookMs + leaseMs) // renewed for as long as it takes, unless the process dies
    this.#flying.set(claimed, process)
    return new Promise((resolve) => {
      this.at(this.nowMs + tookMs, () => {
        this.#flying.delete(claimed)
        if (process.dead) {
          this.#lapse(claimed)
          return
        }
        this.#conclude(claimed, outcome)
        resolve(outcome.kind === 'delivered' ? 'eased' : outcome.kind === 'unreachable' ? 'strained' : 'unchanged')
      })
    })
  }

  /** Nobody renews the lease any more. */
  #lapse({ row, claim }: Claimed): void {
    if (row.claim !== claim || row.settled !== null) return
    row.at = this.nowMs + Math.ceil(this.#random() * leaseMs)
    this.#due.add(row.at, row)
  }

  #assertMayBegin(process: SimulatedProcess, row: Row): void {
    const { endpoint } = row
    const now = new Date(this.nowMs)
    const mine = [...this.#flying].filter(([, owner]) => owner === process)
    const here = mine.filter(([{ row: other }]) => other.endpoint === endpoint).length
    this.#must(mine.length < this.#concurrency, 'no more in flight than all may have')
    this.#must(here < Math.min(endpoint.concurrency ?? 64, 64), 'no more in flight than the endpoint may have')
    if (row.attempts > 0) {
      const delayMs = defaultScheduleMs[row.attempts - 1]
      this.#must(delayMs !== undefined, 'no more attempts than the schedule has')
      this.#must(this.nowMs - row.endedAt >= (delayMs ?? 0) * 0.8, 'no attempt before its time')
    }
    const passage = passageOf(this.#health.get(endpoint.id), now)
    this.#must(passage.kind !== 'stopped', 'nothing is sent to an endpoint that is stopped')
    this.#must(!this.#paused.has(endpoint.id), 'nothing is sent to an endpoint that is paused')
    if (passage.kind === 'probes') {
      const last = this.#probes.get(endpoint.id) ?? Number.NEGATIVE_INFINITY
      this.#must(this.nowMs - last >= timeoutMs, 'one probe at a time')
      this.#probes.set(endpoint.id, this.nowMs)
    }
    if (endpoint.fifo) {
      this.#must(this.#orderOf(endpoint)[0] === row, 'nothing is sent before what came before it is settled')
    }
    if (endpoint.rateLimit !== null) {
      const { perSecond, burst } = endpoint.rateLimit
      const begun = this.#begun.get(endpoint.id) ?? []
      begun.push(this.nowMs)
      if (begun.length > 1000) begun.shift()
      this.#begun.set(endpoint.id, begun)
      const oldest = begun.at(-burst - 20)
      if (oldest !== undefined) {
        const most = burst + (perSecond * (this.nowMs - oldest)) / 1000 + 1
        this.#must(burst + 20 <= most, 'no more than the rate')
      }
    }
  }

  #conclude({ row, claim }: Claimed, outcome: Outcome): void {
    const { endpoint } = row
    const now = new Date(this.nowMs)
    const news = healthEventOf(outcome, now)
    if (news !== undefined) this.#note(endpoint, news)
    if (outcome.kind === 'refused' && outcome.status === 410) this.#pause(endpoint)
    if (row.claim !== claim || row.settled !== null) return // fenced off
    row.attempts++
    row.endedAt = this.nowMs
    if (outcome.kind === 'delivered') {
      this.#settle(row, 'delivered')
      return
    }
    const schedule = defaultScheduleMs
    const next = nextAttemptAt({ attempt: row.attempts, outcome, now, schedule, random: this.#random })
    if (next === undefined) {
      this.#settle(row, 'abandoned')
      return
    }
    row.claim = null
    row.at = next.getTime()
    this.#due.add(row.at, row)
  }

  #note(endpoint: SimulatedEndpoint, event: Parameters<typeof healthAfter>[1]): void {
    const now = new Date(this.nowMs)
    const before = this.#health.get(endpoint.id)
    const after = healthAfter(before, event, this.#random)
    if (after === undefined) this.#health.delete(endpoint.id)
    else this.#health.set(endpoint.id, after)
    const [from, to] = [passageOf(before, now).kind, passageOf(after, now).kind]
    if (from !== to && to === 'stopped') {
      this.counts.stops++
      for (const process of this.#processes) {
        for (const { row, claim } of process.lanes.evict(endpoint.id)) if (row.claim === claim) this.#park(row)
      }
    }
    const drain = this.#drains.get(endpoint.id)
    if (from !== to && to === 'flows' && drain !== undefined)
      Object.assign(drain, { drainAt: this.nowMs, notBefore: 0 })
    if (after?.failingSince != null && this.nowMs - after.failingSince.getTime() >= pauseAfterMs) this.#pause(endpoint)
  }

  #pause(endpoint: SimulatedEndpoint): void {
    if (this.#paused.has(endpoint.id)) return
    this.counts.pauses++
    this.#paused.set(endpoint.id, this.nowMs)
    for (const process of this.#processes) {
      for (const { row, claim } of process.lanes.evict(endpoint.id)) if (row.claim === claim) this.#park(row)
    }
  }

  #settle(row: Row, settled: 'delivered' | 'abandoned'): void {
    row.settled = settled
    this.counts[settled]++
    if (!row.endpoint.fifo) return
    const order = this.#orderOf(row.endpoint)
    this.#must(order.shift() === row, 'orders are settled in order')
    const [next] = order
    if (next !== undefined) this.#park(next)
  }

  #takes(endpoint: SimulatedEndpoint): boolean {
    const passage = passageOf(this.#health.get(endpoint.id), new Date(this.nowMs))
    return !this.#paused.has(endpoint.id) && endpoint.rateLimit === null && passage.kind === 'flows'
  }

  #nextLookMs(): number {
    let nextMs = this.#due.nextMs
    for (const { drainAt } of this.#drains.values()) nextMs = Math.min(nextMs, drainAt)
    return Math.max(nextMs, this.nowMs + 5)
  }

  #look(): void {
    this.counts.looks++
    for (const row of this.#due.take(this.nowMs)) {
      if (row.settled !== null || row.waitsFor !== null || row.at > this.nowMs) continue
      const process = this.#someProcess()
      if (this.#takes(row.endpoint) && process.lanes.roomAt(row.endpoint.id) > 0)
        process.push(this.#lease(row), 'retry')
      else this.#park(row)
    }
    for (const [endpointId, drain] of this.#drains) if (drain.drainAt <= this.nowMs) this.#drain(endpointId)
  }

  #drain(endpointId: string): void {
    const process = this.#someProcess()
    const endpoint = this.#endpoints.find(({ id }) => id === endpointId)
    const drain = this.#drains.get(endpointId)
    if (endpoint === undefined || drain === undefined) return
    const now = new Date(this.nowMs)
    const { most, after } = allowanceOf({
      ...{ now, timeoutMs, rateLimit: endpoint.rateLimit, paidUntil: drain.paidUntil },
      passage: passageOf(this.#health.get(endpointId), now),
      paused: this.#paused.has(endpointId),
      room: process.lanes.roomAt(endpointId),
    })
    const rows = this.#backlogs.get(endpointId) ?? []
    const taken = rows.splice(0, most)
    const { drainAt, notBefore, paidUntil } = after(taken.length)
    drain.drainAt = drainAt.getTime()
    drain.notBefore = notBefore?.getTime() ?? 0
    drain.paidUntil = paidUntil
    if (taken.length < most && (paidUntil === null || paidUntil <= now)) {
      this.#drains.delete(endpointId)
      this.#backlogs.delete(endpointId)
    }
    for (const row of taken) {
      row.waitsFor = null
      process.push(this.#lease(row), row.attempts === 0 ? 'first' : 'retry')
    }
  }

  #park(row: Row): void {
    row.claim = null
    row.waitsFor = 'endpoint'
    const endpointId = row.endpoint.id
    const rows = this.#backlogs.get(endpointId) ?? []
    rows.push(row)
    if (rows.length > 1 && (rows.at(-2)?.id ?? 0) > row.id) rows.sort((a, b) => a.id - b.id)
    this.#backlogs.set(endpointId, rows)
    const drain = this.#drains.get(endpointId)
    if (drain === undefined) this.#drains.set(endpointId, { drainAt: this.nowMs, notBefore: 0, paidUntil: null })
    else drain.drainAt = Math.max(Math.min(drain.drainAt, this.nowMs), drain.notBefore)
  }

  #lease(row: Row): Claimed {
    row.claim = `claim ${this.#claims++}`
    row.at = this.nowMs + 10 * day // renewed as long as the process lives; a crash brings it forward
    return { row, claim: row.claim }
  }

  #orderOf(endpoint: SimulatedEndpoint): Row[] {
    const order = this.#orders.get(endpoint.id) ?? []
    this.#orders.set(endpoint.id, order)
    return order
  }

  #someProcess(): SimulatedProcess {
    const process = this.#processes[Math.floor(this.#random() * this.#processes.length)]
    if (process === undefined) throw new TypeError('there is no process')
    return process
  }

  #must(holds: boolean, rule: string): void {
    if (!holds) throw new Error(`broken at ${new Date(this.nowMs).toISOString()}: ${rule}`)
  }
}

/** One relay's memory. */
class SimulatedProcess {
  readonly lanes: Lanes<Claimed>
  dead = false

  constructor(parts: {
    concurrency: number
    nowMs: () => number
    attempt: (process: SimulatedProcess, claimed: Claimed) => Promise<'eased' | 'strained' | 'unchanged'>
  }) {
    const { concurrency, nowMs, attempt } = parts
    this.lanes = new Lanes({ concurrency, perHost: 64, nowMs, work: (claimed) => attempt(this, claimed) })
  }

  push(claimed: Claimed, kind: 'first' | 'retry'): void {
    const { id, tenantId, concurrency } = claimed.row.endpoint
    const terms: LaneTerms = { tenantId, endpointId: id, host: id, concurrency }
    this.lanes.push(terms, kind, claimed, 0)
  }
}

/** Things by their time: a binary heap. */
class Agenda<Item = () => void> {
  readonly #heap: { ms: number; nth: number; item: Item }[] = []
  #added = 0

  get nextMs(): number {
    return this.#heap[0]?.ms ?? Number.POSITIVE_INFINITY
  }

  add(ms: number, item: Item): void {
    const heap = this.#heap
    heap.push({ ms, nth: this.#added++, item })
    for (let i = heap.length - 1; i > 0; ) {
      const parent = (i - 1) >> 1
      if (!this.#before(i, parent)) break
      this.#swap(i, parent)
      i = parent
    }
  }

  /** Everything until `ms`, in order. */
  take(ms: number): Item[] {
    const items: Item[] = []
    for (let first = this.#heap[0]; first !== undefined && first.ms <= ms; first = this.#heap[0]) {
      items.push(first.item)
      this.#removeFirst()
    }
    return items
  }

  #removeFirst(): void {
    const heap = this.#heap
    const last = heap.pop()
    if (last === undefined || heap.length === 0) return
    heap[0] = last
    for (let i = 0; ; ) {
      let least = i
      for (const child of [2 * i + 1, 2 * i + 2]) if (child < heap.length && this.#before(child, least)) least = child
      if (least === i) return
      this.#swap(i, least)
      i = least
    }
  }

  #before(a: number, b: number): boolean {
    const [one, other] = [this.#heap[a], this.#heap[b]]
    if (one === undefined || other === undefined) return false
    return one.ms < other.ms || (one.ms === other.ms && one.nth < other.nth)
  }

  #swap(a: number, b: number): void {
    const [one, other] = [this.#heap[a], this.#heap[b]]
    if (one !== undefined && other !== undefined) [this.#heap[a], this.#heap[b]] = [other, one]
  }
}
