import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { formatCheckpoint, openCheckpoint, parseCheckpoint, signCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey, signNote } from '../../src/log/note.ts'
import { decodeBundle, tilePath } from '../../src/log/tile.ts'
import { emptyRoot, hashLeaf, TreeEdge, verifyConsistency } from '../../src/log/tree.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { makeCosigner, makeNoteKey } from './note-key.ts'
import { refusal } from './refusal.ts'

const origin = 'example.com/log'
const log = makeNoteKey(origin, 1)
const checkpoint = { origin, treeSize: 20_852_163, rootHash: hashLeaf(Buffer.from('root')) }
const root = Buffer.from(checkpoint.rootHash).toString('base64')

describe('the text of a checkpoint', () => {
  test('is three lines, and is read back', () => {
    const text = formatCheckpoint(checkpoint)
    expect(text).toBe(`example.com/log\n20852163\n${root}\n`)
    expect(parseCheckpoint(text)).toEqual({ ...checkpoint, extensions: [] })
  })

  test('states the empty tree and the largest', () => {
    for (const treeSize of [0, 2 ** 53 - 1]) {
      expect(parseCheckpoint(formatCheckpoint({ ...checkpoint, treeSize })).treeSize).toBe(treeSize)
    }
  })

  test('may go on with extension lines', () => {
    expect(parseCheckpoint(`log\n1\n${root}\none\ntwo words\n`).extensions).toEqual(['one', 'two words'])
  })

  test.each([
    ['nothing', ''],
    ['two lines', 'log\n1\n'],
    ['no origin', `\n1\n${root}\n`],
    ['no last newline', `log\n1\n${root}`],
    ['a size with a leading zero', `log\n01\n${root}\n`],
    ['a negative size', `log\n-1\n${root}\n`],
    ['a size with a sign', `log\n+1\n${root}\n`],
    ['a size in hexadecimal', `log\n0x1\n${root}\n`],
    ['a size with an exponent', `log\n1e3\n${root}\n`],
    ['a size with a space', `log\n1 \n${root}\n`],
    ['no size', `log\n\n${root}\n`],
    ['a size beyond 2^53−1', `log\n9007199254740992\n${root}\n`],
    ['a root of 31 bytes', `log\n1\n${Buffer.alloc(31).toString('base64')}\n`],
    ['a root of 33 bytes', `log\n1\n${Buffer.alloc(33).toString('base64')}\n`],
    ['a root without padding', `log\n1\n${root.slice(0, -1)}\n`],
    ['a root with stray bits', `log\n1\n${'A'.repeat(42)}B=\n`],
    ['carriage returns', `log\r\n1\r\n${root}\r\n`],
    ['an empty extension line', `log\n1\n${root}\n\n`],
  ])('with %s is refused', (_, text) => {
    expect(refusal(() => parseCheckpoint(text))).toBe('malformed_checkpoint')
  })

  test('is not written where it could not be read back', () => {
    const wrong = [
      { ...checkpoint, origin: '' },
      { ...checkpoint, origin: `log\n1\n${root}` },
      { ...checkpoint, treeSize: -1 },
      { ...checkpoint, treeSize: 0.5 },
      { ...checkpoint, treeSize: 2 ** 53 },
      { ...checkpoint, treeSize: Number.NaN },
      { ...checkpoint, rootHash: new Uint8Array(31) },
    ]
    for (const bad of wrong) expect(refusal(() => formatCheckpoint(bad))).toBe('malformed_checkpoint')
  })
})

describe('a signed checkpoint', () => {
  test('is opened with the key of the log', () => {
    const opened = openCheckpoint(signCheckpoint(checkpoint, [log.signer]), { origin, vkeys: [log.key] })
    expect(opened).toMatchObject({ ...checkpoint, extensions: [] })
    expect(opened.verified.map(({ key }) => key)).toEqual([log.key])
  })

  test('is opened with either key of an overlap', () => {
    const next = makeNoteKey(origin, 2)
    const note = signCheckpoint(checkpoint, [log.signer, next.signer])
    for (const { key } of [log, next]) expect(openCheckpoint(note, { origin, vkeys: [key] }).treeSize).toBe(20_852_163)
  })

  test('of another log is refused, though a key we know signed it', () => {
    const other = { ...checkpoint, origin: 'example.com/other' }
    const note = signCheckpoint(other, [log.signer])
    expect(refusal(() => openCheckpoint(note, { origin, vkeys: [log.key] }))).toBe('wrong_origin')
  })

  test('that only a witness signed is refused', () => {
    const witness = makeNoteKey('example.com/witness', 3)
    const vkeys = [log.key, witness.key]
    const note = signCheckpoint(checkpoint, [witness.signer])
    expect(refusal(() => openCheckpoint(note, { origin, vkeys }))).toBe('no_known_signature')
    const both = signCheckpoint(checkpoint, [log.signer, witness.signer])
    expect(openCheckpoint(both, { origin, vkeys }).verified).toHaveLength(2)
  })

  test('that the log only cosigned is refused: a log signs with type 0x01', () => {
    const cosigner = makeCosigner(origin, 4)
    const note = signCheckpoint(checkpoint, [cosigner.at(1_679_315_147n)])
    expect(refusal(() => openCheckpoint(note, { origin, vkeys: [cosigner.key] }))).toBe('no_known_signature')
  })

  test('is refused where any byte was changed, and with nothing but a NoteError', () => {
    const note = Buffer.from(signCheckpoint(checkpoint, [log.signer]))
    for (let i = 0; i < note.length; i++) {
      for (const mask of [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80]) {
        const changed = Buffer.from(note.map((byte, at) => (at === i ? byte ^ mask : byte)))
        expect(
          refusal(() => openCheckpoint(changed, { origin, vkeys: [log.key] })),
          `byte ${i}`,
        ).toBeDefined()
      }
    }
  })

  test('is refused where the signed text is no checkpoint', () => {
    const note = signNote('not a checkpoint\n', [log.signer])
    expect(refusal(() => openCheckpoint(note, { origin, vkeys: [log.key] }))).toBe('malformed_checkpoint')
  })
})

