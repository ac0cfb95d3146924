import { setTimeout as delay } from 'node:timers/promises'
import { Agent, buildConnector, Client, type Dispatcher, errors, Pool } from 'undici'
import { RelayError } from '../errors.ts'
import { type Clock, systemClock } from '../ports/clock.ts'
import type { TlsIdentity } from '../tenant/records.ts'
import { type Answer, AnswerReader } from './answer.ts'
import { Connecting, type ConnectPhases } from './connecting.ts'
import { type EgressGuard, HostUnresolved } from './guard.ts'
import { fingerprintOf, secureContextOf } from './tls-identity.ts'
import { UnderWay } from './under-way.ts'

/** What came of one attempt. Durations are whole milliseconds, from the call of `post` to its end. */
export type Outcome =
  | { kind: 'delivered'; status: number; durationMs: number }
  | { kind: 'refused'; status: number; retryAfterMs?: number; durationMs: number }
  | { kind: 'unreachable'; reason: UnreachableReason; durationMs: number }

/** An outcome, and what was seen on the way to it. */
export type Observed = Outcome & {
  readonly phases: Phases
  /** Absent where no status line came. */
  readonly answer?: Answer
}

/** How long each part of an attempt took, whole milliseconds; absent what it did not come to, or did not need. */
export interface Phases extends ConnectPhases {
  /** From sending the request until the status line and headers were there. */
  readonly firstByteMs?: number
  /** From there to the end of the body. */
  readonly bodyMs?: number
}

/** As much as a tenant may learn. Anything finer would let them map networks through us. */
export type UnreachableReason =
  | 'dns' // the name has no address
  | 'forbidden_url' // the guard refuses the URL: it was written under other rules
  | 'forbidden_address' // the name or the literal leads where this relay does not deliver to
  | 'connect' // no TCP connection
  | 'tls' // no trusted TLS connection
  | 'timeout' // the time for the attempt, or for connecting, ran out
  | 'reset' // the connection ended before the answer did
  | 'protocol' // the answer is not HTTP/1.1
  | 'too_large' // the headers, or the body of a 2xx, exceed the cap
  | 'aborted' // we are shutting down; says nothing about the receiver

export interface OutboundOptions {
  guard: EgressGuard
  /** For the whole attempt: waiting for a socket, resolving, connecting, sending, and reading the answer to its end. */
  timeoutMs?: number
  /** Of that, for resolving, connecting and TLS together. */
  connectTimeoutMs?: number
  /** How much of an answer's body is read before the socket is destroyed. */
  maxResponseBytes?: number
  /** Sockets per origin. Attempts beyond it wait for one while their deadline runs. */
  connectionsPerOrigin?: number
  /** PEM certificates trusted beside those of the system (tests). There is no way to switch verification off. */
  ca?: readonly string[]
  clock?: Clock
}

/** What one attempt has of its own. */
export interface AttemptOptions {
  /** For the whole attempt; default: the client's. */
  timeoutMs?: number
  /** Who we are to this receiver and whom we trust there; default: nobody, and the system's roots. */
  tls?: TlsIdentity | null
  /** Gets each piece of the answer's body, within the cap, as it comes; default: nobody does. */
  onData?: ((chunk: Uint8Array) => void) | undefined
}

/**
 * The one HTTP client for everything the relay calls (DESIGN.md rule 7). It speaks HTTP/1.1 with keep-alive, follows no
 * redirect, decompresses nothing, keeps no more of an answer's body than it is asked for, and connects only where the
 * guard allows. A pooled socket is not vetted again: it still leads to the address that was vetted when it was connected.
 */
export class OutboundClient {
  readonly #guard: EgressGuard
  readonly #timeoutMs: number
  readonly #terms: AttemptTerms
  readonly #agents: Agents
  readonly #targets = new Map<string, Target>()

  constructor(options: OutboundOptions) {
    const { guard, timeoutMs = 15_000, maxResponseBytes = 64 * 1024, clock = systemClock } = options
    this.#guard = guard
    this.#timeoutMs = timeoutMs
    this.#terms = { maxResponseBytes, clock, underWay: new UnderWay() }
    this.#agents = new Agents(options)
  }

