import { setTimeout as delay } from 'node:timers/promises'
import type { Ledger } from './ledger.ts'
import type { RelayProcess } from './relay-process.ts'

/** How long a vendor waits after anything but a 202. Real ones wait longer; these are here to make load. */
const backoffMs = 50
const answerWithinMs = 40_000

export interface Route {
  readonly path: string
  readonly ingestKey: string
}

/**
 * Vendors post over HTTP, each one request at a time and every payload unlike all others. Every third post has an
 * Idempotency-Key and is sent until it is accepted; every twelfth also twice at once, by a vendor with two processes.
 * One without a key is sent once and given up on, as it could be accepted twice otherwise. All drop everything, and note
 * nothing more, when the drill is `over`.
 */
export function startVendors(
  count: number,
  relay: RelayProcess,
  route: Route,
  ledger: Ledger,
  over: AbortSignal,
): { stop(): Promise<void> } {
  let posts = 0
  let stopping = false

  async function vendor(): Promise<void> {
    while (!stopping && !over.aborted) {
      const post = ++posts
      const key = post % 3 === 0 ? `order-${post}` : null
      ledger.note({ kind: 'posted', post, key })
      if (key !== null && post % 12 === 0) void (await Promise.all([send(post, key), send(post, key)]))
      while (!(await send(post, key))) {
        await delay(backoffMs)
        if (key === null || over.aborted) break
      }
    }
  }

  async function send(post: number, key: string | null): Promise<boolean> {
    try {
      const response = await fetch((await relay.url()) + route.path, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${route.ingestKey}`,
          'content-type': 'application/json',
          ...(key !== null && { 'idempotency-key': key }),
        },
        body: spelledPayload(post),
        signal: AbortSignal.any([over, AbortSignal.timeout(answerWithinMs)]),
      })
      const text = await response.text()
      const accepted = response.status === 202
      if (accepted) ledger.note({ kind: 'accepted', post, receipt: text })
      else
        ledger.note({ kind: 'refused', post, status: response.status, code: /"code":"(\w+)"/.exec(text)?.[1] ?? text })
      return accepted
    } catch (error) {
      if (over.aborted) return false
      const { message, cause } = error as Error
      ledger.note({ kind: 'unanswered', post, reason: cause instanceof Error ? cause.message : message })
      return false
    }
  }

  const loops = Promise.all(Array.from({ length: count }, vendor))
  return {
    /** Resolves when every request has its answer, and every post with a key its 202. */
    async stop() {
      stopping = true
      await loops
    },
  }
}

/** The payload of a post as its vendor spells it, and as RFC 8785 does, which is how it must arrive. */
export const spelledPayload = (post: number): string =>
  `{ "post": ${post}, "note": "${padding(post)}", "caf\\u00e9": [1.50, 1e3] }`
export const canonicalPayload = (post: number): string => `{"café":[1.5,1000],"note":"${padding(post)}","post":${post}}`

/** From nothing to 2 KiB. */
const padding = (post: number): string => '€uro '.repeat((post * 37) % 300)
