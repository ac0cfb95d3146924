import { RelayError } from '../errors.ts'
import { dataKeyContext, listDataKeys, rewrapDataKey } from '../keyring/data-keys.ts'
import { publicJwk } from '../keyring/jwk.ts'
import { generateKey, type Keyring, seedContext } from '../keyring/keyring.ts'
import { dueSteps, lastActivated, nextKey, type Step } from '../keyring/lifecycle.ts'
import type { KeyPolicy } from '../keyring/policy.ts'
import {
  forgetProcess,
  type KeyPurpose,
  type KeyRecord,
  type KeyRow,
  processesWithout,
  recordActivation,
  recordKey,
  recordProcess,
  recordRetirement,
  recordRevocation,
  recordWrapping,
  selectKeys,
} from '../keyring/store.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { KeyWrapper, WrapContext, WrappedKey } from '../ports/key-wrapper.ts'
import type { Logger } from '../ports/logger.ts'
import type { Acts } from './acts.ts'
import type { AuditEvent } from './statement.ts'

/** A process that has not said for this long that it lives does not hold up an activation. */
const aliveMs = 60_000

/** One process at a time takes steps. Any constant will do. */
const stepLock = `select pg_try_advisory_xact_lock(4857264072) as "locked"`

/**
 * Moves the keys through their lives by the policy, each step stated in the log in the transaction that takes it. Every
 * process ticks; whichever gets the lock takes the steps that are due.
 */
export class KeyRotation {
  readonly #database: Database
  readonly #keyring: Keyring
  readonly #wrapper: KeyWrapper
  readonly #policy: KeyPolicy
  readonly #acts: Acts
  readonly #clock: Clock
  readonly #logger: Logger
  readonly #issuer: string
  /** This process, as it reports itself alive. */
  readonly #process: string

  constructor(parts: {
    database: Database
    keyring: Keyring
    wrapper: KeyWrapper
    policy: KeyPolicy
    acts: Acts
    clock: Clock
    logger: Logger
    issuer: string
    process: string
  }) {
    this.#database = parts.database
    this.#keyring = parts.keyring
    this.#wrapper = parts.wrapper
    this.#policy = parts.policy
    this.#acts = parts.acts
    this.#clock = parts.clock
    this.#logger = parts.logger
    this.#issuer = parts.issuer
    this.#process = parts.process
  }

