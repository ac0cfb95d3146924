import { type KeyObject, verify } from 'node:crypto'
import { jwsSigningInput } from './signing-input.ts'

/** The protected header of every receipt is exactly `{"alg":"EdDSA","kid":…,"typ":"receipt+jwt"}` (DESIGN.md §2). */
export const receiptHeader = (kid: string): string => jwsHeader(kid, 'receipt+jwt')

export const jwsHeader = (kid: string, typ: string): string =>
  Buffer.from(`{"alg":"EdDSA","kid":"${kid}","typ":"${typ}"}`, 'latin1').toString('base64url')

/** The kid inside a protected header, or undefined unless it is byte for byte the header of {@link receiptHeader}. */
export function kidOfReceiptHeader(protectedHeader: string): string | undefined {
  const text = Buffer.from(protectedHeader, 'base64url').toString('latin1')
  const kid = /^\{"alg":"EdDSA","kid":"([A-Za-z0-9_-]{43})","typ":"receipt\+jwt"\}$/.exec(text)?.[1]
  return kid !== undefined && receiptHeader(kid) === protectedHeader ? kid : undefined
}

export const verifyJws = (protectedHeader: string, payload: string, signature: Uint8Array, key: KeyObject): boolean =>
  signature.length === 64 && verify(null, jwsSigningInput(protectedHeader, payload), key, signature)
