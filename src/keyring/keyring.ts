import { type KeyObject, randomBytes, sign, verify } from 'node:crypto'
import type { Tx } from '../ports/database.ts'
import type { KeyWrapper, WrapContext, WrappedKey } from '../ports/key-wrapper.ts'
import { importPrivateKey, importPublicKey, type PublishedJwk, publicJwk, rawPublicKey, thumbprint } from './jwk.ts'
import type { SigningInput } from './signing-input.ts'

export type KeyPurpose = 'payload' | 'log'

/** next: published, signs nothing yet · active: signs · retiring: published, verifies · retired: out of the JWKS,
 *  verifies old receipts · revoked: vouches for nothing after `revokedAt`. */
export type KeyState = 'next' | 'active' | 'retiring' | 'retired' | 'revoked'

/** What is kept of a key for ever. The state follows from the times, so the two cannot disagree. */
export interface KeyRecord {
  readonly kid: string
  /** Made before the key, so that wrapping can bind to it. */
  readonly serial: string
  readonly purpose: KeyPurpose
  /** 32 bytes. */
  readonly publicKey: Uint8Array
  readonly wrappingKey: string
  readonly generatedAt: Date
  readonly activatedAt: Date | null
  readonly retiringAt: Date | null
  readonly retiredAt: Date | null
  readonly revokedAt: Date | null
}

export function keyState(key: KeyRecord): KeyState {
  if (key.revokedAt !== null) return 'revoked'
  if (key.retiredAt !== null) return 'retired'
  if (key.retiringAt !== null) return 'retiring'
  return key.activatedAt !== null ? 'active' : 'next'
}

/** A key generated just now: active from the start, as at first start, where nobody has an older one to trust. */
export interface GeneratedKey {
  readonly record: KeyRecord
  readonly wrapped: WrappedKey
}

/**
 * Generates an Ed25519 key and wraps its seed. The wrapped seed is unwrapped once more before the key is handed out:
 * a key that cannot be read back must never sign.
 */
export async function generateKey(
  wrapper: KeyWrapper,
  purpose: KeyPurpose,
  issuer: string,
  now: Date,
): Promise<GeneratedKey> {
  const serial = randomBytes(16).toString('hex')
  const { publicKey, wrapped } = await wrapper.generateSigningKey(seedContext(issuer, purpose, serial))
  const kid = thumbprint(publicJwk(publicKey))
  const times = { generatedAt: now, activatedAt: now, retiringAt: null, retiredAt: null, revokedAt: null }
  const record = { kid, serial, purpose, publicKey, wrappingKey: wrapped.wrappingKey, ...times }
  await unwrapSigningKey(wrapper, record, wrapped.blob, issuer)
  return { record, wrapped }
}

/** Every key the deployment ever had; the seeds of the active ones, unwrapped, in memory only. */
export class Keyring {
  readonly #records: readonly KeyRecord[]
  readonly #signing: ReadonlyMap<KeyPurpose, SigningKey>
  readonly #publicKeys = new Map<string, KeyObject>()

  private constructor(records: readonly KeyRecord[], signing: ReadonlyMap<KeyPurpose, SigningKey>) {
    this.#records = records
    this.#signing = signing
    for (const { kid, publicKey } of records) this.#publicKeys.set(kid, importPublicKey(publicKey))
  }

  /** Reads the keys and unwraps the active ones. Rejects, naming the key, if one does not unwrap, is not the key its
   *  record says, or fails a trial signature. */
  static async open(tx: Tx, wrapper: KeyWrapper, issuer: string): Promise<Keyring> {
    const rows = await tx.query<KeyRow>(selectKeys)
    const signing = new Map<KeyPurpose, SigningKey>()
    for (const { wrappedSeed, ...record } of rows) {
      if (keyState(record) !== 'active') continue
      if (wrappedSeed === null) throw new Error(`the ${record.purpose} key ${record.kid} is active but has no seed`)
      const key = await unwrapSigningKey(wrapper, record, wrappedSeed, issuer)
      signing.set(record.purpose, { kid: record.kid, publicKey: record.publicKey, key })
    }
    for (const purpose of ['payload', 'log'] as const) {
      if (!signing.has(purpose)) throw new Error(`the keyring has no active ${purpose} key`)
    }
    return new Keyring(
      rows.map(({ wrappedSeed: _, ...record }) => record),
      signing,
    )
  }

