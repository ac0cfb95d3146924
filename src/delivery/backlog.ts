import type { Passage } from './breaker.ts'

/** Taken from one backlog at a time. */
const pageLength = 200

/** A paused endpoint is looked at again after this long; resuming it does not wait for that. */
const pausedMs = 60_000

/** When there is no room here, others may have some; and here it may be back. */
const fullMs = 250

/** A probe whose answer nobody recorded is followed by another after its timeout and this long. */
const probeMarginMs = 5000

export interface BacklogState {
  readonly now: Date
  readonly passage: Passage
  readonly paused: boolean
  readonly rateLimit: { readonly perSecond: number; readonly burst: number } | null
  /** Of an attempt. */
  readonly timeoutMs: number
  /** How many more this process can hold for the endpoint. */
  readonly room: number
  /** Where the endpoint has a rate limit: what was let through is paid for then. */
  readonly paidUntil: Date | null
}

export interface Allowance {
  /** How many may be claimed now. */
  readonly most: number
  /** What follows, once `taken` of them were. */
  readonly after: (taken: number) => NextDrain
}

export interface NextDrain {
  /** When to look again. */
  readonly drainAt: Date
  /** Not before then, whatever else comes into the backlog meanwhile; null: as soon as something does. */
  readonly notBefore: Date | null
  /** Until when what was let through is paid for. */
  readonly paidUntil: Date | null
}

/**
 * How much of an endpoint's backlog may be claimed now. Asked under the lock of the backlog, so that what it allows is
 * allowed once, whatever the number of processes: one probe at a time, and no more than the rate.
 *
 * The rate is GCRA (ITU-T I.371): each attempt costs 1 ÷ rate of time, and the bill may run ahead of the clock by the
 * burst.
 */
export function allowanceOf(state: BacklogState): Allowance {
  const { now, passage, room, rateLimit } = state
  const paidUntil = rateLimit === null ? null : state.paidUntil
  const wait = (drainAt: Date): Allowance => ({ most: 0, after: () => ({ drainAt, notBefore: drainAt, paidUntil }) })
  if (state.paused) return wait(later(now, pausedMs))
  if (passage.kind === 'stopped') return wait(passage.until)
  if (room <= 0) return wait(later(now, fullMs))
  const probing = passage.kind === 'probes'
  const again = probing ? later(now, state.timeoutMs + probeMarginMs) : now
  const page = probing ? 1 : Math.min(room, pageLength)
  if (rateLimit === null) {
    const after = (taken: number) => ({ drainAt: again, notBefore: taken > 0 ? again : null, paidUntil: null })
    return { most: page, after }
  }

  const costMs = 1000 / rateLimit.perSecond
  const owedMs = Math.max(0, (paidUntil?.getTime() ?? 0) - now.getTime())
  const affordable = Math.floor((rateLimit.burst * costMs - owedMs) / costMs + 1e-9)
  const most = Math.max(0, Math.min(page, affordable))
  return {
    most,
    after(taken) {
      const bill = new Date(Math.ceil(now.getTime() + owedMs + taken * costMs))
      const affordableMs = Math.ceil(bill.getTime() - (rateLimit.burst - 1) * costMs)
      const notBefore = new Date(Math.max(affordableMs, taken > 0 ? again.getTime() : 0))
      // Where nothing is left, only the bill is kept, until it is paid.
      return { drainAt: taken < most ? bill : notBefore, notBefore, paidUntil: bill }
    },
  }
}

const later = (at: Date, ms: number): Date => new Date(at.getTime() + ms)
