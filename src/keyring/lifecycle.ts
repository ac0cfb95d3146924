import type { KeyPolicy } from './policy.ts'
import { type KeyPurpose, type KeyRecord, keyState } from './store.ts'

/** One step of a key's life that is due. */
export type Step =
  | { readonly kind: 'generate'; readonly purpose: KeyPurpose }
  /** Signs from `at` on; its predecessor stops at the same moment. */
  | { readonly kind: 'activate'; readonly key: KeyRecord; readonly at: Date }
  /** Out of the JWKS, private half destroyed. */
  | { readonly kind: 'retire'; readonly key: KeyRecord }

export const dayMs = 86_400_000

/** Activation goes on record this long before it happens, so that every process knows the moment in advance. */
export const announceMs = 60_000

/**
 * What the policy asks for now. A function of the record and the time alone, so it does not matter who asks, how often,
 * or what was missed meanwhile: steps that were due in the past are due now, in order. A clock that jumps ahead can at
 * most make a key that is not needed yet, or bring a published one forward once; when it comes back, the moments on
 * record still lie ahead, so nothing is due twice.
 */
export function dueSteps(records: readonly KeyRecord[], policy: KeyPolicy, now: Date): Step[] {
  const retirements = records
    .filter((key) => keyState(key, now) === 'retiring' && endOfOverlap(key, policy) <= now.getTime())
    .map((key) => ({ kind: 'retire', key }) as const)
  return [...successions('payload', records, policy, now), ...successions('log', records, policy, now), ...retirements]
}

function successions(purpose: KeyPurpose, records: readonly KeyRecord[], policy: KeyPolicy, now: Date): Step[] {
  const next = nextKey(records, purpose)
  const due = rotationDue(records, purpose, policy)
  const publishMs = policy.publishBeforeUseDays * dayMs
  if (next === undefined) return now.getTime() >= due - publishMs ? [{ kind: 'generate', purpose }] : []
  const at = Math.max(due, next.generatedAt.getTime() + publishMs)
  if (now.getTime() < at - announceMs) return []
  return [{ kind: 'activate', key: next, at: new Date(Math.max(at, now.getTime() + announceMs)) }]
}

/** The key that is published and has no date yet. */
export const nextKey = (records: readonly KeyRecord[], purpose: KeyPurpose): KeyRecord | undefined =>
  records.find((key) => key.purpose === purpose && key.activatedAt === null && key.revokedAt === null)

/** The key at the end of the line: it signs, or is on record to sign, and has no successor on record. */
export const lastActivated = (records: readonly KeyRecord[], purpose: KeyPurpose): KeyRecord | undefined =>
  records.findLast(
    (key) => key.purpose === purpose && key.activatedAt !== null && key.retiringAt === null && key.revokedAt === null,
  )

/** When the policy wants the next key to sign, unix milliseconds. */
export function rotationDue(records: readonly KeyRecord[], purpose: KeyPurpose, policy: KeyPolicy): number {
  const last = lastActivated(records, purpose)
  return last?.activatedAt == null ? 0 : last.activatedAt.getTime() + policy.rotateEveryDays * dayMs
}

const endOfOverlap = (key: KeyRecord, policy: KeyPolicy): number =>
  (key.retiringAt?.getTime() ?? Number.POSITIVE_INFINITY) + policy.overlapDays * dayMs
