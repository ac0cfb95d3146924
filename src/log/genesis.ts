import type { DataKeys } from '../keyring/data-keys.ts'
import { deploymentVault, recordDataKey } from '../keyring/data-keys.ts'
import { generateKey, Keyring } from '../keyring/keyring.ts'
import { recordKey } from '../keyring/store.ts'
import type { Clock } from '../ports/clock.ts'
import type { Transaction } from '../ports/database.ts'
import type { KeyWrapper } from '../ports/key-wrapper.ts'
import type { Logger } from '../ports/logger.ts'
import { type CheckpointSigner, signCheckpoint } from './checkpoint.ts'
import { makeNoteSigner, makeVerifierKey, type NoteSigner } from './note.ts'
import { makePartition } from './partitions.ts'
import { leastRetention, statementExpiry } from './retention.ts'
import { aboutKey } from './rotation.ts'
import { type AuditEvent, entryOf, state, statementContext } from './statement.ts'
import { findHead, type HeadRow, insertHead, insertStatements } from './store.ts'
import { hashLeaf, TreeEdge } from './tree.ts'

/** The name of the log in every checkpoint: the public URL without its scheme, plus `/log`. */
export const originOf = (issuer: string): string => `${issuer.replace(/^https?:\/\//, '')}/log`

/** Signs checkpoints with every log key that is active or in its overlap, so a verifier with either key is content. */
export function checkpointSigner(keyring: Keyring, origin: string): CheckpointSigner {
  const signers = new Map<string, NoteSigner>()
  return (checkpoint) => {
    const now = keyring.logSigners().map((key) => {
      const known = signers.get(key.kid) ?? makeNoteSigner(origin, key.key)
      signers.set(key.kid, known)
      return known
    })
    if (now.length === 0) throw new Error('no log key is active, so no checkpoint can be signed')
    return signCheckpoint(checkpoint, now)
  }
}

/**
 * Finds the head of the log, or creates the log: its keys, the deployment's data key and the leaves that say so, with
 * `log.created` at index 0, all in the transaction given, which must keep others from doing the same.
 */
export async function findOrCreateLog(
  tx: Transaction,
  parts: { wrapper: KeyWrapper; dataKeys: DataKeys; clock: Clock; logger: Logger; issuer: string },
): Promise<{ head: Omit<HeadRow, 'configuration'>; created: boolean }> {
  const existing = await findHead(tx)
  if (existing !== undefined) return { head: existing, created: false }

  const { wrapper, dataKeys, clock, logger, issuer } = parts
  const now = clock.now()
  const origin = originOf(issuer)
  const dataKey = await dataKeys.generate(deploymentVault)
  await recordDataKey(tx, deploymentVault, dataKey, now)
  const times = { generatedAt: now, activatedAt: now } // nobody has an older key to trust
  const payloadKey = await generateKey(wrapper, 'payload', issuer, times)
  const logKey = await generateKey(wrapper, 'log', issuer, times)
  for (const key of [payloadKey, logKey]) await recordKey(tx, key)

  const vkey = makeVerifierKey(origin, logKey.record.publicKey)
  const events: AuditEvent[] = [{ kind: 'log.created', sub: origin, vkey }]
  for (const { record } of [payloadKey, logKey]) {
    events.push(aboutKey('key.generated', record), { ...aboutKey('key.activated', record), from: now.toISOString() })
  }
  const vault = await dataKeys.get(tx, deploymentVault)
  const expiresAt = statementExpiry(now, leastRetention)
  const rows = events.map((event, leafIndex) => {
    const { statement, ...filing } = state(issuer, event, now)
    const sealed = vault.seal(statement, statementContext(null))
    return { leafIndex, ...filing, entry: entryOf(statement), sealed, kid: null, signature: null, expiresAt }
  })
  await makePartition(tx, 'statements', expiresAt)
  insertStatements(tx, rows)
  const { edge } = TreeEdge.empty.append(rows.map((row) => hashLeaf(row.entry)))
  const { treeSize, rootHash } = edge
  const keyring = await Keyring.open(tx, { wrapper, issuer, clock, logger })
  const checkpoint = checkpointSigner(keyring, origin)({ origin, treeSize, rootHash })
  await keyring.close()
  const head = { issuer, origin, treeSize, rootHash, checkpoint }
  await insertHead(tx, head)
  return { head, created: true }
}
