import { setTimeout as delay } from 'node:timers/promises'
import type { Fleet } from './fleet.ts'
import type { Ledger } from './ledger.ts'
import { type Tenant, type TenantName, tenantNames } from './tenants.ts'

/** How long a vendor waits after anything but a 202. Real ones wait longer; these are here to make load. */
const backoffMs = 50
const answerWithinMs = 40_000
/** Between two posts of one vendor. A drill is about faults; with hundreds of rounds, it must end. */
const restMs = 20

/**
 * Vendors of all tenants post over HTTP, each one request at a time, to one relay after the other, and every payload unlike
 * all others. Every third post has an
 * Idempotency-Key and is sent until it is accepted; every twelfth also twice at once, by a vendor with two processes.
 * One without a key is sent once and given up on, as it could be accepted twice otherwise. All drop everything, and note
 * nothing more, when the drill is `over`.
 */
export function startVendors(
  count: number,
  fleet: Fleet,
  tenants: readonly Tenant[],
  ledger: Ledger,
  over: AbortSignal,
): { stop(): Promise<void> } {
  let posts = 0
  let turns = 0
  let stopping = false

  async function vendor(): Promise<void> {
    while (!stopping && !over.aborted) {
      const post = ++posts
      const key = post % 3 === 0 ? `order-${post}` : null
      ledger.note({ kind: 'posted', post, tenant: tenantOf(post), key })
      if (key !== null && post % 12 === 0) void (await Promise.all([send(post, key), send(post, key)]))
      while (!(await send(post, key))) {
        await delay(backoffMs)
        if (key === null || over.aborted) break
      }
      await delay(restMs)
    }
  }

  async function send(post: number, key: string | null): Promise<boolean> {
    const route = tenants.find(({ name }) => name === tenantOf(post))
    if (route === undefined) throw new Error(`post ${post} is nobody's`)
    try {
      const response = await fetch((await fleet.front(turns++)) + route.path, {
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
  `{ "tenant": "${tenantOf(post)}", "post": ${post}, "note": "${padding(post)}", "caf\\u00e9": [1.50, 1e3] }`
export const canonicalPayload = (post: number): string =>
  `{"café":[1.5,1000],"note":"${padding(post)}","post":${post},"tenant":"${tenantOf(post)}"}`

/** Whose post it is. Twelve in a row, so that each tenant has some of every kind. */
export const tenantOf = (post: number): TenantName =>
  tenantNames[Math.floor(post / 12) % tenantNames.length] ?? tenantNames[0]

/** From nothing to 2 KiB. */
const padding = (post: number): string => '€uro '.repeat((post * 37) % 300)
