import { type KeyObject, randomBytes, sign, verify } from 'node:crypto'
import { OperatorError } from '../errors.ts'
import type { Clock } from '../ports/clock.ts'
import type { Tx } from '../ports/database.ts'
import type { KeyWrapper, WrapContext, WrappedKey } from '../ports/key-wrapper.ts'
import type { Logger } from '../ports/logger.ts'
import { importPrivateKey, importPublicKey, publicJwk, rawPublicKey, thumbprint } from './jwk.ts'
import type { SigningInput } from './signing-input.ts'
import { SigningThread } from './signing-thread.ts'
import { type KeyPurpose, type KeyRecord, type KeyRow, keyState, selectKeys } from './store.ts'

/** A key generated just now, not on record yet. */
export interface GeneratedKey {
  readonly record: KeyRecord
  readonly wrapped: WrappedKey
}

/**
 * Generates an Ed25519 key, wrapped. It is unwrapped once before it is handed out: a key that cannot be read back must
 * never be published. `activatedAt` null makes it `next`.
 */
export async function generateKey(
  wrapper: KeyWrapper,
  purpose: KeyPurpose,
  issuer: string,
  times: { generatedAt: Date; activatedAt: Date | null },
): Promise<GeneratedKey> {
  const serial = randomBytes(16).toString('hex')
  const { publicKey, wrapped } = await wrapper.generateSigningKey(seedContext(issuer, purpose, serial))
  const kid = thumbprint(publicJwk(publicKey))
  const ahead = { retiringAt: null, retiredAt: null, revokedAt: null, revokedReason: null, revokedLeaf: null }
  const { wrappingKey, version: wrappingVersion = null } = wrapped
  const record = { kid, serial, purpose, publicKey, wrappingKey, wrappingVersion, ...times, ...ahead }
  await unwrapSigningKey(wrapper, record, wrapped.blob, issuer)
  return { record, wrapped }
}

/** A key in hand: what signs at one moment. */
export interface SigningKey {
  readonly kid: string
  /** 32 bytes. */
  readonly publicKey: Uint8Array
  readonly key: KeyObject
}

/**
 * Every key the deployment ever had, and in memory the private halves of those that sign or will. Which key signs is a
 * function of time: the one whose time of activity holds the moment. So a clock that steps back signs with the key of
 * that time, and processes switch together at the moment on record.
 */
export class Keyring {
  readonly #wrapper: KeyWrapper
  readonly #issuer: string
  readonly #clock: Clock
  readonly #logger: Logger
  #records: readonly KeyRecord[] = []
  readonly #signing = new Map<string, SigningKey>()
  readonly #publicKeys = new Map<string, KeyObject>()
  readonly #thread = new SigningThread()
  /** Keys that are on record and could not be unwrapped: 0 while all is well. */
  unopened = 0

  private constructor(parts: { wrapper: KeyWrapper; issuer: string; clock: Clock; logger: Logger }) {
    this.#wrapper = parts.wrapper
    this.#issuer = parts.issuer
    this.#clock = parts.clock
    this.#logger = parts.logger
  }

