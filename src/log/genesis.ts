import type { DataKeys } from '../keyring/data-keys.ts'
import { deploymentVault, recordDataKey } from '../keyring/data-keys.ts'
import { publicJwk } from '../keyring/jwk.ts'
import { generateKey, Keyring, recordKey } from '../keyring/keyring.ts'
import type { Clock } from '../ports/clock.ts'
import type { Tx } from '../ports/database.ts'
import type { KeyWrapper } from '../ports/key-wrapper.ts'
import { signCheckpoint } from './checkpoint.ts'
import { makeVerifierKey, type NoteSigner, parseVerifierKey } from './note.ts'
import { type AuditEvent, entryOf, state, statementContext } from './statement.ts'
import { findHead, type HeadRow, insertHead, insertStatements } from './store.ts'
import { hashLeaf, TreeEdge } from './tree.ts'

/** The name of the log in every checkpoint: the public URL without its scheme, plus `/log`. */
export const originOf = (issuer: string): string => `${issuer.replace(/^https?:\/\//, '')}/log`

/** The log key as a signer of notes under the log's name. */
export function logSigner(keyring: Keyring, origin: string): NoteSigner {
  const { publicKey, sign } = keyring.logKey
  const { name, keyId } = parseVerifierKey(makeVerifierKey(origin, publicKey))
  return { name, keyId, sign }
}

/**
 * Finds the head of the log, or creates the log: its keys, the deployment's data key and the leaves that say so, with
 * `log.created` at index 0, all in the transaction given, which must keep others from doing the same.
 */
export async function findOrCreateLog(
  tx: Tx,
  parts: { wrapper: KeyWrapper; dataKeys: DataKeys; clock: Clock; issuer: string },
): Promise<{ head: Omit<HeadRow, 'configuration'>; created: boolean }> {
  const existing = await findHead(tx)
  if (existing !== undefined) return { head: existing, created: false }

  const { wrapper, dataKeys, clock, issuer } = parts
  const now = clock.now()
  const origin = originOf(issuer)
  const dataKey = await dataKeys.generate(deploymentVault)
  await recordDataKey(tx, deploymentVault, dataKey, now)
  const payloadKey = await generateKey(wrapper, 'payload', issuer, now)
  const logKey = await generateKey(wrapper, 'log', issuer, now)
  for (const key of [payloadKey, logKey]) await recordKey(tx, key)

  const vkey = makeVerifierKey(origin, logKey.record.publicKey)
  const events: AuditEvent[] = [{ kind: 'log.created', sub: origin, vkey }]
  for (const { record } of [payloadKey, logKey]) {
    const { x } = publicJwk(record.publicKey)
    const facts = { sub: record.kid, purpose: record.purpose, x, wrapping_key: record.wrappingKey }
    events.push({ kind: 'key.generated', ...facts }, { kind: 'key.activated', ...facts })
  }
  const vault = await dataKeys.get(tx, deploymentVault)
  const rows = events.map((event, leafIndex) => {
    const statement = state(issuer, event, now)
    const sealed = vault.seal(statement, statementContext(null))
    return { leafIndex, tenantId: null, entry: entryOf(statement), sealed, kid: null, signature: null }
  })
  await insertStatements(tx, rows)
  const { edge } = TreeEdge.empty.append(rows.map((row) => hashLeaf(row.entry)))
  const { treeSize, rootHash } = edge
  const keyring = await Keyring.open(tx, wrapper, issuer)
  const checkpoint = signCheckpoint({ origin, treeSize, rootHash }, [logSigner(keyring, origin)])
  const head = { issuer, origin, treeSize, rootHash, checkpoint }
  await insertHead(tx, head)
  return { head, created: true }
}
