import { type PublicJwk, publicJwk } from './jwk.ts'
import type { KeyPolicy } from './policy.ts'
import { type KeyRecord, keyState } from './store.ts'

/** One member of the JWKS. The times are unix seconds and advice: no JOSE library enforces them (RFC 7517 §4). */
export interface PublishedJwk extends PublicJwk {
  kid: string
  use: 'sig'
  /** Generated at. */
  iat: number
  /** Signs from. Absent until that is known. */
  nbf?: number
  /** Leaves the JWKS, at the end of its overlap. Absent until that is known. */
  exp?: number
}

const dayMs = 86_400_000

/** The published payload keys: next, active and retiring (RFC 7517). */
export function jwksOf(records: readonly KeyRecord[], policy: KeyPolicy, now: Date): { keys: PublishedJwk[] } {
  const published = records.filter(
    (key) => key.purpose === 'payload' && ['next', 'active', 'retiring'].includes(keyState(key, now)),
  )
  return { keys: published.map((key) => publish(key, policy)) }
}

function publish(key: KeyRecord, policy: KeyPolicy): PublishedJwk {
  const jwk: PublishedJwk = { ...publicJwk(key.publicKey), kid: key.kid, use: 'sig', iat: unixSeconds(key.generatedAt) }
  if (key.activatedAt !== null) jwk.nbf = unixSeconds(key.activatedAt)
  if (key.retiringAt !== null) jwk.exp = unixSeconds(key.retiringAt) + (policy.overlapDays * dayMs) / 1000
  return jwk
}

const unixSeconds = (at: Date): number => Math.floor(at.getTime() / 1000)

/** A key as its history is published: everything but the private half. */
export function describeKey(key: KeyRecord, now: Date) {
  const at = (name: string, time: Date | null) => time !== null && { [name]: time.toISOString() }
  return {
    kid: key.kid,
    purpose: key.purpose,
    state: keyState(key, now),
    x: publicJwk(key.publicKey).x,
    wrapping_key: key.wrappingKey,
    ...at('generated_at', key.generatedAt),
    ...at('activated_at', key.activatedAt),
    ...at('retiring_at', key.retiringAt),
    ...at('retired_at', key.retiredAt),
    ...at('revoked_at', key.revokedAt),
    ...(key.revokedAt !== null && { revoked_reason: key.revokedReason, revoked_leaf: key.revokedLeaf }),
  }
}
