/** Work waiting for one endpoint beyond this is left in the database. */
const laneLength = 1000

/** Work waiting for all endpoints together, and the bytes of the payloads it holds. */
const totalLength = 10_000
const totalBytes = 128 * 1024 * 1024

/** Attempts in flight to one endpoint: few until it has shown that it keeps up, and at most so many. */
const firstWindow = 16
const laneConcurrency = 64

/** An endpoint that takes longer than this to answer, milliseconds, is served with patience. */
const slowMs = 1000

/** first: no attempt was made yet. */
export type Kind = 'first' | 'retry'

/** How an endpoint bore an attempt: `strained` halves what it is sent at once, `eased` lets it grow by one. */
export type Strain = 'eased' | 'strained' | 'unchanged'

/** Whose lane it is. */
export interface LaneTerms {
  readonly tenantId: string
  readonly endpointId: string
  /** Endpoints of one host share its places. */
  readonly host: string
  /** Attempts in flight that the endpoint bears; null: as many as any. */
  readonly concurrency: number | null
}

export interface LanesOptions<Item> {
  /** Attempts in flight. */
  readonly concurrency: number
  /** Of them, to one host. */
  readonly perHost: number
  /** Must not reject. */
  readonly work: (item: Item) => Promise<Strain>
  /** Milliseconds of a clock that does not jump. */
  readonly nowMs?: () => number
}

/**
 * Bounded queues in memory, one per endpoint, so that none waits for another:
 *
 * - tenants are served in turn, and so are the endpoints of each;
 * - a lane has at most {@link laneConcurrency} attempts in flight, a host `perHost`, all together `concurrency`;
 * - *patient* work, which is retries and everything for an endpoint that is slow, has at most half of the places, so any
 *   number of slow and failing receivers leaves the other half to those that answer. It is sure of an eighth. An endpoint
 *   that has never answered has one place among the prompt, to show that it does.
 */
export class Lanes<Item> {
  readonly #options: Required<LanesOptions<Item>>
  readonly #patientMost: number
  readonly #patientLeast: number
  readonly #lanes = new Map<string, Lane<Item>>()
  readonly #hosts = new Map<string, Host<Item>>()
  readonly #prompt = new Ring<Lane<Item>>()
  readonly #patient = new Ring<Lane<Item>>()
  #queued = 0
  #queuedBytes = 0
  #inFlight = 0
  #patientInFlight = 0
  #idle: (() => void)[] = []

  constructor(options: LanesOptions<Item>) {
    this.#options = { nowMs: () => performance.now(), ...options }
    this.#patientMost = Math.max(1, Math.floor(options.concurrency / 2))
    this.#patientLeast = Math.max(1, Math.floor(options.concurrency / 8))
  }

