import { DataKeys, deploymentVault } from '../../src/keyring/data-keys.ts'
import { importPublicKey } from '../../src/keyring/jwk.ts'
import { type KeyRow, selectKeys } from '../../src/keyring/store.ts'
import { type CheckParts, type CheckReport, checkLog } from '../../src/log/check.ts'
import { makeVerifierKey, parseVerifierKey } from '../../src/log/note.ts'
import { newestSize } from '../../src/log/published.ts'
import { findHead } from '../../src/log/store.ts'
import { openObjects, openWrapper, type TestRelay } from './relay.ts'

/** `countersign log check`, in this process, of a relay that may run or not. */
export async function checkTestLog(
  { database: { database }, folder }: Pick<TestRelay, 'database' | 'folder'>,
  { kept = [], from = 'everything' }: { kept?: CheckParts['kept']; from?: 'everything' | 'database' | 'objects' } = {},
): Promise<CheckReport> {
  const store = await openObjects(folder)
  const treeSize = from === 'database' ? undefined : await newestSize(store)
  const published = treeSize === undefined ? undefined : { store, treeSize }
  const wrapper = await openWrapper(folder)
  return database.transaction(async (tx) => {
    tx.send('set transaction isolation level repeatable read read only')
    const head = await findHead(tx)
    if (head === undefined) throw new Error('the database holds no log')
    const keys = await tx.query<KeyRow>(selectKeys)
    const vkeys = keys
      .filter(({ purpose }) => purpose === 'log')
      .map(({ publicKey }) => parseVerifierKey(makeVerifierKey(head.origin, publicKey)))
    const publicKeys = new Map(keys.map(({ kid, publicKey }) => [kid, importPublicKey(publicKey)]))
    const dataKeys = new DataKeys(wrapper, head.issuer)
    const rows = {
      tx,
      head,
      findDataKey: (tenantId: string | null) => dataKeys.get(tx, tenantId ?? deploymentVault).catch(() => undefined),
      findPublicKey: (kid: string) => publicKeys.get(kid),
    }
    const trust = { origin: head.origin, vkeys }
    return checkLog({ trust, database: from === 'objects' ? undefined : rows, published, kept, onProgress: () => {} })
  })
}