  /** The kid of the active payload key. */
  get kid(): string {
    return this.#active('payload').kid
  }

  /** Signs with the active payload key. 64 bytes, RFC 8032. */
  sign(input: SigningInput): Uint8Array {
    return sign(null, input, this.#active('payload').key)
  }

  /** The active log key. It signs checkpoints and nothing else; their text never starts like a {@link SigningInput}. */
  get logKey(): { publicKey: Uint8Array; sign: (text: Uint8Array) => Uint8Array } {
    const { publicKey, key } = this.#active('log')
    return { publicKey, sign: (text) => sign(null, text, key) }
  }

  /** Every key ever, oldest first. */
  get history(): readonly KeyRecord[] {
    return this.#records
  }

  find(kid: string): { record: KeyRecord; publicKey: KeyObject } | undefined {
    const record = this.#records.find((key) => key.kid === kid)
    const publicKey = this.#publicKeys.get(kid)
    return record && publicKey && { record, publicKey }
  }

  /** The published payload keys: next, active and retiring. */
  jwks(): { keys: PublishedJwk[] } {
    const published = this.#records.filter(
      (key) => key.purpose === 'payload' && ['next', 'active', 'retiring'].includes(keyState(key)),
    )
    return { keys: published.map(publish) }
  }

  #active(purpose: KeyPurpose): SigningKey {
    const key = this.#signing.get(purpose)
    if (key === undefined) throw new Error(`the keyring has no active ${purpose} key`)
    return key
  }
}

interface SigningKey {
  readonly kid: string
  readonly publicKey: Uint8Array
  readonly key: KeyObject
}

type KeyRow = KeyRecord & { wrappedSeed: Uint8Array | null }

const selectKeys = `
  select kid, serial, purpose, public_key as "publicKey", wrapped_seed as "wrappedSeed",
         wrapping_key as "wrappingKey", generated_at as "generatedAt", activated_at as "activatedAt",
         retiring_at as "retiringAt", retired_at as "retiredAt", revoked_at as "revokedAt"
    from keys
   order by generated_at, kid`

const insertKey = `
  insert into keys (kid, serial, purpose, public_key, wrapped_seed, wrapping_key, generated_at, activated_at)
  values ($1, $2, $3, $4, $5, $6, $7, $8)`

export const recordKey = (tx: Tx, { record, wrapped }: GeneratedKey): Promise<unknown> =>
  tx.query(insertKey, [
    record.kid,
    record.serial,
    record.purpose,
    record.publicKey,
    wrapped.blob,
    wrapped.wrappingKey,
    record.generatedAt,
    record.activatedAt,
  ])

const seedContext = (issuer: string, purpose: KeyPurpose, serial: string): WrapContext => ({
  app: 'countersign',
  deployment: issuer,
  purpose: `ed25519-${purpose}`,
  serial,
})

async function unwrapSigningKey(
  wrapper: KeyWrapper,
  record: Pick<KeyRecord, 'kid' | 'purpose' | 'serial' | 'publicKey' | 'wrappingKey'>,
  blob: Uint8Array,
  issuer: string,
): Promise<KeyObject> {
  const name = `the ${record.purpose} key ${record.kid}`
  const context = seedContext(issuer, record.purpose, record.serial)
  const plain = await wrapper.unwrap({ blob, wrappingKey: record.wrappingKey }, context).catch((cause: unknown) => {
    throw new Error(`${name} cannot be unwrapped with ${record.wrappingKey}`, { cause })
  })
  try {
    const key = importPrivateKey(plain)
    // The context binds a serial, not the public key, which is unknown when KMS generates one: so compare that here.
    if (Buffer.compare(rawPublicKey(key), record.publicKey) !== 0) throw new Error(`${name} unwraps to another key`)
    const trial = Buffer.from('eyJ countersign self-test')
    if (!verify(null, trial, importPublicKey(record.publicKey), sign(null, trial, key))) {
      throw new Error(`${name} fails its self-test`)
    }
    return key
  } finally {
    plain.fill(0)
  }
}

const unixSeconds = (at: Date): number => Math.floor(at.getTime() / 1000)

function publish(key: KeyRecord): PublishedJwk {
  const jwk: PublishedJwk = { ...publicJwk(key.publicKey), kid: key.kid, use: 'sig', iat: unixSeconds(key.generatedAt) }
  if (key.activatedAt !== null) jwk.nbf = unixSeconds(key.activatedAt)
  return jwk
}
