import type { KeyObject } from 'node:crypto'
import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { Observer } from '../ports/observer.ts'
import { RateLimiter } from './rate-limiter.ts'
import type { Source } from './records.ts'
import {
  claimReaders,
  type Judgement,
  judge,
  judgeBasic,
  macKey,
  type PresentedRequest,
  readHmacClaim,
} from './scheme.ts'
import { allowList } from './source-settings.ts'
import { openSecrets } from './sources.ts'

/** Bodies of one source that are being read before anything vouches for them. A vendor's burst passes faster than that;
 *  a stranger's fills no more memory than this times the limit of a body, and holds up no other source. */
const mostUnproven = 256

/** Who vouches for a post, as its statement says it. */
export interface Credential {
  readonly actor: string
  readonly authentication: string | undefined
  /** See {@link Judgement}. */
  readonly signedIdentity: Uint8Array | undefined
}

/** Why a post did not pass: for the operator's metrics and the debug log. Its sender learns nothing of it. */
type Refusal = 'address' | Extract<Judgement, { kind: 'refused' }>['reason']

/**
 * Stands before each source: its allow-list and rate first, which cost nothing, and for sources that have a scheme the
 * judgement on the raw bytes, before anything looks into them. All refusals of a scheme are the same `unauthenticated`.
 */
export class SourceGate {
  readonly #database: Database
  readonly #dataKeys: DataKeys
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #observer: Observer
  readonly #rates = new RateLimiter()
  readonly #unproven = new Map<string, number>()
  /** As long as the directory remembers a source in this state, and no longer. */
  readonly #addresses = new WeakMap<Source, (address: string) => boolean>()
  readonly #secrets = new WeakMap<Source, Promise<Secrets>>()

  constructor(parts: { database: Database; dataKeys: DataKeys; clock: Clock; logger: Logger; observer: Observer }) {
    this.#database = parts.database
    this.#dataKeys = parts.dataKeys
    this.#clock = parts.clock
    this.#logger = parts.logger
    this.#observer = parts.observer
  }

  /** Before the body is read. Throws `unauthenticated` for an address that is not allowed, or `rate_limited`. */
  approach(source: Source, address: string): void {
    const { allow, rate_limit: rate } = source.settings
    if (allow.length > 0 && !this.#allows(source, address)) throw this.#refuse(source, 'address')
    if (rate !== undefined) checkTurn(this.#rates.waitS(source.id, rate, this.#clock.now()))
  }

  /** Makes room for a body that its bytes must vouch for. Call what it returns when that is decided, or when nobody waits
   *  for it any more; twice does no harm. Throws `overloaded`. */
  expectBody(source: Source): () => void {
    const waiting = this.#unproven.get(source.id) ?? 0
    if (waiting >= mostUnproven) throw new RelayError('overloaded', { retryAfterS: 1 })
    this.#unproven.set(source.id, waiting + 1)
    let left = false
    return () => {
      if (left) return
      left = true
      const others = (this.#unproven.get(source.id) ?? 1) - 1
      if (others > 0) this.#unproven.set(source.id, others)
      else this.#unproven.delete(source.id)
    }
  }

  /** Counts a post that is authenticated. What is not counts for nothing, or anyone could use up a vendor's rate. */
  pass(source: Source): void {
    const { rate_limit: rate } = source.settings
    if (rate !== undefined) checkTurn(this.#rates.take(source.id, rate, this.#clock.now()))
  }

  /**
   * Judges a post by the source's scheme; `byUrl` says that it came by an ingest URL of this source. Rejects with
   * `unauthenticated`, or `source_unconfigured` where the scheme has no secret to judge by.
   */
  async authenticate(source: Source, request: PresentedRequest, byUrl: boolean): Promise<Credential> {
    const judgement = await this.#judge(source, request, byUrl)
    if (judgement.kind === 'refused') throw this.#refuse(source, judgement.reason)
    return {
      actor: source.id,
      authentication: source.settings.authentication.scheme,
      signedIdentity: judgement.identity,
    }
  }

  async #judge(source: Source, request: PresentedRequest, byUrl: boolean): Promise<Judgement> {
    const { authentication, replay_window_s: windowS } = source.settings
    const { scheme } = authentication
    if (scheme === 'api_key') throw new Error(`${source.id} is authenticated by its ingest keys`)
    if (scheme === 'url') return byUrl ? genuine : { kind: 'refused', reason: 'unsigned' }
    const { texts, keys } = await this.#secretsOf(source)
    if (texts.length === 0) throw new RelayError('source_unconfigured')
    if (scheme === 'basic') return judgeBasic(request, authentication.user, texts)
    const claim = scheme === 'hmac' ? readHmacClaim(request, authentication) : claimReaders[scheme](request)
    return judge(claim, { secrets: keys, windowS, now: this.#clock.now() })
  }

  #allows(source: Source, address: string): boolean {
    const allows = this.#addresses.get(source) ?? allowList(source.settings.allow)
    this.#addresses.set(source, allows)
    return allows(address)
  }

  #secretsOf(source: Source): Promise<Secrets> {
    const known = this.#secrets.get(source)
    if (known !== undefined) return known
    const opening = this.#open(source)
    this.#secrets.set(source, opening)
    opening.catch(() => this.#secrets.delete(source)) // the next post tries again
    return opening
  }

  async #open(source: Source): Promise<Secrets> {
    const { scheme } = source.settings.authentication
    const texts = await openSecrets(this.#database, this.#dataKeys, source)
    const macs = scheme !== 'api_key' && scheme !== 'url' && scheme !== 'basic'
    return { texts, keys: macs ? texts.map((text) => macKey(scheme, text)) : [] }
  }

  #refuse(source: Source, reason: Refusal): RelayError {
    const { scheme } = source.settings.authentication
    this.#observer.postRefused(scheme, reason)
    this.#logger.debug({ source: source.id, tenant: source.tenantId, scheme, reason }, 'post.refused')
    return new RelayError('unauthenticated')
  }
}

interface Secrets {
  readonly texts: readonly string[]
  readonly keys: readonly KeyObject[]
}

const genuine: Judgement = { kind: 'genuine', identity: undefined }

function checkTurn(waitS: number): void {
  if (waitS > 0) throw new RelayError('rate_limited', { retryAfterS: waitS })
}
