import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { DataKey, SealBroken } from '../../src/keyring/vault.ts'

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const key = () => new DataKey(new Uint8Array(32).fill(7))
const additional = bytes('msg_1')

describe('a data key', () => {
  it.each([
    [0x01, '', 'ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271'],
    [0x03, 'c2sp.org/XAES-256-GCM', '986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d'],
  ])('opens the published XAES-256-GCM vector of key 0x%i*32', (fill, aad, ciphertext) => {
    const sealed = Buffer.concat([Buffer.from('\x01ABCDEFGHIJKLMNOPQRSTUVWX'), Buffer.from(ciphertext, 'hex')])
    expect(new DataKey(new Uint8Array(32).fill(fill)).open(sealed, bytes(aad))).toEqual(bytes('XAES-256-GCM'))
  })

  it('opens what another instance of it sealed', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.uint8Array({ maxLength: 50 }), (plain, aad) => {
        const sealed = key().seal(plain, aad)
        expect(sealed).toHaveLength(plain.length + 41)
        expect(key().open(sealed, aad)).toEqual(plain)
      }),
    )
  })

  it('never uses a nonce twice, in one instance or in two', () => {
    const nonces = new Set<string>()
    for (const writer of [key(), key()]) {
      for (let i = 0; i < 300; i++)
        nonces.add(Buffer.from(writer.seal(additional, additional).subarray(1, 25)).toString('hex'))
    }
    expect(nonces.size).toBe(600)
  })

  it('does not open what was altered in any bit, cut or extended', () => {
    const sealed = key().seal(bytes('payload'), additional)
    for (let bit = 0; bit < sealed.length * 8; bit++) {
      const altered = sealed.slice()
      altered[bit >> 3] = (altered[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      expect(() => key().open(altered, additional), `bit ${bit}`).toThrow(SealBroken)
    }
    for (let length = 0; length < sealed.length; length++) {
      expect(() => key().open(sealed.subarray(0, length), additional), `${length} bytes`).toThrow(SealBroken)
    }
    expect(() => key().open(Uint8Array.of(...sealed, 0), additional)).toThrow(SealBroken)
  })

  it('does not open with other additional data or under another data key', () => {
    const sealed = key().seal(bytes('payload'), additional)
    expect(() => key().open(sealed, bytes('msg_2'))).toThrow(SealBroken)
    expect(() => key().open(sealed, new Uint8Array())).toThrow(SealBroken)
    expect(() => new DataKey(new Uint8Array(32).fill(8)).open(sealed, additional)).toThrow(SealBroken)
  })

  it('opens the seals of more writers than it remembers, in any order', () => {
    const seals = Array.from({ length: 20 }, (_, i) => key().seal(Uint8Array.of(i), additional))
    const reader = key()
    for (const round of [seals, seals.toReversed(), seals]) {
      for (const sealed of round) expect(reader.open(sealed, additional)[0]).toBe(seals.indexOf(sealed))
    }
  })

  it('keeps a copy of its key, and alters nothing it is given', () => {
    const given = new Uint8Array(32).fill(7)
    const dataKey = new DataKey(given)
    given.fill(0)
    const plain = bytes('payload')
    const sealed = dataKey.seal(plain, additional)
    const before = sealed.slice()
    expect(key().open(sealed, additional)).toEqual(plain)
    expect(plain).toEqual(bytes('payload'))
    expect(sealed).toEqual(before)
  })

  it.each([0, 16, 31, 33, 64])('of %i bytes is refused', (length) => {
    expect(() => new DataKey(new Uint8Array(length))).toThrow(RangeError)
  })
})
