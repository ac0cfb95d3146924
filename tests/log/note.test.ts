import { createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { readFileSync } from 'node:fs'
import * as noble from '@noble/ed25519'
import { describe, expect, test } from 'vitest'
import {
  decodeBase64,
  makeNoteSigner,
  makeVerifierKey,
  type NoteSignature,
  openNote,
  parseVerifierKey,
  signNote,
} from '../../src/log/note.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { makeCosigner, makeNoteKey } from './note-key.ts'
import { refusal } from './refusal.ts'

const text = 'A text,\n\nwith an empty line – and a dash.\n'
const alice = makeNoteKey('example.com/alice', 1)
const bob = makeNoteKey('example.com/bob', 2)

describe('signing and opening', () => {
  test('a note is opened with the keys that signed it, and noble agrees on the signature', async () => {
    const note = signNote(text, [alice.signer, bob.signer])
    const opened = openNote(note, [alice.key, bob.key])
    expect(opened.text).toBe(text)
    expect(opened.verified.map(({ key }) => key)).toEqual([alice.key, bob.key])
    expect(opened.unverified).toEqual([])
    const [{ signature }] = opened.verified
    expect(await noble.verifyAsync(signature, Buffer.from(text), alice.publicKey)).toBe(true)
  })

  test('either key of an overlap is enough: one name, two key ids', () => {
    const next = makeNoteKey('example.com/alice', 3)
    const note = signNote(text, [alice.signer, next.signer])
    for (const { key } of [alice, next]) {
      const { verified, unverified } = openNote(note, [key])
      expect(verified.map((signature) => signature.key)).toEqual([key])
      expect(unverified).toHaveLength(1)
    }
  })

  test('bytes are opened like the text they spell', () => {
    const note = signNote(text, [alice.signer])
    expect(openNote(Buffer.from(note), [alice.key])).toEqual(openNote(note, [alice.key]))
  })

  test('a line of another key, though of the same name or the same id, is left unverified', () => {
    const note = signNote(text, [
      alice.signer,
      { ...bob.signer, name: alice.key.name },
      { ...bob.signer, keyId: alice.key.keyId },
    ])
    expect(openNote(note, [alice.key]).unverified.map(nameAndId)).toEqual([
      `${alice.key.name}+${Buffer.from(bob.key.keyId).toString('hex')}`,
      `${bob.key.name}+${Buffer.from(alice.key.keyId).toString('hex')}`,
    ])
  })

  test('a second line of a known key must verify as well', () => {
    const liar = { ...alice.signer, sign: () => new Uint8Array(64) }
    expect(refusal(() => openNote(signNote(text, [alice.signer, liar]), [alice.key]))).toBe('invalid_signature')
  })

  test('a signature of another length is refused', () => {
    for (const length of [1, 63, 65]) {
      const liar = { ...alice.signer, sign: () => new Uint8Array(length) }
      expect(refusal(() => openNote(signNote(text, [liar]), [alice.key]))).toBe('invalid_signature')
    }
  })

  test('at most 100 signatures and a million bytes are read', () => {
    const others = Array.from({ length: 99 }, (_, i) => ({ ...bob.signer, name: `other-${i}` }))
    expect(openNote(signNote(text, [...others, alice.signer]), [alice.key]).unverified).toHaveLength(99)
    expect(refusal(() => openNote(signNote(text, [...others, bob.signer, alice.signer]), [alice.key]))).toBe(
      'malformed_note',
    )
    const room = 1_000_000 - signNote('\n', [alice.signer]).length - 2 // the dash has three bytes
    expect(openNote(signNote(`${'x'.repeat(room)}\n`, [alice.signer]), [alice.key]).text).toHaveLength(room + 1)
    const tooLong = signNote(`${'x'.repeat(room + 1)}\n`, [alice.signer])
    expect(refusal(() => openNote(tooLong, [alice.key]))).toBe('malformed_note')
  })

  test.each(['no newline', 'a tab\tin it\n', 'carriage return\r\n', 'a nul\0\n', 'half \ud800 a pair\n', ''])(
    'the text %j is refused when producing',
    (bad) => {
      expect(refusal(() => signNote(bad, [alice.signer]))).toBe('malformed_note')
    },
  )

  test.each(['', 'a b', 'a+b', 'a\u00a0b', 'a\u2003b', 'a\u0085b', 'a\nb'])('the name %j is refused', (name) => {
    expect(refusal(() => signNote(text, [{ ...alice.signer, name }]))).toBe('malformed_key')
    expect(refusal(() => makeVerifierKey(name, alice.publicKey))).toBe('malformed_key')
  })

  test('a replacement character does not pass for half a pair', () => {
    const note = signNote('a \ufffd in it\n', [alice.signer])
    expect(openNote(note, [alice.key]).text).toBe('a \ufffd in it\n')
    expect(refusal(() => openNote(note.replace('\ufffd', '\ud800'), [alice.key]))).toBe('malformed_note')
  })

  test('a byte-order mark is part of the text', () => {
    const note = signNote('\ufeffmarked\n', [alice.signer])
    expect(openNote(Buffer.from(note), [alice.key]).text).toBe('\ufeffmarked\n')
  })

  test('every changed byte of a note is refused, and with nothing but a NoteError', () => {
    const note = Buffer.from(signNote('one\ntwo\n', [alice.signer]))
    for (let i = 0; i < note.length; i++) {
      for (const mask of [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff]) {
        const changed = Buffer.from(note.map((byte, at) => (at === i ? byte ^ mask : byte)))
        expect(
          refusal(() => openNote(changed, [alice.key])),
          `byte ${i} xor ${mask}`,
        ).toBeDefined()
      }
    }
  })

  test('every prefix and suffix of a note is refused', () => {
    const note = signNote('one\n', [alice.signer])
    for (let cut = 1; cut < note.length; cut++) {
      expect(refusal(() => openNote(note.slice(0, cut), [alice.key]))).toBeDefined()
      expect(refusal(() => openNote(note.slice(cut), [alice.key]))).toBeDefined()
    }
  })
})

describe('cosignatures', () => {
  const witness = makeCosigner('example.com/witness', 4)
  const checkpoint = 'example.com/log\n1\njvM=\n'

  test('a cosignature is verified, and tells when it was made', () => {
    const { verified } = openNote(signNote(checkpoint, [witness.at(1_679_315_147n)]), [witness.key])
    expect(verified[0].cosignedAt).toEqual(new Date('2023-03-20T12:25:47Z'))
  })

  test('another time, a plain signature, or a time beyond the calendar is refused', () => {
    const signer = witness.at(1_679_315_147n)
    const shifted = (text: Uint8Array) => {
      const cosignature = Buffer.from(signer.sign(text))
      cosignature.writeBigUInt64BE(1_679_315_148n)
      return cosignature
    }
    const plain = (text: Uint8Array) => sign(null, text, witness.privateKey)
    const late = witness.at(2n ** 64n - 1n).sign
    for (const lie of [shifted, plain, late]) {
      const note = signNote(checkpoint, [{ ...signer, sign: lie }])
      expect(refusal(() => openNote(note, [witness.key]))).toBe('invalid_signature')
    }
  })
})

describe('verifier keys', () => {
  test('a vkey is parsed to what it was made of', () => {
    const key = parseVerifierKey(makeVerifierKey('example.com/alice', alice.publicKey))
    expect(key.publicKey.equals(createPublicKey(alice.privateKey))).toBe(true)
    expect(key.type).toBe('ed25519')
    expect(key.keyId).toEqual(alice.signer.keyId)
  })

  test('a key that is not Ed25519 signs no notes', () => {
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
    expect(() => makeNoteSigner('example.com/alice', privateKey)).toThrow(TypeError)
  })

  test('no part of a vkey, and none with a changed byte, is one', () => {
    const vkey = makeVerifierKey('alice', alice.publicKey)
    for (let start = 0; start <= vkey.length; start++) {
      for (let end = start; end <= vkey.length; end++) {
        if (end - start === vkey.length) continue
        expect(refusal(() => parseVerifierKey(vkey.slice(start, end)))).toBe('malformed_key')
      }
    }
    for (let i = 0; i < vkey.length; i++) {
      for (const difference of [1, 2, 32, 127]) {
        const changed = vkey.slice(0, i) + String.fromCharCode(vkey.charCodeAt(i) ^ difference) + vkey.slice(i + 1)
        expect(
          refusal(() => parseVerifierKey(changed)),
          changed,
        ).toBe('malformed_key')
      }
    }
    expect(refusal(() => parseVerifierKey(`${vkey}\n`))).toBe('malformed_key')
  })

  test('base64 has one spelling', () => {
    expect(decodeBase64('')).toHaveLength(0)
    expect(decodeBase64('AQ==')).toEqual(Buffer.from([1]))
    for (const other of ['AQ', 'AQ=', 'AR==', 'AQ===', 'A Q==', 'AQ==\n', '_w==', 'AQ==AQ==', '=', 'A']) {
      expect(decodeBase64(other), other).toBeUndefined()
    }
    expect(decodeBase64('/w==')).toEqual(Buffer.from([255]))
  })
})

describe.skipIf(!vectorsPresent)('published vectors', () => {
  test('keys.json: keys of type 0x01 and 0x04 are parsed, all others refused', () => {
    const { valid, invalid } = readVectors<KeyVectors>('tlog/keys.json')
    for (const { vkey, type } of valid) {
      const ours = type.startsWith('0x01') || type.startsWith('0x04')
      expect(
        refusal(() => parseVerifierKey(vkey)),
        vkey,
      ).toBe(ours ? undefined : 'malformed_key')
    }
    for (const { vkey } of invalid)
      expect(
        refusal(() => parseVerifierKey(vkey)),
        vkey,
      ).toBe('malformed_key')
  })

  test('notes.json: every note is opened or refused as published', () => {
    const reasons: Record<string, string> = {
      malformed: 'malformed_note',
      'no verifiable signature': 'no_known_signature',
      'ambiguous key': 'ambiguous_key',
      'invalid signature': 'invalid_signature',
    }
    for (const { name, vkeys, note, noteBase64, error, ...expected } of readVectors<NoteVectors>('tlog/notes.json')
      .open) {
      const open = () => openNote(note ?? Buffer.from(noteBase64 ?? '', 'base64'), vkeys.map(parseVerifierKey))
      if (error !== null) {
        expect(refusal(open), name).toBe(reasons[error])
        continue
      }
      const opened = open()
      expect(opened.text, name).toBe(expected.text)
      expect(opened.verified.map(nameAndId), name).toEqual(expected.verified)
      expect(opened.unverified.map(nameAndId), name).toEqual(expected.unverified)
    }
  })

  test('notes.json: the published signature makes the published note', () => {
    const { keys, sign } = readVectors<NoteVectors>('tlog/notes.json')
    const key = parseVerifierKey(keys.PeterNeumann)
    for (const { text, note } of sign) {
      const [{ name, keyId, signature }] = openNote(note, [key]).verified
      expect(signNote(text, [{ name, keyId, sign: () => signature }])).toBe(note)
    }
  })

  test('notes.json: what may not be signed is refused', () => {
    for (const { text } of readVectors<NoteVectors>('tlog/notes.json').signErrors) {
      expect(refusal(() => signNote(text, [alice.signer]))).toBe('malformed_note')
    }
  })

  test('consistency.json: both checkpoints carry the signature of the log', () => {
    const { logVkey, otherLogVkey, older, newer } = readVectors<ConsistencyVectors>('tlog/consistency.json')
    for (const { checkpoint } of [older, newer]) {
      expect(openNote(checkpoint, [parseVerifierKey(logVkey)]).verified).toHaveLength(1)
      expect(refusal(() => openNote(checkpoint, [parseVerifierKey(otherLogVkey)]))).toBe('no_known_signature')
    }
  })
})

interface KeyVectors {
  valid: { vkey: string; type: string }[]
  invalid: { vkey: string }[]
}

interface NoteVectors {
  keys: { PeterNeumann: string }
  sign: { text: string; note: string }[]
  signErrors: { text: string }[]
  open: {
    name: string
    vkeys: string[]
    note?: string
    noteBase64?: string
    error: string | null
    text?: string
    verified?: string[]
    unverified?: string[]
  }[]
}

interface ConsistencyVectors {
  logVkey: string
  otherLogVkey: string
  older: { checkpoint: string }
  newer: { checkpoint: string }
}

function readVectors<Vectors>(path: string): Vectors {
  return JSON.parse(readFileSync(vectorPath(path), 'utf8')) as Vectors
}

function nameAndId({ name, keyId }: NoteSignature): string {
  return `${name}+${Buffer.from(keyId).toString('hex')}`
}
