import { randomInt, timingSafeEqual } from 'node:crypto'
import { sha256 } from '../message/digest.ts'

/** A key as its owner holds it: `cs_<id>_<secret>`. */
export interface PresentedKey {
  readonly id: string
  readonly secret: string
}

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'
const form = /^cs_([a-z0-9]{8,32})_([A-Za-z0-9]{32,128})$/

export function parseApiKey(text: string): PresentedKey | undefined {
  const [, id, secret] = form.exec(text) ?? []
  return id !== undefined && secret !== undefined ? { id, secret } : undefined
}

/** 43 characters of 62: 256 bits. */
export const makeSecret = (): string => Array.from({ length: 43 }, () => alphabet[randomInt(62)]).join('')

export const hashSecret = (secret: string): Uint8Array => sha256(Buffer.from(secret, 'latin1'))

/** Compares with `known`, or with nothing in the same time: a guess does not learn whether the id exists. */
export function secretMatches(secret: string, known: Uint8Array | undefined): boolean {
  const same = timingSafeEqual(hashSecret(secret), known ?? new Uint8Array(32))
  return same && known !== undefined
}
