import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { beforeAll, describe, expect, test } from 'vitest'
import { publicJwk, rawPublicKey, thumbprint } from '../../src/keyring/jwk.ts'
import { receiptHeader } from '../../src/keyring/jws.ts'
import { jwsSigningInput } from '../../src/keyring/signing-input.ts'
import { signCheckpoint } from '../../src/log/checkpoint.ts'
import { formatProof } from '../../src/log/tlog-proof.ts'
import { hashLeaf, TreeEdge } from '../../src/log/tree.ts'
import { canonicalJson } from '../../src/message/canonical.ts'
import { sha256 } from '../../src/message/digest.ts'
import { type IssueReceipt, issuing, type ReceiptDraft } from '../../src/receipt/issue.ts'
import { type TrustMaterial, trustLog, verifyEvidence } from '../../src/receipt/verify.ts'
import { makeNoteKey } from '../log/note-key.ts'

const issuer = 'http://relay.test'
const origin = 'relay.test/log'
const { signer, key: logKey } = makeNoteKey(origin, 1)
const { privateKey, publicKey } = generateKeyPairSync('ed25519')
const kid = thumbprint(publicJwk(rawPublicKey(privateKey)))
const key = { kid, publicKey, validFrom: new Date(0), validUntil: undefined, revoked: undefined }
const trust: TrustMaterial = {
  issuer,
  keys: () => [key],
  findKey: (asked) => (asked === kid ? key : undefined),
  openCheckpoint: trustLog({ origin, vkeys: [logKey] }),
}

const batchSize = 20
const batches = makeLog(4)

/** Draft and place of every message of a log, batch by batch. */
function makeLog(count: number) {
  let edge = TreeEdge.empty
  return Array.from({ length: count }, (_, batch) => {
    const first = edge.treeSize
    const statements = Array.from({ length: batchSize }, (_, i) => {
      const sub = `msg_${batch}x${i}`
      return { sub, bytes: canonicalJson({ v: 1, kind: 'message.accepted', iss: issuer, iat: 1000, sub }) }
    })
    const growth = edge.append(statements.map(({ bytes }) => hashLeaf(sha256(bytes))))
    edge = growth.edge
    const checkpoint = signCheckpoint({ origin, treeSize: edge.treeSize, rootHash: edge.rootHash }, [signer])
    return statements.map(({ sub, bytes }, i) => {
      const leafIndex = first + i
      return {
        draft: draftOf(sub, bytes, privateKey),
        place: { leafIndex, proof: growth.prove(leafIndex), checkpoint },
      }
    })
  })
}

function draftOf(message: string, statement: Uint8Array, by: KeyObject): ReceiptDraft {
  const header = receiptHeader(kid)
  const payload = Buffer.from(statement).toString('base64url')
  const signature = sign(null, jwsSigningInput(header, payload), by).toString('base64url')
  return { message, protected: header, payload, signature, sound: Promise.resolve(true) }
}

const pick = (batch: number, i: number) => batches[batch]?.[i] as ReturnType<typeof makeLog>[number][number]

describe('receipts, issued one after the other', () => {
  test.each([
    ['in the order of the log', (at: number) => at],
    ['in the reverse order', (at: number) => batches.length * batchSize - 1 - at],
    ['in turn from all batches', (at: number) => (at % batches.length) * batchSize + Math.floor(at / batches.length)],
  ])('%s, are as they would be alone, and a stranger finds them valid', async (_order, placeOf) => {
    const issueReceipt = issuing(trust)
    for (let at = 0; at < batches.length * batchSize; at++) {
      const { draft, place } = pick(Math.floor(placeOf(at) / batchSize), placeOf(at) % batchSize)
      const { sound: _, ...signed } = draft
      const receipt = await issueReceipt(draft, place)
      expect(receipt).toEqual({ ...signed, header: { 'tlog-proof': formatProof(place) } })
      expect(verifyEvidence({ receipt: structuredClone(receipt) as never }, trust)).toMatchObject({ verdict: 'valid' })
    }
  })

  describe('and one that does not hold never leaves, whatever was proven before it', () => {
    let issueReceipt: IssueReceipt
    beforeAll(async () => {
      issueReceipt = issuing(trust)
      for (const { draft, place } of batches.flat()) await issueReceipt(draft, place)
    })

    const { draft, place } = pick(3, 10)
    const other = pick(3, 11)
    const swapped = place.proof.with(0, place.proof[1] as Uint8Array).with(1, place.proof[0] as Uint8Array)
    test.each([
      ['the proof of a neighbour', draft, other.place],
      ['the index of a neighbour', draft, { ...place, leafIndex: other.place.leafIndex }],
      ['the checkpoint of another batch', draft, { ...place, checkpoint: pick(2, 0).place.checkpoint }],
      ['a hash less', draft, { ...place, proof: place.proof.slice(1) }],
      ['a hash more', draft, { ...place, proof: [...place.proof, hashLeaf(Buffer.of())] }],
      ['another hash', draft, { ...place, proof: place.proof.with(-1, hashLeaf(Buffer.of())) }],
      ['two hashes swapped', draft, { ...place, proof: swapped }],
      ['a hash of another length', draft, { ...place, proof: place.proof.with(0, Buffer.alloc(31)) }],
      ['a signature that does not hold', { ...draft, sound: Promise.resolve(false) }, place],
      ['another subject', { ...draft, message: 'msg_other' } as ReceiptDraft, place],
    ])('%s', async (_what, draft, place) => {
      await expect(issueReceipt(draft, place)).rejects.toThrow(/does not verify/)
      const { draft: next, place: itsPlace } = other
      await expect(issueReceipt(next, itsPlace)).resolves.toMatchObject({ payload: next.payload })
    })
  })
})
