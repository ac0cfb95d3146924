import { type CosignAnswer, cosign, hasCosigned, type Witness, type Witnessed } from '../../log/witness.ts'

/**
 * What a witness remembers, and the one place where that changes. Requests are judged one after the other, each against
 * what the one before left, and what is cosigned is kept before it is answered (c2sp.org/tlog-witness § add-checkpoint).
 * If we die after keeping and before answering, the log asks again, learns our size from the 409 and goes on from there.
 */
export class WitnessMemory {
  readonly #witness: Witness
  /** Resolves once `next` is durable. */
  readonly #keep: (next: Witnessed) => Promise<void>
  readonly #now: () => Date
  #witnessed: Witnessed
  #turn: Promise<unknown> = Promise.resolve()

  constructor(
    witness: Witness,
    witnessed: Witnessed,
    keep: (next: Witnessed) => Promise<void>,
    now: () => Date = () => new Date(),
  ) {
    this.#witness = witness
    this.#witnessed = witnessed
    this.#keep = keep
    this.#now = now
  }

  /** Rejects if what was cosigned could not be kept; then nothing is answered and nothing is remembered. */
  add(request: Uint8Array): Promise<CosignAnswer> {
    const answer = this.#turn.then(() => this.#add(request))
    this.#turn = answer.catch(() => {})
    return answer
  }

  /** The newest checkpoint cosigned; undefined before the first. */
  get checkpoint(): string | undefined {
    return hasCosigned(this.#witness, this.#witnessed) ? this.#witnessed.note : undefined
  }

  async #add(request: Uint8Array): Promise<CosignAnswer> {
    const answer = cosign(this.#witness, this.#witnessed, request, this.#now())
    if (answer.status === 200) {
      await this.#keep(answer.next)
      this.#witnessed = answer.next
    }
    return answer
  }
}
