import { createPrivateKey, createPublicKey, hash, type KeyObject } from 'node:crypto'

/** A public Ed25519 key as RFC 8037 writes it. Without `alg`: libraries disagree on its name (EdDSA, Ed25519). */
export interface PublicJwk {
  kty: 'OKP'
  crv: 'Ed25519'
  /** 32 bytes, base64url without padding. */
  x: string
}

const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex')
const spkiPrefix = Buffer.from('302a300506032b6570032100', 'hex')

export const publicJwk = (publicKey: Uint8Array): PublicJwk => ({
  kty: 'OKP',
  crv: 'Ed25519',
  x: Buffer.from(publicKey).toString('base64url'),
})

/** RFC 7638 thumbprint: base64url SHA-256 over the required members in lexical order. It is the key's `kid`. */
export const thumbprint = ({ crv, kty, x }: PublicJwk): string =>
  hash('sha256', `{"crv":"${crv}","kty":"${kty}","x":"${x}"}`, 'base64url')

/** The 32-byte public key of a JWK, or undefined for any other kind of key, a wrong length, or loose base64url. */
export function publicKeyOf(jwk: unknown): Uint8Array | undefined {
  if (typeof jwk !== 'object' || jwk === null) return undefined
  const { kty, crv, x } = jwk as Record<string, unknown>
  if (kty !== 'OKP' || crv !== 'Ed25519' || typeof x !== 'string') return undefined
  const bytes = Buffer.from(x, 'base64url')
  return bytes.length === 32 && bytes.toString('base64url') === x ? bytes : undefined
}

/** Imports 32 raw bytes; import once and keep the result, since importing costs as much as verifying. */
export const importPublicKey = (publicKey: Uint8Array): KeyObject =>
  createPublicKey({ key: Buffer.concat([spkiPrefix, publicKey]), format: 'der', type: 'spki' })

/**
 * Imports a private key as a wrapping service yields it: a 32-byte seed (RFC 8032 §5.1.5), or PKCS#8 around one, of
 * version 1 or of version 2, which carries the public key as well (RFC 5958, RFC 8410 §7). Throws on anything else.
 */
export function importPrivateKey(plain: Uint8Array): KeyObject {
  const seed = plain.length === 32 ? plain : seedInPkcs8(plain)
  const der = Buffer.concat([pkcs8Prefix, seed])
  try {
    return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
  } finally {
    der.fill(0)
  }
}

/** The algorithm identifier of Ed25519 and then the seed, an octet string in an octet string: `04 22 04 20`. */
const ed25519SeedAt = pkcs8Prefix.subarray(5)

function seedInPkcs8(der: Uint8Array): Uint8Array {
  const at = Buffer.from(der.buffer, der.byteOffset, der.length).indexOf(ed25519SeedAt)
  const seed = der.subarray(at + ed25519SeedAt.length, at + ed25519SeedAt.length + 32)
  if (at < 0 || seed.length !== 32) throw new Error('an unwrapped key is neither a seed nor PKCS#8 of an Ed25519 key')
  return seed
}

/** The 32 raw bytes of the public half. */
export const rawPublicKey = (key: KeyObject): Uint8Array =>
  new Uint8Array(createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(-32))
