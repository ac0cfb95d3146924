import { type Tx, textArray } from '../ports/database.ts'
import type { WrappedKey } from '../ports/key-wrapper.ts'
import type { GeneratedKey } from './keyring.ts'

export type KeyPurpose = 'payload' | 'log'

/** next: published, signs nothing yet · active: signs · retiring: published, verifies · retired: out of the JWKS,
 *  verifies old receipts, private half destroyed · revoked: vouches for nothing from `revokedAt` on. */
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
  /** Of the wrapping key, where the wrapper could tell. */
  readonly wrappingVersion: string | null
  readonly generatedAt: Date
  /** Signs from then on. May lie ahead. */
  readonly activatedAt: Date | null
  /** Signs no more from then on. May lie ahead: the moment its successor is activated. */
  readonly retiringAt: Date | null
  readonly retiredAt: Date | null
  readonly revokedAt: Date | null
  readonly revokedReason: string | null
  /** The leaf of its `key.revoked` statement. */
  readonly revokedLeaf: number | null
}

export type KeyRow = KeyRecord & { wrappedSeed: Uint8Array | null }

export function keyState(key: KeyRecord, now: Date): KeyState {
  if (key.revokedAt !== null) return 'revoked'
  if (key.retiredAt !== null) return 'retired'
  if (key.retiringAt !== null && key.retiringAt <= now) return 'retiring'
  return key.activatedAt !== null && key.activatedAt <= now ? 'active' : 'next'
}

export const selectKeys = `
  select kid, serial, purpose, public_key as "publicKey", wrapped_seed as "wrappedSeed",
         wrapping_key as "wrappingKey", wrapping_version as "wrappingVersion", generated_at as "generatedAt", activated_at as "activatedAt",
         retiring_at as "retiringAt", retired_at as "retiredAt", revoked_at as "revokedAt",
         revoked_reason as "revokedReason", revoked_leaf as "revokedLeaf"
    from keys
   order by generated_at, kid`

const insertKey = `
  insert into keys (kid, serial, purpose, public_key, wrapped_seed, wrapping_key, wrapping_version, generated_at, activated_at)
  values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

export const recordKey = (tx: Tx, { record, wrapped }: GeneratedKey): Promise<unknown> =>
  tx.query(insertKey, [
    record.kid,
    record.serial,
    record.purpose,
    record.publicKey,
    wrapped.blob,
    wrapped.wrappingKey,
    wrapped.version ?? null,
    record.generatedAt,
    record.activatedAt,
  ])

const endActivity = `
  update keys set retiring_at = $2
   where purpose = $1 and activated_at is not null and retiring_at is null and revoked_at is null`

const beginActivity = `update keys set activated_at = $2 where kid = $1 and activated_at is null and revoked_at is null`

/** Puts on record that `kid` signs from `at` on and its predecessor no more. */
export async function recordActivation(tx: Tx, purpose: KeyPurpose, kid: string, at: Date): Promise<void> {
  await tx.query(endActivity, [purpose, at])
  await tx.query(beginActivity, [kid, at])
}

const destroySeed = `update keys set retired_at = $2, wrapped_seed = null where kid = $1 and retired_at is null`

/** The public half stays; the wrapped private half is gone from here on. */
export const recordRetirement = (tx: Tx, kid: string, at: Date): Promise<unknown> => tx.query(destroySeed, [kid, at])

const revoke = `
  update keys set revoked_at = $2, revoked_reason = $3, revoked_leaf = $4, wrapped_seed = null
   where kid = $1 and revoked_at is null`

export const recordRevocation = (
  tx: Tx,
  kid: string,
  revocation: { from: Date; reason: string; leafIndex: number },
): Promise<unknown> => tx.query(revoke, [kid, revocation.from, revocation.reason, revocation.leafIndex])

const moveSeed = `
  update keys set wrapped_seed = $2, wrapping_key = $3, wrapping_version = $4
   where kid = $1 and wrapped_seed is not null`

export const recordWrapping = (tx: Tx, kid: string, { blob, wrappingKey, version }: WrappedKey): Promise<unknown> =>
  tx.query(moveSeed, [kid, blob, wrappingKey, version ?? null])

const reportAlive = `
  insert into processes (id, seen_at, kids) values ($1, $2, to_jsonb($3::text[]))
      on conflict (id) do update set seen_at = excluded.seen_at, kids = excluded.kids`

/** Says that this process lives and which keys it has. */
export const recordProcess = (tx: Tx, id: string, now: Date, kids: readonly string[]): Promise<unknown> =>
  tx.query(reportAlive, [id, now, textArray(kids)])

const forgetOne = `delete from processes where id = $1`

export const forgetProcess = (tx: Tx, id: string): Promise<unknown> => tx.query(forgetOne, [id])

const countWithout = `
  select count(*) as count from processes where seen_at > $1 and not kids @> to_jsonb($2::text)`

/** How many processes that were seen after `since` have not loaded the key. */
export async function processesWithout(tx: Tx, kid: string, since: Date): Promise<number> {
  const [row] = await tx.query<{ count: number }>(countWithout, [since, kid])
  return row?.count ?? 0
}