describe.skipIf(!vectorsPresent)('published vectors', () => {
  // Where the published parser takes what ours refuses.
  const stricter = {
    'three lines': 'the root is no SHA-256 hash',
    'another origin': 'the root is no SHA-256 hash',
    'an extension line': 'the root is no SHA-256 hash',
    'several extension lines': 'the root is no SHA-256 hash',
    'trailing newlines': 'the root is no SHA-256 hash, and extension lines must not be empty',
  }

  test('checkpoints.json: what must be refused is, and what is accepted there is with a root of 32 bytes', () => {
    const { valid, invalid } = JSON.parse(readVector('tlog/checkpoints.json')) as CheckpointVectors
    const withOurRoot = (text: string) => valid.reduce((changed, vector) => changed.replace(vector.root, root), text)
    for (const { name, text } of invalid) {
      expect(
        refusal(() => parseCheckpoint(text)),
        name,
      ).toBe('malformed_checkpoint')
      expect(
        refusal(() => parseCheckpoint(withOurRoot(text))),
        name,
      ).toBe('malformed_checkpoint')
    }
    expect(valid.map(({ name }) => name)).toEqual(Object.keys(stricter))
    for (const vector of valid) {
      expect(
        refusal(() => parseCheckpoint(vector.text)),
        vector.name,
      ).toBe('malformed_checkpoint')
      const repaired = withOurRoot(vector.text)
      if (vector.name === 'trailing newlines') {
        expect(refusal(() => parseCheckpoint(repaired))).toBe('malformed_checkpoint')
        continue
      }
      const { extensions, ...parsed } = parseCheckpoint(repaired)
      expect(parsed).toEqual({ origin: vector.origin, treeSize: vector.size, rootHash: checkpoint.rootHash })
      expect(extensions.map((line) => `${line}\n`).join('')).toBe(vector.extension)
    }
  })

  test('the published log: all sixteen checkpoints open and state the roots of its entries', () => {
    const trust = {
      origin: 'example.com/log/testdata',
      vkeys: [parseVerifierKey(readVector('tlog/log.vkey').trim())],
    }
    expect(openCheckpoint(readVector('tlog/log/checkpoint.0'), trust)).toMatchObject({
      treeSize: 0,
      rootHash: emptyRoot,
    })
    const { leafHashes } = readPublishedLog()
    let edge = TreeEdge.empty
    for (let treeSize = 1; treeSize <= 15; treeSize++) {
      edge = edge.append(leafHashes.slice(treeSize - 1, treeSize)).edge
      const opened = openCheckpoint(readVector(`tlog/log/checkpoint.${treeSize}`), trust)
      expect(opened).toMatchObject({ treeSize, rootHash: edge.rootHash })
    }
    expect(openCheckpoint(readVector('tlog/log/checkpoint'), trust)).toMatchObject({ treeSize: 15 })
  })

  test('consistency.json: the newer checkpoint extends the older', () => {
    const vector = JSON.parse(readVector('tlog/consistency.json')) as ConsistencyVectors
    const trust = { origin: vector.origin, vkeys: [parseVerifierKey(vector.logVkey)] }
    const older = openCheckpoint(vector.older.checkpoint, trust)
    const newer = openCheckpoint(vector.newer.checkpoint, trust)
    const claim = {
      fromSize: older.treeSize,
      toSize: newer.treeSize,
      fromRoot: older.rootHash,
      toRoot: newer.rootHash,
      proof: vector.proof.map((hash) => Buffer.from(hash, 'base64')),
    }
    expect(verifyConsistency(claim)).toBe(true)
    expect(verifyConsistency({ ...claim, fromRoot: newer.rootHash, toRoot: older.rootHash })).toBe(false)
  })
})

interface CheckpointVectors {
  valid: { name: string; text: string; origin: string; size: number; root: string; extension: string }[]
  invalid: { name: string; text: string }[]
}

interface ConsistencyVectors {
  origin: string
  logVkey: string
  older: { checkpoint: string }
  newer: { checkpoint: string }
  proof: string[]
}

function readVector(path: string): string {
  return readFileSync(vectorPath(path), 'utf8')
}

function readPublishedLog() {
  const entries = decodeBundle(readFileSync(vectorPath(`tlog/log/${tilePath('entries', 0, 15)}`))) ?? []
  return { leafHashes: entries.map(hashLeaf) }
}
