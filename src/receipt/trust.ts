import { describeKey } from '../keyring/jwks.ts'
import type { Keyring } from '../keyring/keyring.ts'
import type { KeyRecord } from '../keyring/store.ts'
import type { LogTrust } from '../log/checkpoint.ts'
import { makeVerifierKey, parseVerifierKey, type VerifierKey } from '../log/note.ts'
import type { CheckpointOpener, TrustedKey, TrustMaterial } from './verify.ts'

/** The log and its keys as they are now, a rotation adds one, and the keys of the witnesses. */
export function logTrust(
  keys: () => readonly KeyRecord[],
  origin: string,
  witnessKeys: readonly VerifierKey[] = [],
): () => LogTrust {
  let latest: { vkeys: string; trust: LogTrust } | undefined
  return () => {
    const lines = vkeysOf(keys(), origin)
    const vkeys = lines.join()
    if (latest?.vkeys !== vkeys)
      latest = { vkeys, trust: { origin, vkeys: [...lines.map(parseVerifierKey), ...witnessKeys] } }
    return latest.trust
  }
}

export const keysOf = (keyring: Keyring, now: Date) => keyring.history.map((key) => describeKey(key, now))

export const unrevoked = (keyring: Keyring): KeyRecord[] => keyring.history.filter((key) => key.revokedAt === null)

export const vkeysOf = (keys: readonly KeyRecord[], origin: string): string[] =>
  keys.filter((key) => key.purpose === 'log').map((key) => makeVerifierKey(origin, key.publicKey))

/** The keyring as a verifier sees it: payload keys, each with the time in which it signed. */
export function trustKeyring(keyring: Keyring, issuer: string, openCheckpoint: CheckpointOpener): TrustMaterial {
  const trusted = (kid: string): TrustedKey | undefined => {
    const key = keyring.find(kid)
    if (key === undefined || key.record.purpose !== 'payload') return undefined
    const { activatedAt, retiringAt, revokedAt, revokedLeaf } = key.record
    return {
      kid,
      publicKey: key.publicKey,
      validFrom: activatedAt ?? undefined,
      validUntil: retiringAt ?? undefined,
      revoked: revokedAt !== null && revokedLeaf !== null ? { from: revokedAt, leafIndex: revokedLeaf } : undefined,
    }
  }
  const keys = () => keyring.history.flatMap((key) => trusted(key.kid) ?? [])
  return { issuer, keys, findKey: trusted, openCheckpoint }
}

/** All receipts of a batch carry one checkpoint, and those asked about are mostly recent: verify each signature once. */
export function remember(open: CheckpointOpener): CheckpointOpener {
  const most = 1000
  const opened = new Map<string, ReturnType<CheckpointOpener>>()
  return (note) => {
    const known = opened.get(note)
    if (known !== undefined) return known
    const checkpoint = open(note)
    if (opened.size >= most) for (const oldest of opened.keys()) if (opened.delete(oldest)) break
    opened.set(note, checkpoint)
    return checkpoint
  }
}
