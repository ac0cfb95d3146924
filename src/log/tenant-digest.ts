import { sha256 } from '../message/digest.ts'

/** The digest of no leaves: 32 zero bytes. */
export const emptyDigest: Uint8Array = new Uint8Array(32)

/**
 * The rolling digest of a tenant's leaves, extended by the next one: SHA-256(0x02 ‖ digest ‖ leafIndex as uint64,
 * big-endian ‖ entry). A leaf left out, added, moved or exchanged makes it another, and so every digest after it. 0x02,
 * because 0x00 and 0x01 begin the hashes of the tree.
 */
export function extendDigest(digest: Uint8Array, leafIndex: number, entry: Uint8Array): Uint8Array {
  const input = Buffer.allocUnsafe(73)
  input[0] = 0x02
  input.set(digest, 1)
  input.writeBigUInt64BE(BigInt(leafIndex), 33)
  input.set(entry, 41)
  return sha256(input)
}
