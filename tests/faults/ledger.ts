import { EventEmitter, once } from 'node:events'
import { closeSync, openSync, writeSync } from 'node:fs'
import type { TenantName } from './tenants.ts'

/** What the world outside of the relay saw, one fact at a time. */
export type Fact =
  /** Noted before the request leaves. A post with a key is sent until it is accepted; one without is sent once. */
  | { readonly kind: 'posted'; readonly post: number; readonly tenant: TenantName; readonly key: string | null }
  /** 202, with the receipt as it was answered. */
  | { readonly kind: 'accepted'; readonly post: number; readonly receipt: string }
  /** Any other answer. */
  | { readonly kind: 'refused'; readonly post: number; readonly status: number; readonly code: string }
  /** No answer: what became of it is unknown. */
  | { readonly kind: 'unanswered'; readonly post: number; readonly reason: string }
  /** A webhook reached the receiver of a tenant, which took it or failed. `body` is base64. */
  | {
      readonly kind: 'arrived'
      readonly message: string
      readonly tenant: TenantName
      readonly body: string
      readonly headers: Readonly<Record<string, string>>
      readonly taken: boolean
    }
  /** A strike, and how many it hit: processes, connections or webhooks; `opening` if a relay was not listening then. */
  | { readonly kind: 'struck'; readonly target: string; readonly hits: number; readonly opening: boolean }
  /** A relay ended without being killed, with its last words; `asked` if it was told to drain. */
  | {
      readonly kind: 'exited'
      readonly name: string
      readonly exitCode: number | null
      readonly said: string
      readonly opening: boolean
      readonly asked: boolean
    }

export type FactOf<Kind extends Fact['kind']> = Extract<Fact, { kind: Kind }> & {
  readonly round: number
  /** Since the ledger was opened. */
  readonly afterMs: number
}

/** The drill's own record, written to a file as it happens and never by the relay. */
export class Ledger {
  readonly facts: FactOf<Fact['kind']>[] = []
  /** Written into every fact. 0 is before the first round, or none at all. */
  round = 0
  readonly #openedAtMs = performance.now()
  readonly #file: number
  readonly #news = new EventEmitter()

  /** Refuses a file that exists: facts of two drills would contradict each other. */
  constructor(path: string) {
    this.#file = openSync(path, 'wx')
  }

  note(fact: Fact): void {
    const noted = { round: this.round, afterMs: Math.round(performance.now() - this.#openedAtMs), ...fact }
    writeSync(this.#file, `${JSON.stringify(noted)}\n`)
    this.facts.push(noted)
    this.#news.emit(fact.kind)
  }

  /** Resolves at the next fact of this kind. */
  async next(kind: Fact['kind'], withinMs: number): Promise<void> {
    const signal = AbortSignal.timeout(withinMs)
    await once(this.#news, kind, { signal }).catch((cause: unknown) => {
      throw new Error(`round ${this.round}: nothing was ${kind} within ${withinMs} ms`, { cause })
    })
  }

  close(): void {
    closeSync(this.#file)
  }
}

export const factsOf = <Kind extends Fact['kind']>(
  facts: readonly FactOf<Fact['kind']>[],
  kind: Kind,
): FactOf<Kind>[] => facts.filter((fact): fact is FactOf<Kind> => fact.kind === kind)
