import type { Clock } from '../ports/clock.ts'
import type { Transaction } from '../ports/database.ts'
import { bind, type Effect } from '../ports/effect.ts'
import type { Sequencer } from './sequencer.ts'
import { type AuditEvent, state } from './statement.ts'
import { advanceConfiguration } from './store.ts'

/** What an act changes. It gets the new value of `log.configuration`, which it must leave on whom it changed, and the
 *  place of its statement in the log. */
export type Change = (tx: Transaction, configuration: number, leafIndex: number) => Promise<unknown>

/** Acts are rare: their changes are carried out one by one, after the batch has counted itself once. */
const changes: Effect<Change> = {
  async write(tx, rows) {
    const configuration = await advanceConfiguration(tx)
    for (const { row: change, leafIndex } of rows) await change(tx, configuration, leafIndex)
    return undefined
  },
}

/** States administrative acts and carries them out, each in one transaction: neither exists without the other. */
export class Acts {
  readonly #sequencer: Sequencer
  readonly #clock: Clock
  readonly #issuer: string
  readonly #onPerformed: () => void

  /** `onPerformed` is told of each act once it is committed: what this process remembers may be out of date. */
  constructor(sequencer: Sequencer, clock: Clock, issuer: string, onPerformed: () => void) {
    this.#sequencer = sequencer
    this.#clock = clock
    this.#issuer = issuer
    this.#onPerformed = onPerformed
  }

  async perform(event: AuditEvent, change: Change): Promise<void> {
    const stated = state(this.#issuer, event, this.#clock.now())
    await this.#sequencer.append({ stated, effects: [bind(changes, change)] })
    this.#onPerformed()
  }
}