  /** Learns what others changed, says that this process lives and which keys it has, and takes the steps due. */
  async tick(): Promise<void> {
    await this.#keyring.reload(this.#database)
    await recordProcess(this.#database, this.#process, this.#clock.now(), this.#keyring.kids)
    // A step can make another one due, as a policy made stricter does; but not without end.
    for (let round = 0; round < 4; round++) {
      if (this.plan().length === 0 || !(await this.#takeSteps())) return
      await this.#keyring.reload(this.#database)
    }
  }

  /** What is due now. */
  plan(): Step[] {
    return dueSteps(this.#keyring.history, this.#policy, this.#clock.now())
  }

  /**
   * Rotates out of turn: the key published as next, or a new one, signs from now on. Receivers that know only keys
   * published earlier refuse what a new one signs until they fetch the JWKS again.
   */
  async rotateNow(purpose: KeyPurpose): Promise<{ kid: string; published: boolean }> {
    const published = nextKey(this.#keyring.history, purpose)
    const key = published ?? (await this.#generate(purpose))
    await this.#activate(key, this.#clock.now())
    await this.#keyring.reload(this.#database)
    return { kid: key.kid, published: published !== undefined }
  }

  /**
   * Nothing the key signed from `from` on counts any more, and its private half is destroyed. If it is the one that
   * signs, another takes its place first. Rejects with `not_found` or, if it is revoked already, `key_revoked`.
   */
  async revoke(kid: string, revocation: { from: Date; reason: string }): Promise<{ successor: string | undefined }> {
    await this.#keyring.reload(this.#database)
    const record = this.#keyring.find(kid)?.record
    if (record === undefined) throw new RelayError('not_found')
    if (record.revokedAt !== null) throw new RelayError('key_revoked')
    const signs = lastActivated(this.#keyring.history, record.purpose)?.kid === kid
    const successor = signs ? (await this.rotateNow(record.purpose)).kid : undefined
    const { from, reason } = revocation
    const event = { ...aboutKey('key.revoked', record), from: from.toISOString(), reason } as const
    await this.#acts.perform(event, (tx, _configuration, leafIndex) =>
      recordRevocation(tx, kid, { from, reason, leafIndex }),
    )
    await this.#keyring.reload(this.#database)
    this.#logger.warn({ kid, from, reason, successor }, 'key.revoked')
    return { successor }
  }

  /**
   * Wraps every private half and every data key anew under `to`, without changing any: to move from the local wrapper to
   * a service, or from one wrapping key to another. To be done while no other process runs; start with the new wrapper
   * afterwards. Each key is its own act, so it can be interrupted and done again. Resolves with how many were moved.
   */
  async rewrap(to: KeyWrapper): Promise<number> {
    let moved = 0
    for (const row of await this.#database.query<KeyRow>(selectKeys)) {
      const { kid, purpose, serial, wrappedSeed } = row
      if (wrappedSeed === null) continue
      const context = seedContext(this.#issuer, purpose, serial)
      const wrapped = await rewrapOne(this.#wrapper, to, { blob: wrappedSeed, wrappingKey: row.wrappingKey }, context)
      if (wrapped === undefined) continue
      const { wrappingKey, version: wrappingVersion = null } = wrapped
      const event = aboutKey('key.rewrapped', { ...row, wrappingKey, wrappingVersion })
      await this.#acts.perform(event, (tx) => recordWrapping(tx, kid, wrapped))
      moved += 1
    }
    for (const { tenantId, wrapped: blob, wrappingKey } of await listDataKeys(this.#database)) {
      const wrapped = await rewrapOne(this.#wrapper, to, { blob, wrappingKey }, dataKeyContext(this.#issuer, tenantId))
      if (wrapped === undefined) continue
      const event = { kind: 'data_key.rewrapped', sub: tenantId, wrapping_key: wrapped.wrappingKey } as const
      await this.#acts.perform(event, (tx) => rewrapDataKey(tx, tenantId, wrapped))
      moved += 1
    }
    return moved
  }

  /** This process does not hold up an activation any more. */
  async stop(): Promise<void> {
    await forgetProcess(this.#database, this.#process)
  }

  /** False if another process is at it, or a step has to wait. */
  #takeSteps(): Promise<boolean> {
    return this.#database.transaction(async (tx) => {
      const [lock] = await tx.query<{ locked: boolean }>(stepLock)
      if (lock?.locked !== true) return false
      await this.#keyring.reload(this.#database) // somebody may have taken them a moment ago
      let taken = false
      for (const step of this.plan()) taken = (await this.#take(step)) || taken
      return taken
    })
  }

  async #take(step: Step): Promise<boolean> {
    switch (step.kind) {
      case 'generate':
        await this.#generate(step.purpose)
        return true
      case 'activate': {
        const since = new Date(this.#clock.now().getTime() - aliveMs)
        const waiting = await processesWithout(this.#database, step.key.kid, since)
        if (waiting > 0) {
          this.#logger.warn(
            { kid: step.key.kid, processes: waiting },
            'key.activation waits for processes to load the key',
          )
          return false
        }
        await this.#activate(step.key, step.at)
        return true
      }
      case 'retire': {
        const now = this.#clock.now()
        await this.#acts.perform(aboutKey('key.retired', step.key), (tx) => recordRetirement(tx, step.key.kid, now))
        this.#logger.info({ kid: step.key.kid }, 'key.retired')
        return true
      }
    }
  }

  async #generate(purpose: KeyPurpose): Promise<KeyRecord> {
    const times = { generatedAt: this.#clock.now(), activatedAt: null }
    const generated = await generateKey(this.#wrapper, purpose, this.#issuer, times)
    await this.#acts.perform(aboutKey('key.generated', generated.record), (tx) => recordKey(tx, generated))
    this.#logger.info({ kid: generated.record.kid, purpose }, 'key.generated')
    return generated.record
  }

  async #activate(key: KeyRecord, at: Date): Promise<void> {
    const predecessor = lastActivated(this.#keyring.history, key.purpose)?.kid
    const about = aboutKey('key.activated', key)
    const event: AuditEvent = { ...about, from: at.toISOString(), ...(predecessor !== undefined && { predecessor }) }
    await this.#acts.perform(event, (tx) => recordActivation(tx, key.purpose, key.kid, at))
    this.#logger.info({ kid: key.kid, purpose: key.purpose, from: at, predecessor }, 'key.activated')
  }
}

/** The same key wrapped by `to`, read back once; undefined if `from` does not hold it, because it was moved before. */
async function rewrapOne(
  from: KeyWrapper,
  to: KeyWrapper,
  wrapped: WrappedKey,
  context: WrapContext,
): Promise<WrappedKey | undefined> {
  const moved = await to.unwrap(wrapped, context).then(
    (plain) => plain.fill(0).length > 0,
    () => false,
  )
  if (moved) return undefined
  const plain = await from.unwrap(wrapped, context)
  try {
    const anew = await to.wrap(plain, context)
    const back = await to.unwrap(anew, context)
    if (Buffer.compare(plain, back) !== 0)
      throw new Error(`${anew.wrappingKey} gives back another key than it was given`)
    back.fill(0)
    return anew
  } finally {
    plain.fill(0)
  }
}

/** What every statement about a key says of it. */
export const aboutKey = <K extends string>(
  kind: K,
  key: Pick<KeyRecord, 'kid' | 'purpose' | 'publicKey' | 'wrappingKey' | 'wrappingVersion'>,
) => ({
  kind,
  sub: key.kid,
  purpose: key.purpose,
  x: publicJwk(key.publicKey).x,
  wrapping_key: key.wrappingKey,
  ...(key.wrappingVersion !== null && { wrapping_version: key.wrappingVersion }),
})
