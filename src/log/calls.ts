import { RelayError } from '../errors.ts'
import type { Id, IdMaker } from '../message/id.ts'
import type { Clock } from '../ports/clock.ts'
import type { Logger } from '../ports/logger.ts'
import { RefusalAllowance } from './allowance.ts'
import type { Sequencer } from './sequencer.ts'
import { type AuditEvent, state } from './statement.ts'

/** An answered call, as it is stated. */
export type Call = Omit<Extract<AuditEvent, { kind: 'api.called' }>, 'kind'>

/** A call that presented no valid key. */
export type Refusal = Omit<Extract<AuditEvent, { kind: 'api.refused' }>, 'kind' | 'suppressed'>

/** States what was asked of the API. A call is answered when its statement is committed, so nothing is read unrecorded. */
export class Calls {
  readonly #sequencer: Sequencer
  readonly #clock: Clock
  readonly #issuer: string
  readonly #ids: IdMaker
  readonly #logger: Logger
  readonly #mostUnderWay: number
  readonly #allowance = new RefusalAllowance()
  #underWay = 0
  #suppressed = 0

  constructor(parts: {
    sequencer: Sequencer
    clock: Clock
    issuer: string
    ids: IdMaker
    logger: Logger
    /** Statements about calls that may wait for a batch at once. */
    mostUnderWay: number
  }) {
    this.#sequencer = parts.sequencer
    this.#clock = parts.clock
    this.#issuer = parts.issuer
    this.#ids = parts.ids
    this.#logger = parts.logger
    this.#mostUnderWay = parts.mostUnderWay
  }

  newId(): Id<'req'> {
    return this.#ids.make('req', this.#clock.now())
  }

  /** Resolves once the call is in the log. Rejects with `overloaded`, or `storage_unavailable` unless it certainly is. */
  async record(call: Call): Promise<void> {
    if (this.#underWay >= this.#mostUnderWay) throw new RelayError('overloaded', { retryAfterS: 1 })
    this.#underWay += 1
    try {
      await this.#append({ kind: 'api.called', ...call })
    } catch (error) {
      // Whether the statement is there does not matter to the caller: its answer is withheld, and it may ask again.
      const unknown = error instanceof RelayError && error.code === 'outcome_unknown'
      throw unknown ? new RelayError('storage_unavailable', { cause: error, retryAfterS: 5 }) : error
    } finally {
      this.#underWay -= 1
    }
  }

  /** Never rejects: who has no key is refused either way. Of refusals beyond what is allowed, only the number is kept. */
  async recordRefusal(refusal: Refusal): Promise<void> {
    const suppressed = this.#suppressed
    if (!this.#allowance.take(refusal.address, this.#clock.now().getTime())) {
      this.#suppressed += 1
      return
    }
    this.#suppressed = 0
    try {
      await this.#append({ kind: 'api.refused', ...refusal, ...(suppressed > 0 && { suppressed }) })
    } catch (error) {
      this.#suppressed += suppressed + 1
      this.#logger.warn({ err: error, code: refusal.code }, 'api.refused could not be stated')
    }
  }

  async #append(event: AuditEvent): Promise<void> {
    await this.#sequencer.append({ stated: state(this.#issuer, event, this.#clock.now()), effects: [] })
  }
}
