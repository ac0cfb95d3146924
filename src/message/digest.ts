import { hash } from 'node:crypto'

/** SHA-256, 32 bytes. */
export function sha256(bytes: Uint8Array): Buffer {
  if (used === slab.length) {
    slab = Buffer.allocUnsafeSlow(slabBytes)
    used = 0
  }
  slab.write(hash('sha256', bytes, 'latin1'), used, 'latin1')
  used += hashBytes
  return slab.subarray(used - hashBytes, used)
}

/** The same as base64url, without bytes in between. */
export const sha256Text = (bytes: Uint8Array): string => hash('sha256', bytes, 'base64url')

// A buffer for each hash would be memory outside the JavaScript heap, which costs more than hashing. So they come as
// strings of bytes and are kept in slabs. Those are small, because one hash keeps all of its slab alive.
const hashBytes = 32
const slabBytes = 64 * hashBytes
let slab = Buffer.alloc(0)
let used = 0

/** Bytes of canonical base64url without padding, else undefined: each value has one spelling only (RFC 4648 §3.5). */
export function decodeBase64url(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64url')
  return bytes.toString('base64url') === text ? bytes : undefined
}
