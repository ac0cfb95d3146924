import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { openCheckpoint, signCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { decodeBundle, tileNode, tilePath } from '../../src/log/tile.ts'
import { formatProof, parseProof, type TlogProof, verifyProof } from '../../src/log/tlog-proof.ts'
import { hashLeaf, proveConsistency, proveInclusion, TreeEdge, verifyConsistency } from '../../src/log/tree.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { makeNoteKey } from './note-key.ts'
import { refusal } from './refusal.ts'

const origin = 'example.com/log'
const { signer, key } = makeNoteKey(origin, 1)
const trust = { origin, vkeys: [key] }

const entries = Array.from({ length: 11 }, (_, i) => hashLeaf(Buffer.from(`statement ${i}`)))
const { edge, prove } = TreeEdge.empty.append(entries.map(hashLeaf))
const note = signCheckpoint({ origin, treeSize: edge.treeSize, rootHash: edge.rootHash }, [signer])
const texts = entries.map((_, leafIndex) => formatProof({ leafIndex, proof: prove(leafIndex), checkpoint: note }))

describe('verifying a proof', () => {
  test('accepts each entry with its own proof, and with no other', () => {
    texts.forEach((text, leafIndex) => {
      entries.forEach((entry, other) => {
        const verdict = verifyProof(text, entry, trust)
        if (other === leafIndex) expect(verdict).toMatchObject({ ok: true, leafIndex, checkpoint: { treeSize: 11 } })
        else expect(verdict).toEqual({ ok: false, failed: 'inclusion' })
      })
    })
  })

  test('accepts the only entry of a tree, whose proof has no hash', () => {
    const alone = TreeEdge.empty.append([hashLeaf(Buffer.from('alone'))])
    const checkpoint = signCheckpoint({ origin, treeSize: 1, rootHash: alone.edge.rootHash }, [signer])
    const text = formatProof({ leafIndex: 0, proof: alone.prove(0), checkpoint })
    expect(verifyProof(text, Buffer.from('alone'), trust)).toMatchObject({ ok: true })
    expect(verifyProof(text, Buffer.from('other'), trust)).toEqual({ ok: false, failed: 'inclusion' })
  })

  test('says which part failed', () => {
    const [text, entry] = [texts[5] as string, entries[5] as Uint8Array]
    const failure = (changed: string, otherTrust = trust) => verifyProof(changed, entry, otherTrust)
    expect(failure(text.replace('@v1', '@v2'))).toEqual({ ok: false, failed: 'format', reason: 'malformed_proof' })
    expect(failure(text.replace('\n11\n', '\n12\n'))).toEqual({
      ok: false,
      failed: 'checkpoint',
      reason: 'invalid_signature',
    })
    expect(failure(text, { origin: 'example.com/other', vkeys: trust.vkeys })).toEqual({
      ok: false,
      failed: 'checkpoint',
      reason: 'wrong_origin',
    })
    expect(failure(text, { origin, vkeys: [] })).toEqual({
      ok: false,
      failed: 'checkpoint',
      reason: 'no_known_signature',
    })
    expect(failure(text.replace('index 5', 'index 4'))).toEqual({ ok: false, failed: 'inclusion' })
    expect(failure(text.replace('index 5', 'index 11'))).toEqual({ ok: false, failed: 'inclusion' })
  })

  test('refuses a proof with a hash more, a hash less, or two swapped', () => {
    const { proof } = parseProof(texts[5] as string)
    const lies = [[...proof, proof[0] as Uint8Array], proof.slice(1), proof.slice(0, -1), proof.toReversed(), []]
    for (const lie of lies) {
      const text = formatProof({ leafIndex: 5, proof: lie, checkpoint: note })
      expect(verifyProof(text, entries[5] as Uint8Array, trust)).toEqual({ ok: false, failed: 'inclusion' })
    }
  })

  test('refuses every changed byte of its text, and never throws', () => {
    const bytes = Buffer.from(texts[5] as string)
    for (let i = 0; i < bytes.length; i++) {
      for (const mask of [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80]) {
        const changed = Buffer.from(bytes.map((byte, at) => (at === i ? byte ^ mask : byte))).toString()
        expect(verifyProof(changed, entries[5] as Uint8Array, trust).ok, `byte ${i} xor ${mask}`).toBe(false)
      }
    }
  })

  test('refuses every part of its text', () => {
    const text = texts[5] as string
    for (let cut = 1; cut < text.length; cut++) {
      expect(verifyProof(text.slice(0, cut), entries[5] as Uint8Array, trust).ok).toBe(false)
      expect(verifyProof(text.slice(cut), entries[5] as Uint8Array, trust).ok).toBe(false)
    }
  })

  test('does not vouch for extra data', () => {
    const honest = { leafIndex: 5, proof: prove(5), checkpoint: note }
    for (const extra of [Buffer.from('salt'), Buffer.from('another salt')]) {
      const text = formatProof({ ...honest, extra })
      expect(parseProof(text).extra).toEqual(extra)
      expect(verifyProof(text, entries[5] as Uint8Array, trust)).toMatchObject({ ok: true })
    }
  })
})

describe('the text of a proof', () => {
  const hash = Buffer.alloc(32).toString('base64')

  test.each([
    ['nothing', ''],
    ['no empty line', 'c2sp.org/tlog-proof@v1\nindex 0\ncheckpoint\n'],
    ['a line before the first', '\nc2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n'],
    ['carriage returns', 'c2sp.org/tlog-proof@v1\r\nindex 0\r\n\ncheckpoint\n'],
    ['an index with a leading zero', 'c2sp.org/tlog-proof@v1\nindex 00\n\ncheckpoint\n'],
    ['an index beyond 2^53−1', 'c2sp.org/tlog-proof@v1\nindex 9007199254740992\n\ncheckpoint\n'],
    ['an index twice', 'c2sp.org/tlog-proof@v1\nindex 0\nindex 0\n\ncheckpoint\n'],
    ['an empty extra line', 'c2sp.org/tlog-proof@v1\nextra \nindex 0\n\ncheckpoint\n'],
    ['extra twice', 'c2sp.org/tlog-proof@v1\nextra AA==\nextra AA==\nindex 0\n\ncheckpoint\n'],
    ['extra after the index', 'c2sp.org/tlog-proof@v1\nindex 0\nextra AA==\n\ncheckpoint\n'],
    ['a hash of 31 bytes', `c2sp.org/tlog-proof@v1\nindex 0\n${Buffer.alloc(31).toString('base64')}\n\ncheckpoint\n`],
    ['a hash without padding', `c2sp.org/tlog-proof@v1\nindex 0\n${hash.slice(0, -1)}\n\ncheckpoint\n`],
    ['more hashes than any tree needs', `c2sp.org/tlog-proof@v1\nindex 0\n${`${hash}\n`.repeat(54)}\ncheckpoint\n`],
    ['a million bytes', `c2sp.org/tlog-proof@v1\nindex 0\n\n${'x'.repeat(1_000_000)}\n`],
  ])('with %s is refused', (_, text) => {
    expect(refusal(() => parseProof(text))).toBe('malformed_proof')
  })

  test('that could not have been made by a log is refused when it is read, whoever wrote it', () => {
    const honest: TlogProof = { leafIndex: 0, proof: [], checkpoint: 'checkpoint\n' }
    const wrong: TlogProof[] = [
      { ...honest, leafIndex: -1 },
      { ...honest, leafIndex: 0.5 },
      { ...honest, proof: [new Uint8Array(31)] },
      { ...honest, extra: new Uint8Array() },
    ]
    for (const bad of wrong) expect(refusal(() => parseProof(formatProof(bad)))).toBe('malformed_proof')
  })
})

describe.skipIf(!vectorsPresent)('published vectors', () => {
  test('tlog-proofs.json: proofs are written, read and refused as published', () => {
    const { valid, invalid } = JSON.parse(readVector('tlog/tlog-proofs.json')) as ProofVectors
    for (const { name, index, hashes, extra, checkpoint, proof: text } of valid) {
      const proof = {
        leafIndex: index,
        proof: hashes.map((hash) => Buffer.from(hash, 'base64')),
        checkpoint,
        ...(extra !== null && { extra: Buffer.from(extra, 'base64') }),
      }
      expect(formatProof(proof), name).toBe(text)
      expect(parseProof(text), name).toEqual(proof)
    }
    for (const { name, proof } of invalid)
      expect(
        refusal(() => parseProof(proof)),
        name,
      ).toBe('malformed_proof')
  })

  test('the published log: every entry is proved in, and every checkpoint consistent with, every later one', () => {
    const published = {
      origin: 'example.com/log/testdata',
      vkeys: [parseVerifierKey(readVector('tlog/log.vkey').trim())],
    }
    const publishedEntries = decodeBundle(readFileSync(vectorPath(`tlog/log/${tilePath('entries', 0, 15)}`))) ?? []
    expect(publishedEntries).toHaveLength(15)
    for (let toSize = 1; toSize <= 15; toSize++) {
      const tile = readFileSync(vectorPath(`tlog/log/${tilePath(0, 0, toSize)}`))
      const node = tileNode(() => tile)
      const checkpoint = readVector(`tlog/log/checkpoint.${toSize}`)
      const { rootHash: toRoot } = openCheckpoint(checkpoint, published)
      for (let leafIndex = 0; leafIndex < toSize; leafIndex++) {
        const text = formatProof({ leafIndex, proof: proveInclusion(leafIndex, toSize, node), checkpoint })
        const entry = publishedEntries[leafIndex] as Uint8Array
        expect(verifyProof(text, entry, published)).toMatchObject({ ok: true, leafIndex })

        const fromSize = leafIndex + 1
        const { rootHash: fromRoot } = openCheckpoint(readVector(`tlog/log/checkpoint.${fromSize}`), published)
        const proof = proveConsistency(fromSize, toSize, node)
        expect(verifyConsistency({ fromSize, toSize, fromRoot, toRoot, proof })).toBe(true)
      }
    }
  })
})

interface ProofVectors {
  valid: {
    name: string
    index: number
    hashes: string[]
    extra: string | null
    checkpoint: string
    proof: string
  }[]
  invalid: { name: string; proof: string }[]
}

function readVector(path: string): string {
  return readFileSync(vectorPath(path), 'utf8')
}
