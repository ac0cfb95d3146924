/** What must not compile: bytes that may be signed, hashed or forwarded have one maker each. `tsc` is what runs this. */
import { type Keyring, type SigningKey, signWith } from '../../src/keyring/keyring.ts'
import { jwsSigningInput, webhookSigningInput } from '../../src/keyring/signing-input.ts'
import { type SignedStatement, type Statement, signStatement, state } from '../../src/log/statement.ts'
import { type CanonicalPayload, canonicalizePayload, canonicalJson } from '../../src/message/canonical.ts'
import { type ExactPayload, takeExactly } from '../../src/message/exact.ts'
import type { Content } from '../../src/message/message.ts'

declare const keyring: Keyring
declare const key: SigningKey
declare const payload: CanonicalPayload
declare const statement: Statement
declare const bytes: Uint8Array

export function signsSigningInputsOnly(): void {
  signWith(key, webhookSigningInput('msg_1', 0, payload))
  signWith(key, jwsSigningInput('eyJ', 'eyJ'))
  // @ts-expect-error raw bytes have no prefix that says what is signed
  signWith(key, bytes)
  // @ts-expect-error neither has a payload
  signWith(key, payload)
  // @ts-expect-error nor a statement: it is signed as a JWS, with its header
  signWith(key, statement)
}

export async function statesStatementsOnly(): Promise<void> {
  const signed: SignedStatement = await signStatement(
    keyring,
    state('iss', { kind: 'log.created', sub: '', vkey: '' }, new Date()).statement,
  )
  await signStatement(keyring, signed.statement)
  // @ts-expect-error a payload says nothing that we vouch for
  await signStatement(keyring, payload)
  // @ts-expect-error raw bytes neither
  await signStatement(keyring, bytes)
  // @ts-expect-error canonical JSON has no salt, issuer or time, unless state() made it
  await signStatement(keyring, canonicalJson({ kind: 'log.created' }))
}

export function makesPayloadsInOnePlace(): CanonicalPayload[] {
  // @ts-expect-error raw bytes may be JSON in any spelling
  const raw: CanonicalPayload = bytes
  // @ts-expect-error canonical bytes of ours are no payload that somebody posted
  const ours: CanonicalPayload = canonicalJson({})
  // @ts-expect-error a statement is canonical, and no payload either
  const stated: CanonicalPayload = statement
  return [raw, ours, stated, canonicalizePayload({})]
}

export function takesExactPayloadsInOnePlace(): Content[] {
  // @ts-expect-error raw bytes are nobody's payload yet
  const raw: ExactPayload = bytes
  // @ts-expect-error what was canonicalized is no longer what was posted
  const canonical: ExactPayload = payload
  // @ts-expect-error exact bytes have a media type
  const untyped: Content = { ...takeExactly(bytes, 'text/plain'), contentType: null }
  // @ts-expect-error canonical bytes need none: it is JSON
  const typed: Content = { payload, contentType: 'application/json', value: {} }
  return [untyped, typed, takeExactly(raw, 'text/plain'), takeExactly(canonical, 'text/plain')]
}
