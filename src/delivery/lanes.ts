/** Work waiting for one endpoint beyond this is left in the database. */
const laneLength = 1000

/** Work waiting for all endpoints together. Each item holds its payload in memory. */
const totalLength = 10_000

/** Attempts in flight to one endpoint: a slow receiver fills its own lane and nobody else's. */
const laneConcurrency = 64

/**
 * Bounded queues in memory, one per endpoint, served in turn: no endpoint waits behind another's backlog as long as
 * one place is free.
 */
export class Lanes<Item> {
  readonly #concurrency: number
  readonly #work: (item: Item) => Promise<void>
  readonly #lanes = new Map<string, Lane<Item>>()
  /** Lanes that have something waiting and a place free, in turn. */
  readonly #ready: Lane<Item>[] = []
  #queued = 0
  #inFlight = 0
  #idle: (() => void)[] = []

  /** `work` must not reject. */
  constructor({ concurrency, work }: { concurrency: number; work: (item: Item) => Promise<void> }) {
    this.#concurrency = concurrency
    this.#work = work
  }

  get queued(): number {
    return this.#queued
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** How many more items may be queued. */
  get room(): number {
    return Math.max(0, totalLength - this.#queued)
  }

  /** The endpoints whose lanes take no more. */
  full(): string[] {
    return [...this.#lanes.values()].filter((lane) => lane.queue.length >= laneLength).map((lane) => lane.name)
  }

  /** A planner for one batch: answers for each item in turn whether there will be room for it. */
  reserve(): (name: string) => boolean {
    const planned = new Map<string, number>()
    let total = 0
    return (name) => {
      const here = planned.get(name) ?? 0
      const waiting = this.#lanes.get(name)?.queue.length ?? 0
      if (waiting + here >= laneLength || this.#queued + total >= totalLength) return false
      planned.set(name, here + 1)
      total += 1
      return true
    }
  }

  push(name: string, item: Item): void {
    let lane = this.#lanes.get(name)
    if (lane === undefined) {
      lane = { name, queue: [], inFlight: 0, ready: false }
      this.#lanes.set(name, lane)
    }
    lane.queue.push(item)
    this.#queued += 1
    this.#offer(lane)
    this.#pump()
  }

  /** Takes everything that has not begun. */
  clear(): Item[] {
    for (const lane of this.#ready.splice(0)) lane.ready = false
    this.#queued = 0
    return [...this.#lanes.values()].flatMap((lane) => lane.queue.splice(0))
  }

  /** Resolves when nothing is in flight. */
  async settled(): Promise<void> {
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  #offer(lane: Lane<Item>): void {
    if (lane.ready || lane.queue.length === 0 || lane.inFlight >= laneConcurrency) return
    lane.ready = true
    this.#ready.push(lane)
  }

  #pump(): void {
    while (this.#inFlight < this.#concurrency) {
      const lane = this.#ready.shift()
      if (lane === undefined) return
      lane.ready = false
      const item = lane.queue.shift()
      if (item === undefined) continue
      this.#queued -= 1
      this.#inFlight += 1
      lane.inFlight += 1
      this.#offer(lane)
      void this.#work(item).finally(() => this.#finish(lane))
    }
  }

  #finish(lane: Lane<Item>): void {
    this.#inFlight -= 1
    lane.inFlight -= 1
    if (lane.queue.length === 0 && lane.inFlight === 0) this.#lanes.delete(lane.name)
    else this.#offer(lane)
    this.#pump()
    if (this.#inFlight === 0) for (const resolve of this.#idle.splice(0)) resolve()
  }
}

interface Lane<Item> {
  readonly name: string
  readonly queue: Item[]
  inFlight: number
  ready: boolean
}
