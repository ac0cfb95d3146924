import type { KeyObject } from 'node:crypto'
import { importPublicKey, publicJwk, publicKeyOf, thumbprint } from '../../keyring/jwk.ts'
import { jwsHeader, verifyJws } from '../../keyring/jws.ts'
import type { KeyPurpose, KeyState } from '../../keyring/store.ts'
import { canonicalJson } from '../../message/canonical.ts'
import { type JsonObject, type JsonValue, parseJson } from '../../message/json.ts'
import { CommandError } from '../command.ts'
import { parseInput, readInput } from '../input.ts'

/** A key as `GET /v1/keys` tells of it. A time is undefined if it has not come and none is set. */
export interface HistoryKey {
  readonly kid: string
  readonly purpose: KeyPurpose
  readonly state: KeyState
  readonly publicKey: KeyObject
  readonly generatedAt: Date
  readonly activatedAt: Date | undefined
  readonly retiringAt: Date | undefined
  readonly retiredAt: Date | undefined
  readonly revokedAt: Date | undefined
  readonly revokedReason: string | undefined
}

export interface History {
  /** The answer as it came. */
  readonly bytes: Uint8Array
  /** Oldest first. */
  readonly keys: readonly HistoryKey[]
  readonly signature: HistorySignature
}

/** Whether the answer is what the active payload key signed. */
export type HistorySignature =
  | { readonly kind: 'holds'; readonly kid: string; readonly issuer: string }
  | { readonly kind: 'fails'; readonly why: string }

/** Every key the relay ever had. CommandError where it cannot be asked, or where its answer is no key history. */
export async function fetchHistory(relay: string): Promise<History> {
  const where = urlOf(relay, '/v1/keys')
  const bytes = await readInput(where)
  const answer = objectOf(parseInput(bytes, where), where)
  if (!Array.isArray(answer.keys) || typeof answer.signed !== 'string') throw noHistory(where)
  const keys = answer.keys.map((key) => readKey(objectOf(key, where), where))
  return { bytes, keys, signature: verifyHistory(answer.signed, answer.keys, keys) }
}

export const urlOf = (relay: string, path: string): string => `${relay.replace(/\/+$/, '')}${path}`

/** As keys are shown, and as `keys revoke` takes them. */
export const shorten = (kid: string): string => kid.slice(0, shortKidLength)

export const shortKidLength = 8

/** A JWT of type `keys+jwt` (RFC 7515 §3.1) whose claim `keys` is the same as the answer's. */
function verifyHistory(signed: string, answered: JsonValue[], keys: readonly HistoryKey[]): HistorySignature {
  const fails = (why: string): HistorySignature => ({ kind: 'fails', why })
  const active = keys.find((key) => key.purpose === 'payload' && key.state === 'active')
  if (active === undefined) return fails('it names no active payload key')
  const [header = '', payload = '', signature = '', ...more] = signed.split('.')
  if (header !== jwsHeader(active.kid, 'keys+jwt') || more.length > 0) return fails('the active key did not sign it')
  if (!verifyJws(header, payload, Buffer.from(signature, 'base64url'), active.publicKey)) {
    return fails('the signature is not one of the active key')
  }
  const { iss, keys: stated } = parseJson(Buffer.from(payload, 'base64url')) as JsonObject
  if (stated === undefined || Buffer.compare(canonicalJson(stated), canonicalJson(answered)) !== 0) {
    return fails('the signed copy says something else')
  }
  return { kind: 'holds', kid: active.kid, issuer: String(iss) }
}

function readKey(key: JsonObject, where: string): HistoryKey {
  const { kid, x, purpose, state } = key
  const publicKey = publicKeyOf({ kty: 'OKP', crv: 'Ed25519', x })
  if (publicKey === undefined || thumbprint(publicJwk(publicKey)) !== kid) throw noHistory(where)
  if (!isOneOf(purposes, purpose) || !isOneOf(states, state)) throw noHistory(where)
  const at = (name: string): Date | undefined => (key[name] === undefined ? undefined : instantOf(key[name], where))
  return {
    ...{ kid, purpose, state, publicKey: importPublicKey(publicKey) },
    generatedAt: instantOf(key.generated_at, where),
    activatedAt: at('activated_at'),
    retiringAt: at('retiring_at'),
    retiredAt: at('retired_at'),
    revokedAt: at('revoked_at'),
    revokedReason: typeof key.revoked_reason === 'string' ? key.revoked_reason : undefined,
  }
}

const purposes: readonly KeyPurpose[] = ['payload', 'log']
const states: readonly KeyState[] = ['next', 'active', 'retiring', 'retired', 'revoked']

const isOneOf = <T extends string>(values: readonly T[], value: JsonValue | undefined): value is T =>
  values.some((candidate) => candidate === value)

function instantOf(value: JsonValue | undefined, where: string): Date {
  const at = new Date(typeof value === 'string' ? value : Number.NaN)
  if (Number.isNaN(at.getTime())) throw noHistory(where)
  return at
}

function objectOf(value: JsonValue, where: string): JsonObject {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  throw noHistory(where)
}

const noHistory = (where: string): CommandError =>
  new CommandError(`${where} does not answer with the key history of a relay`)
