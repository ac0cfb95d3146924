import { importPublicKey, publicJwk, thumbprint } from '../keyring/jwk.ts'
import { decodeBase64url } from '../message/digest.ts'
import type { JsonValue } from '../message/json.ts'
import type { TrustedKey } from './verify.ts'

/** The payload keys of a key history, as `GET /v1/keys` and the header of an export have it: also those that no JWKS
 *  holds any more. A sentence where it is none, or a key is not the one its kid names. */
export function readKeyHistory(keys: JsonValue | undefined): TrustedKey[] | string {
  if (!Array.isArray(keys)) return 'there is no list of keys'
  const found: TrustedKey[] = []
  for (const key of keys) {
    if (typeof key !== 'object' || key === null || Array.isArray(key)) return 'a key is not an object'
    if (key.purpose !== 'payload') continue
    const publicKey = typeof key.x === 'string' ? decodeBase64url(key.x) : undefined
    if (publicKey?.length !== 32) return 'a key has no public key of 32 bytes'
    const kid = thumbprint(publicJwk(publicKey))
    if (key.kid !== kid) return `a key's kid is not its thumbprint ${kid} (RFC 7638)`
    const [validFrom, validUntil, revokedAt] = [key.activated_at, key.retiring_at, key.revoked_at].map(instantOf)
    if (validFrom === null || validUntil === null || revokedAt === null) return 'a key has a time that is none'
    const leafIndex = typeof key.revoked_leaf === 'number' ? key.revoked_leaf : 0
    const revoked = revokedAt && { from: revokedAt, leafIndex }
    found.push({ kid, publicKey: importPublicKey(publicKey), validFrom, validUntil, revoked })
  }
  return found
}

/** RFC 3339; null for what is no time. */
function instantOf(value: JsonValue | undefined): Date | undefined | null {
  if (value === undefined) return undefined
  const at = new Date(typeof value === 'string' ? value : Number.NaN)
  return Number.isNaN(at.getTime()) ? null : at
}
