import { importPublicKey, publicKeyOf, thumbprint } from '../keyring/jwk.ts'
import type { LogTrust } from '../log/checkpoint.ts'
import { NoteError, parseVerifierKey, type VerifierKey } from '../log/note.ts'
import { parseCosignerKeys } from '../log/witnesses.ts'
import type { JsonObject, JsonValue } from '../message/json.ts'
import { readKeyHistory } from '../receipt/key-history.ts'
import { type TrustedKey, type TrustMaterial, trustLog } from '../receipt/verify.ts'
import { CommandError } from './command.ts'
import { parseInput } from './input.ts'

/** Published bytes, and where they were published, which is what a complaint about them names. */
export interface Published {
  readonly bytes: Uint8Array
  readonly where: string
}

/** What a relay publishes, as trust material. CommandError, in a sentence, for a JWKS or a vkey that is not one. */
export function readTrust(published: {
  readonly jwks: Published
  /** Undefined: receipts are not checked against the log. */
  readonly vkeys: Published | undefined
  /** Whose cosignatures are demanded, by vkeys that are not from the relay, and how many of them. */
  readonly witnesses?: { readonly vkeys: readonly string[]; readonly quorum: number } | undefined
  readonly issuer: string | undefined
}): TrustMaterial {
  const { jwks, vkeys, witnesses, issuer } = published
  const keys = readJwks(jwks)
  const byKid = new Map(keys.map((key) => [key.kid, key]))
  return {
    keys: () => keys,
    findKey: (kid) => byKid.get(kid),
    openCheckpoint: vkeys && trustLog(withWitnesses(readVkeys(vkeys), readWitnesses(witnesses?.vkeys ?? []))),
    quorum: witnesses?.quorum,
    issuer,
  }
}

const withWitnesses = ({ origin, vkeys }: LogTrust, witnesses: readonly VerifierKey[]): LogTrust => ({
  origin,
  vkeys: [...vkeys, ...witnesses],
})

function readWitnesses(vkeys: readonly string[]): VerifierKey[] {
  try {
    return parseCosignerKeys(vkeys)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new CommandError(error.message)
  }
}

/** Keys of other kinds are skipped, as RFC 7517 §5 asks; one of ours that lies about itself is not. */
function readJwks({ bytes, where }: Published): TrustedKey[] {
  const set = parseInput(bytes, where)
  const members = isObject(set) && Array.isArray(set.keys) ? set.keys : undefined
  if (members === undefined) throw new CommandError(`${where} is not a JWKS: it has no array "keys"`)
  const keys = members.flatMap((jwk) => (isObject(jwk) ? (readJwk(jwk, where) ?? []) : []))
  if (keys.length === 0) throw new CommandError(`${where} holds no Ed25519 key`)
  return keys
}

function readJwk(jwk: JsonObject, where: string): TrustedKey | undefined {
  const publicKey = publicKeyOf(jwk)
  if (publicKey === undefined) return undefined
  const kid = thumbprint({ kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKey).toString('base64url') })
  if (jwk.kid !== kid) throw new CommandError(`${where} has a key whose kid is not its thumbprint ${kid} (RFC 7638)`)
  return {
    kid,
    publicKey: importPublicKey(publicKey),
    validFrom: instantOf(jwk.nbf, where),
    // `exp` is when the key leaves the set. It stopped signing before that, which the set does not say.
    validUntil: instantOf(jwk.exp, where),
    revoked: undefined, // a revoked key is in no JWKS
  }
}

/** Unix seconds. The bound keeps what passes within what a Date can hold. */
function instantOf(value: JsonValue | undefined, where: string): Date | undefined {
  if (value === undefined) return undefined
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= 8.64e12)
    return new Date(value * 1000)
  throw new CommandError(`${where} has a key whose "nbf" or "exp" is not unix seconds`)
}

/** The keys of a JWKS, or of the history that `/v1/keys` publishes, which has those too that have left the JWKS. */
export function readKeys(published: Published): TrustedKey[] {
  const { bytes, where } = published
  const document = parseInput(bytes, where)
  const members = isObject(document) && Array.isArray(document.keys) ? document.keys : []
  if (!members.some((key) => isObject(key) && key.purpose !== undefined)) return readJwks(published)
  const keys = readKeyHistory(members)
  if (typeof keys === 'string') throw new CommandError(`${where} is not a key history: ${keys}`)
  return keys
}

/** One vkey a line; all are keys of one log, whose origin is their name. */
export function readVkeys({ bytes, where }: Published): LogTrust {
  const lines = Buffer.from(bytes).toString().split(/\r?\n/).filter(Boolean)
  const [first, ...others] = lines.map((line) => readVkey(line, where))
  if (first === undefined) throw new CommandError(`${where} holds no vkey`)
  if (others.some(({ name }) => name !== first.name))
    throw new CommandError(`${where} holds vkeys of more than one log`)
  return { origin: first.name, vkeys: [first, ...others] }
}

function readVkey(line: string, where: string): VerifierKey {
  try {
    return parseVerifierKey(line)
  } catch (error) {
    if (!(error instanceof NoteError)) throw error
    throw new CommandError(`${where} is not one vkey a line: ${error.message}`)
  }
}

const isObject = (value: JsonValue): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
