import { hash } from 'node:crypto'

export const sha256 = (bytes: Uint8Array): Buffer => hash('sha256', bytes, 'buffer')

/** The same as base64url, without bytes in between. */
export const sha256Text = (bytes: Uint8Array): string => hash('sha256', bytes, 'base64url')

/** Bytes of canonical base64url without padding, else undefined: each value has one spelling only (RFC 4648 §3.5). */
export function decodeBase64url(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64url')
  return bytes.toString('base64url') === text ? bytes : undefined
}