  get queued(): number {
    return this.#queued
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** How many more retries may be queued: half of the places, so that those due never crowd out what is new. */
  get roomForRetries(): number {
    return Math.max(0, this.room - totalLength / 2)
  }

  get room(): number {
    return this.#queuedBytes >= totalBytes ? 0 : Math.max(0, totalLength - this.#queued)
  }

  roomAt(endpointId: string): number {
    return Math.min(this.room, laneLength - (this.#lanes.get(endpointId)?.waiting ?? 0))
  }

  /** A planner for one batch: answers for each item in turn whether there will be room for it. */
  reserve(): (endpointId: string, bytes: number) => boolean {
    const planned = new Map<string, number>()
    let total = 0
    let totalPlanned = 0
    return (endpointId, bytes) => {
      const here = planned.get(endpointId) ?? 0
      const full = this.roomAt(endpointId) <= here || this.room <= total
      if (full || this.#queuedBytes + totalPlanned + bytes > totalBytes) return false
      planned.set(endpointId, here + 1)
      total += 1
      totalPlanned += bytes
      return true
    }
  }

  /** `bytes` is what the item holds in memory while it waits. */
  push(terms: LaneTerms, kind: Kind, item: Item, bytes: number): void {
    const lane = this.#laneOf(terms)
    lane[kind].push({ item, bytes })
    this.#queued += 1
    this.#queuedBytes += bytes
    this.#offer(lane)
    this.#pump()
  }

  /** Takes from an endpoint's lane everything that has not begun. */
  evict(endpointId: string): Item[] {
    const lane = this.#lanes.get(endpointId)
    if (lane === undefined) return []
    const waiting = [...lane.first.splice(0), ...lane.retry.splice(0)]
    this.#queued -= waiting.length
    for (const { bytes } of waiting) this.#queuedBytes -= bytes
    return waiting.map(({ item }) => item)
  }

  /** Takes everything that has not begun. */
  clear(): Item[] {
    return [...this.#lanes.keys()].flatMap((endpointId) => this.evict(endpointId))
  }

  /** Resolves when nothing is in flight. */
  async settled(): Promise<void> {
    if (this.#inFlight > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  #laneOf(terms: LaneTerms): Lane<Item> {
    let lane = this.#lanes.get(terms.endpointId)
    if (lane === undefined) {
      if (this.#lanes.size >= mostLanes) for (const idle of this.#lanes.values()) if (idle.idle) this.#forget(idle)
      lane = new Lane(terms, this.#hostOf(terms.host))
      this.#lanes.set(terms.endpointId, lane)
    }
    if (lane.terms !== terms) {
      lane.terms = terms // the endpoint may have been changed
      lane.host = this.#hostOf(terms.host)
    }
    return lane
  }

  #hostOf(name: string): Host<Item> {
    let host = this.#hosts.get(name)
    if (host === undefined) {
      host = { name, inFlight: 0, waiting: new Set() }
      this.#hosts.set(name, host)
    }
    return host
  }

  #forget(lane: Lane<Item>): void {
    this.#lanes.delete(lane.terms.endpointId)
    if (lane.host.inFlight === 0) this.#hosts.delete(lane.host.name)
  }

  /** Lines the lane up for whatever it could begin now. */
  #offer(lane: Lane<Item>): void {
    if (!lane.open) return
    const slow = lane.isSlow(this.#options.nowMs())
    if (lane.first.length > 0) (slow ? this.#patient : this.#prompt).add(lane.terms.tenantId, lane)
    if (lane.retry.length > 0) this.#patient.add(lane.terms.tenantId, lane)
  }

  #pump(): void {
    while (this.#inFlight < this.#options.concurrency && this.#beginOne()) {}
  }

  #beginOne(): boolean {
    const held = this.#patientInFlight
    return (
      (held < this.#patientLeast && this.#beginFrom(this.#patient)) ||
      this.#beginFrom(this.#prompt) ||
      (held < this.#patientMost && this.#beginFrom(this.#patient))
    )
  }

  /** Begins an item of the lane whose turn it is; false if none of the ring can. */
  #beginFrom(ring: Ring<Lane<Item>>): boolean {
    const patient = ring === this.#patient
    for (let lane = ring.take(); lane !== undefined; lane = ring.take()) {
      if (!lane.open) continue // whatever finishes there offers it again
      if (lane.host.inFlight >= this.#options.perHost) {
        lane.host.waiting.add(lane)
        continue
      }
      const slow = lane.isSlow(this.#options.nowMs())
      // In a slow lane the two kinds take turns, too.
      const firstComes = lane.first.length > 0 && (lane.retry.length === 0 || lane.begun % 2 === 0)
      const kind = !patient ? 'first' : slow && firstComes ? 'first' : 'retry'
      if (!patient && slow) {
        this.#offer(lane)
        continue
      }
      const next = lane[kind].shift()
      if (next === undefined) continue
      this.#begin(lane, next, patient)
      return true
    }
    return false
  }

  #begin(lane: Lane<Item>, { item, bytes }: Waiting<Item>, patient: boolean): void {
    this.#queued -= 1
    this.#queuedBytes -= bytes
    this.#inFlight += 1
    if (patient) this.#patientInFlight += 1
    const place = lane.begin(this.#options.nowMs())
    this.#offer(lane)
    void this.#options.work(item).then((strain) => {
      this.#inFlight -= 1
      if (patient) this.#patientInFlight -= 1
      lane.finish(place, this.#options.nowMs(), strain)
      this.#passOn(place.host) // before the lane itself, or it would keep the host's place for ever
      this.#offer(lane)
      this.#pump()
      if (this.#inFlight === 0) for (const resolve of this.#idle.splice(0)) resolve()
    })
  }

  /** Lines up a lane that waits for a place at the host. */
  #passOn({ waiting }: Host<Item>): void {
    if (waiting.size === 0) return
    for (const lane of waiting) {
      waiting.delete(lane)
      if (!lane.open) continue
      this.#offer(lane)
      return
    }
  }
}

/** Idle lanes remember how their endpoint did, up to so many. */
const mostLanes = 10_000

interface Waiting<Item> {
  readonly item: Item
  readonly bytes: number
}

interface Host<Item> {
  readonly name: string
  inFlight: number
  /** Lanes that could begin something if the host had a place. */
  readonly waiting: Set<Lane<Item>>
}

/** An attempt in flight. */
interface Place<Item> {
  readonly startedMs: number
  readonly host: Host<Item>
}

class Lane<Item> {
  terms: LaneTerms
  host: Host<Item>
  readonly first: Waiting<Item>[] = []
  readonly retry: Waiting<Item>[] = []
  /** How many were begun, ever. */
  begun = 0
  /** Oldest first. */
  readonly #places = new Set<Place<Item>>()
  #window = firstWindow
  /** Whether its latest answer was quick; nobody knows before the first. */
  #quick: boolean | undefined

  constructor(terms: LaneTerms, host: Host<Item>) {
    this.terms = terms
    this.host = host
  }

  get waiting(): number {
    return this.first.length + this.retry.length
  }

  get idle(): boolean {
    return this.waiting === 0 && this.#places.size === 0
  }

  /** Whether it could begin something. */
  get open(): boolean {
    return this.waiting > 0 && this.#places.size < Math.min(this.#window, this.#most)
  }

  /** Whether its latest answer took long, or one that is awaited already does, or none has ever come and is awaited. */
  isSlow(nowMs: number): boolean {
    if (this.#quick === false) return true
    for (const oldest of this.#places) return this.#quick === undefined || nowMs - oldest.startedMs > slowMs
    return false
  }

  begin(nowMs: number): Place<Item> {
    const place = { startedMs: nowMs, host: this.host }
    this.#places.add(place)
    place.host.inFlight += 1
    this.begun += 1
    return place
  }

  finish(place: Place<Item>, nowMs: number, strain: Strain): void {
    this.#places.delete(place)
    place.host.inFlight -= 1
    this.#quick = nowMs - place.startedMs <= slowMs
    if (strain === 'eased') this.#window = Math.min(this.#window + 1, this.#most)
    if (strain === 'strained') this.#window = Math.max(1, Math.floor(this.#window / 2))
  }

  get #most(): number {
    return Math.min(this.terms.concurrency ?? laneConcurrency, laneConcurrency)
  }
}

/** Members of several owners, taken in turn: the owners in turn, and of each its members in turn. */
class Ring<Member> {
  /** Both in the order of their turns. A tenant has few endpoints, so an array is searched faster than a set is made. */
  readonly #owners = new Map<string, Member[]>()

  add(owner: string, member: Member): void {
    const members = this.#owners.get(owner)
    if (members === undefined) this.#owners.set(owner, [member])
    else if (!members.includes(member)) members.push(member)
  }

  take(): Member | undefined {
    if (this.#owners.size === 0) return undefined
    for (const [owner, members] of this.#owners) {
      this.#owners.delete(owner)
      const member = members.shift()
      if (members.length > 0) this.#owners.set(owner, members) // now at the end
      return member
    }
    return undefined
  }
}