  /**
   * Reads the keys and unwraps those that sign or will. Rejects, naming the key, if one does not unwrap, is not the key
   * its record says, or fails a trial signature: a relay that starts has all its keys.
   */
  static async open(
    tx: Tx,
    parts: { wrapper: KeyWrapper; issuer: string; clock: Clock; logger: Logger },
  ): Promise<Keyring> {
    const keyring = new Keyring(parts)
    await keyring.#load(tx, (error) => {
      throw error
    })
    for (const key of keyring.#records) {
      const signs = ['active', 'next'].includes(keyState(key, parts.clock.now()))
      if (signs && !keyring.#signing.has(key.kid)) {
        throw new OperatorError(`the ${key.purpose} key ${key.kid} has lost its private half. ${remedy}`)
      }
    }
    for (const purpose of ['payload', 'log'] as const) keyring.signer(purpose)
    return keyring
  }

  /** Reads again what other processes changed. A key that cannot be unwrapped now is tried again the next time; those
   *  in memory go on signing, so an outage of the wrapping service stops nothing but rotation. */
  async reload(tx: Tx): Promise<void> {
    await this.#load(tx, (error) => this.#logger.warn({ err: error }, 'keyring.unwrap failed, will try again'))
  }

  /** The key that signs now. Throws if there is none, as after a clock stepped back before the first key. */
  signer(purpose: KeyPurpose): SigningKey {
    const now = this.#clock.now()
    const record = this.#records.findLast((key) => key.purpose === purpose && keyState(key, now) === 'active')
    const key = record && this.#signing.get(record.kid)
    if (key === undefined) throw new Error(`the keyring has no ${purpose} key that is active at ${now.toISOString()}`)
    return key
  }

  /** Signs with the payload key that is active now. On another thread: so the key may have changed when it is done. */
  async sign(inputFor: (kid: string) => SigningInput): Promise<{ kid: string; signature: Uint8Array }> {
    const { kid, key } = this.signer('payload')
    return { kid, signature: await this.#thread.sign(key, inputFor(kid)) }
  }

  /** Signs with the payload key that was active before this one, while it is retiring: for receivers that have pinned it.
   *  Undefined outside an overlap. */
  async signRetiring(input: SigningInput): Promise<{ kid: string; signature: Uint8Array } | undefined> {
    const now = this.#clock.now()
    const record = this.#records.findLast((key) => key.purpose === 'payload' && keyState(key, now) === 'retiring')
    const key = record && this.#signing.get(record.kid)
    return key && { kid: key.kid, signature: await this.#thread.sign(key.key, input) }
  }

  /** Whether a signature is by this key of ours; false for a key we never had. On another thread. */
  async verify(kid: string, input: SigningInput, signature: Uint8Array): Promise<boolean> {
    const publicKey = this.#publicKeys.get(kid)
    return publicKey !== undefined && signature.length === 64 && this.#thread.verify(publicKey, input, signature)
  }

  /** Whether a signature that this process made just now holds: as `verify`, for less. Not for one from anywhere else. */
  async confirm(kid: string, input: SigningInput, signature: Uint8Array): Promise<boolean> {
    const signer = this.#signing.get(kid)
    return signer ? this.#thread.confirm(signer.key, input, signature) : this.verify(kid, input, signature)
  }

  /** Stops the thread. Nothing can be signed any more. */
  close(): Promise<void> {
    return this.#thread.close()
  }

  /** All log keys that sign a checkpoint: the active one, and during the overlap the one before it. */
  logSigners(): SigningKey[] {
    const now = this.#clock.now()
    const signing = this.#records.filter(
      (key) => key.purpose === 'log' && ['active', 'retiring'].includes(keyState(key, now)),
    )
    return signing.flatMap((key) => this.#signing.get(key.kid) ?? []).reverse()
  }

  /** Every key ever, oldest first. */
  get history(): readonly KeyRecord[] {
    return this.#records
  }

  /** The kids this process could sign with. */
  get kids(): string[] {
    return [...this.#signing.keys()]
  }

  find(kid: string): { record: KeyRecord; publicKey: KeyObject } | undefined {
    const record = this.#records.find((key) => key.kid === kid)
    const publicKey = this.#publicKeys.get(kid)
    return record && publicKey && { record, publicKey }
  }

  async #load(tx: Tx, failed: (error: unknown) => void): Promise<void> {
    const rows = await tx.query<KeyRow>(selectKeys)
    let unopened = 0
    for (const { wrappedSeed, ...record } of rows) {
      const { kid } = record
      if (!this.#publicKeys.has(kid)) this.#publicKeys.set(kid, importPublicKey(record.publicKey))
      const signs = wrappedSeed !== null && record.revokedAt === null
      if (!signs) this.#signing.delete(kid)
      if (!signs || this.#signing.has(kid)) continue
      try {
        const key = await unwrapSigningKey(this.#wrapper, record, wrappedSeed, this.#issuer)
        this.#signing.set(kid, { kid, publicKey: record.publicKey, key })
      } catch (error) {
        unopened += 1
        failed(error)
      }
    }
    this.unopened = unopened
    this.#records = rows.map(({ wrappedSeed: _, ...record }) => record)
  }
}

/** Signs what may be signed. 64 bytes, RFC 8032. */
export const signWith = ({ key }: SigningKey, input: SigningInput): Uint8Array => sign(null, input, key)

/** What a key's private half is bound to while it is wrapped. */
export const seedContext = (issuer: string, purpose: KeyPurpose, serial: string): WrapContext => ({
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
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new OperatorError(`${name} cannot be unwrapped with ${record.wrappingKey}: ${why}. ${remedy}`, { cause })
  })
  try {
    const key = importPrivateKey(plain)
    // The context binds a serial, not the public key, which is unknown when KMS generates one: so compare that here.
    if (Buffer.compare(rawPublicKey(key), record.publicKey) !== 0) {
      throw new OperatorError(`${name} unwraps to another key: its row was altered. ${remedy}`)
    }
    const trial = Buffer.from('eyJ countersign self-test')
    if (!verify(null, trial, importPublicKey(record.publicKey), sign(null, trial, key))) {
      throw new OperatorError(`${name} fails its self-test. ${remedy}`)
    }
    return key
  } finally {
    plain.fill(0)
  }
}

const remedy = 'keys/README.md says what to do under "A key does not unwrap".'
