import { generateKeyPairSync, hash } from 'node:crypto'
import { createRequire } from 'node:module'
import { expect, test } from 'vitest'
import { signCheckpoint } from '../../src/log/checkpoint.ts'
import { makeNoteSigner } from '../../src/log/note.ts'
import { hashLeaf, TreeEdge } from '../../src/log/tree.ts'

// Sigstore's client verifies Rekor's log, which has our formats; it has never heard of ours. The function is not part
// of its public entry point, so it is required by path.
const { verifyTLogInclusion } = createRequire(import.meta.url)('@sigstore/verify/dist/tlog') as {
  verifyTLogInclusion(entry: unknown, logs: readonly unknown[]): void
}

const origin = 'localhost:8080/log'
const { privateKey, publicKey } = generateKeyPairSync('ed25519')
const signer = makeNoteSigner(origin, privateKey)
const entries = Array.from({ length: 300 }, (_, i) => hash('sha256', `statement ${i}`, 'buffer'))
const { edge, prove } = TreeEdge.empty.append(entries.map(hashLeaf))
const checkpoint = signCheckpoint({ origin, treeSize: edge.treeSize, rootHash: edge.rootHash }, [signer])

// Sigstore looks a log up by the key id in the checkpoint: the first four bytes of what it calls logID.
const sigstoreLog = { logID: Buffer.from(signer.keyId), publicKey, baseURL: `https://${origin}` }

const verifyEntry = (leafIndex: number, entry: Uint8Array, note = checkpoint) => {
  const hashes = prove(leafIndex)
  const { treeSize, rootHash } = edge
  const inclusionProof = { logIndex: String(leafIndex), treeSize, rootHash, hashes, checkpoint: { envelope: note } }
  verifyTLogInclusion({ canonicalizedBody: entry, logIndex: String(leafIndex), inclusionProof }, [sigstoreLog])
}

const inclusionError = expect.objectContaining({ code: 'TLOG_INCLUSION_PROOF_ERROR' })

test('sigstore accepts our checkpoint and inclusion proof for every leaf of a tree of 300', () => {
  entries.forEach((entry, leafIndex) => {
    verifyEntry(leafIndex, entry)
  })
})

test('sigstore refuses a wrong leaf, and a checkpoint of another size', () => {
  expect(() => verifyEntry(7, entries[8] as Uint8Array)).toThrow(inclusionError)
  expect(() => verifyEntry(7, entries[7] as Uint8Array, checkpoint.replace('\n300\n', '\n299\n'))).toThrow(
    inclusionError,
  )
})