  /**
   * Posts `body` and resolves to what came of it, whatever the receiver does. 2xx is delivered, but only once its whole
   * body was read within the cap and the deadline. Any other status is refused, even if its body then stalls or
   * overflows: a large error page still says 404 or 410. Rejects only for a header that cannot be sent.
   */
  post(
    url: string,
    headers: Readonly<Record<string, string>>,
    body: Uint8Array,
    { timeoutMs = this.#timeoutMs, tls = null, onData }: AttemptOptions = {},
  ): Promise<Observed> {
    return new Promise<Observed>((resolve, reject) => {
      const attempt = new Attempt(this.#terms, timeoutMs, resolve, reject, onData)
      try {
        const { origin, path } = this.#target(url)
        const request = { origin, path, method: 'POST', headers: { ...ownHeaders, ...headers }, body } as const
        this.#agents.for(tls).dispatch(request, attempt)
      } catch (error) {
        attempt.onResponseError(undefined, error)
      }
    })
  }

  /** Waits for the attempts in flight, at most `graceMs`, then aborts the rest, and any that are posted later. */
  async close(graceMs = this.#timeoutMs): Promise<void> {
    await Promise.race([this.#terms.underWay.atMost(0), delay(graceMs, undefined, { ref: false })])
    await this.#agents.destroy()
  }

  /** Checks the URL, IP literals included, by the rules of today. They last as long as the process, so what passed once
   *  is remembered. */
  #target(url: string): Target {
    const known = this.#targets.get(url)
    if (known !== undefined) return known
    const { origin, pathname, search } = this.#guard.checkUrl(url)
    const target = { origin, path: pathname + search }
    if (this.#targets.size >= maxTargets) this.#targets.clear()
    this.#targets.set(url, target)
    return target
  }
}

interface Target {
  readonly origin: string
  readonly path: string
}

const maxTargets = 4096
const ownHeaders = { 'user-agent': 'Countersign', 'accept-encoding': 'identity' }

/** Beyond this, the agent of the TLS identity used least lately is closed; the next attempt with it connects anew. */
const mostIdentities = 256

/**
 * Sockets, pooled apart for each TLS identity: a connection that was made with one endpoint's certificate, or trusted by
 * its CA, must never carry another endpoint's attempt, even to the same origin.
 */
class Agents {
  readonly #options: OutboundOptions
  readonly #plain: Agent
  /** By fingerprint, used least lately first. */
  readonly #byIdentity = new Map<string, Agent>()
  /** Endpoints are read again whenever their tenant changes, so equal identities come as different objects. */
  readonly #fingerprints = new WeakMap<TlsIdentity, string>()
  #destroyed = false

  constructor(options: OutboundOptions) {
    this.#options = options
    this.#plain = this.#make(null)
  }

  /** Throws if the identity cannot be used: it was vetted when it was written. */
  for(tls: TlsIdentity | null): Agent {
    if (tls === null || this.#destroyed) return this.#plain
    const fingerprint = this.#fingerprint(tls)
    const agent = this.#byIdentity.get(fingerprint) ?? this.#make(tls)
    this.#byIdentity.delete(fingerprint)
    this.#byIdentity.set(fingerprint, agent)
    const [oldest] = this.#byIdentity
    if (this.#byIdentity.size > mostIdentities && oldest !== undefined) {
      this.#byIdentity.delete(oldest[0])
      void oldest[1].close() // once what it has in flight is answered
    }
    return agent
  }

  async destroy(): Promise<void> {
    this.#destroyed = true
    await Promise.all([this.#plain, ...this.#byIdentity.values()].map((agent) => agent.destroy()))
  }

  #make(tls: TlsIdentity | null): Agent {
    const connect = guardedConnector(this.#options, tls)
    return new Agent({
      factory: (origin, options) =>
        new Pool(origin, {
          ...options,
          allowH2: false, // one attempt per socket, so that a stalled answer holds up nobody else's
          factory: (url, limits) => new TimedClient(url, limits, connect),
        }),
      connections: this.#options.connectionsPerOrigin ?? 64,
      pipelining: 1,
      maxHeaderSize: 16 * 1024,
      headersTimeout: 0, // our deadline covers headers and body together
      bodyTimeout: 0,
    })
  }

  #fingerprint(tls: TlsIdentity): string {
    const fingerprint = this.#fingerprints.get(tls) ?? fingerprintOf(tls)
    this.#fingerprints.set(tls, fingerprint)
    return fingerprint
  }
}

type GuardedConnector = (
  options: buildConnector.Options,
  connecting: Connecting,
  callback: buildConnector.Callback,
) => void

/** One socket after the other to one origin, with an eye on how each came about. */
class TimedClient extends Client {
  readonly #latest: { connecting: Connecting | undefined }

  constructor(origin: URL, limits: object, connect: GuardedConnector) {
    const latest: { connecting: Connecting | undefined } = { connecting: undefined }
    const connectTimed: buildConnector.connector = (options, callback) => {
      latest.connecting = new Connecting()
      connect(options, latest.connecting, callback)
    }
    super(origin, { ...limits, connect: connectTimed })
    this.#latest = latest
  }

  override dispatch(options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    // With one request at a time, a connection that is begun after this is begun for it.
    this.#latest.connecting = undefined
    if (handler instanceof Attempt) handler.connectsBy(this.#latest)
    return super.dispatch(options, handler)
  }
}

/** What all attempts of a client have in common. */
interface AttemptTerms {
  readonly maxResponseBytes: number
  readonly clock: Clock
  readonly underWay: UnderWay
}

/** One attempt, from dispatch to outcome. It settles once; whatever undici reports after that changes nothing. */
class Attempt implements Dispatcher.DispatchHandler {
  readonly #terms: AttemptTerms
  readonly #resolve: (outcome: Observed) => void
  readonly #reject: (error: unknown) => void
  readonly #onData: ((chunk: Uint8Array) => void) | undefined
  readonly #startedMs = performance.now()
  readonly #deadline: NodeJS.Timeout
  #controller: Dispatcher.DispatchController | undefined
  #settled = false
  #interims = 0
  #connection: { readonly connecting: Connecting | undefined } | undefined
  #sentMs: number | undefined
  #answeredMs: number | undefined
  #answer: AnswerReader | undefined
  #retryAfterMs: number | undefined

  constructor(
    terms: AttemptTerms,
    timeoutMs: number,
    resolve: (outcome: Observed) => void,
    reject: (error: unknown) => void,
    onData: ((chunk: Uint8Array) => void) | undefined,
  ) {
    this.#onData = onData
    this.#terms = terms
    this.#resolve = resolve
    this.#reject = reject
    this.#deadline = setTimeout(Attempt.#expire, timeoutMs, this)
    terms.underWay.begin()
  }

  static #expire(attempt: Attempt): void {
    attempt.#giveUp('timeout')
  }

  connectsBy(connection: { readonly connecting: Connecting | undefined }): void {
    this.#connection = connection
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    // The deadline passed while the request waited for a socket. Thrown here, nothing is sent and the socket lives on.
    if (this.#settled) throw new errors.RequestAbortedError()
    this.#controller = controller
    this.#sentMs = performance.now()
  }

  onResponseStart(_: Dispatcher.DispatchController, status: number, headers: Record<string, unknown>): void {
    if (status < 200) {
      if (++this.#interims > maxInterims) this.#giveUp('protocol')
      return
    }
    this.#answeredMs = performance.now()
    this.#answer = new AnswerReader(status, this.#terms.maxResponseBytes)
    this.#retryAfterMs = parseRetryAfter(headers['retry-after'], this.#terms.clock)
  }

  onResponseData(_: Dispatcher.DispatchController, chunk: Uint8Array): void {
    if (this.#settled) return
    if (this.#answer?.take(chunk) === false) this.#giveUp('too_large')
    else this.#onData?.(chunk)
  }

  onResponseEnd(): void {
    this.#settle(undefined)
  }

  onResponseError(_: unknown, error: unknown): void {
    if (error instanceof errors.InvalidArgumentError) {
      if (this.#end()) this.#reject(error)
    } else {
      this.#settle(reasonOf(error))
    }
  }

  /** Settles, and destroys the socket if the request is already on one. */
  #giveUp(reason: UnreachableReason): void {
    this.#settle(reason)
    this.#controller?.abort(new errors.RequestAbortedError())
  }

  /** `cutShort` is why the answer was not read to its end, if it was not. */
  #settle(cutShort: UnreachableReason | undefined): void {
    if (!this.#end()) return
    const nowMs = performance.now()
    const durationMs = Math.round(nowMs - this.#startedMs)
    const phases = this.#phases(nowMs)
    const answer = this.#answer?.finish(cutShort === undefined)
    if (answer === undefined) {
      this.#resolve({ kind: 'unreachable', reason: cutShort ?? 'protocol', durationMs, phases })
    } else if (answer.status >= 300) {
      const retryAfter = this.#retryAfterMs === undefined ? {} : { retryAfterMs: this.#retryAfterMs }
      this.#resolve({ kind: 'refused', status: answer.status, ...retryAfter, durationMs, phases, answer })
    } else if (cutShort !== undefined) {
      this.#resolve({ kind: 'unreachable', reason: cutShort, durationMs, phases, answer })
    } else {
      this.#resolve({ kind: 'delivered', status: answer.status, durationMs, phases, answer })
    }
  }

  /** False if it has ended before. */
  #end(): boolean {
    if (this.#settled) return false
    this.#settled = true
    clearTimeout(this.#deadline)
    this.#terms.underWay.end()
    return true
  }

  #phases(nowMs: number): Phases {
    const connected = this.#connection?.connecting?.phases()
    if (this.#sentMs === undefined || this.#answeredMs === undefined) return connected ?? {}
    const firstByteMs = Math.round(this.#answeredMs - this.#sentMs)
    const bodyMs = Math.round(nowMs - this.#answeredMs)
    return connected === undefined ? { firstByteMs, bodyMs } : { ...connected, firstByteMs, bodyMs }
  }
}

/** 1xx answers carry nothing for us, and an endless stream of them would count against no other cap. */
const maxInterims = 16

/**
 * `Retry-After` in milliseconds from now, unclamped (RFC 9110 §10.2.3): whole seconds, or an IMF-fixdate, the one form
 * of date that may be generated. Anything else is ignored.
 */
function parseRetryAfter(value: unknown, clock: Clock): number | undefined {
  if (value === undefined) return undefined
  const text = String(Array.isArray(value) ? value[0] : value).trim()
  if (/^\d{1,15}$/.test(text)) return Math.min(Number(text) * 1000, Number.MAX_SAFE_INTEGER)
  if (!imfFixdate.test(text)) return undefined
  const atMs = Date.parse(text)
  return Number.isNaN(atMs) ? undefined : Math.max(0, atMs - clock.now().getTime())
}

const imfFixdate = /^[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT$/

function reasonOf(error: unknown): UnreachableReason {
  if (error instanceof ConnectFailed) return error.reason
  if (error instanceof RelayError) return error.code === 'endpoint_url_invalid' ? 'forbidden_url' : 'forbidden_address'
  if (error instanceof errors.ClientDestroyedError || error instanceof errors.ClientClosedError) return 'aborted'
  if (error instanceof errors.HeadersOverflowError) return 'too_large'
  if (error instanceof errors.HTTPParserError) return 'protocol'
  // In TLS 1.3 the receiver judges our side after the handshake, e.g. when it wants a client certificate.
  if (codeOf(error).startsWith('ERR_SSL_')) return 'tls'
  return 'reset'
}

/** Connects by way of the guard's `lookup`, and asks it again about the address the socket really has. */
function guardedConnector(
  { guard, connectTimeoutMs = 5000, ca = [] }: OutboundOptions,
  tls: TlsIdentity | null,
): GuardedConnector {
  const connect = buildConnector({
    timeout: connectTimeoutMs,
    allowH2: false,
    lookup: guard.lookup,
    secureContext: secureContextOf(tls, ca),
    rejectUnauthorized: true, // said aloud, since NODE_TLS_REJECT_UNAUTHORIZED=0 would change the default
  })
  return function connectGuarded(options, connecting, callback) {
    const begun: unknown = connect(options, (error, socket) => {
      const failure = error ? connectFailure(error, options.protocol) : objectionTo(guard, socket?.remoteAddress)
      if (socket && !failure) return callback(null, socket)
      socket?.destroy()
      callback(failure ?? new ConnectFailed('connect'), null)
    })
    connecting.watch(begun)
  }
}

function objectionTo(guard: EgressGuard, address: string | undefined): ConnectFailed | undefined {
  if (address === undefined) return new ConnectFailed('connect') // connected, and gone already
  return guard.isAllowed(address) ? undefined : new ConnectFailed('forbidden_address')
}

class ConnectFailed extends Error {
  override readonly name = 'ConnectFailed'
  readonly reason: UnreachableReason

  constructor(reason: UnreachableReason, cause?: Error) {
    super(reason, { cause })
    this.reason = reason
  }
}

/** Called for everything that can go wrong until a connection, TLS included, stands. */
function connectFailure(error: Error, protocol: string): ConnectFailed {
  if (error instanceof HostUnresolved) return new ConnectFailed('dns', error)
  if (error instanceof RelayError) return new ConnectFailed('forbidden_address', error)
  if (error instanceof errors.ConnectTimeoutError) return new ConnectFailed('timeout', error)
  // A refused or unroutable connection fails in the system call `connect`, with several addresses in each. What fails
  // later on the way to https is the handshake, however OpenSSL, Node or the receiver put it.
  const parts: unknown[] = error instanceof AggregateError ? error.errors : [error]
  const atConnect = parts.every((part) => part instanceof Error && 'syscall' in part && part.syscall === 'connect')
  return new ConnectFailed(protocol === 'https:' && !atConnect ? 'tls' : 'connect', error)
}

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
