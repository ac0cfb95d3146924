import { generateKeyPairSync, type KeyObject, randomBytes, sign, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import * as noble from '@noble/ed25519'
import { describe, expect, test } from 'vitest'
import { importPrivateKey, importPublicKey, rawPublicKey } from '../../src/keyring/jwk.ts'
import { jwsSigningInput, webhookSigningInput } from '../../src/keyring/signing-input.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'

const bytes = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex, 'hex'))

/** Our way to verify: raw keys imported once, node:crypto, 64 bytes. */
const ours = (signature: Uint8Array, message: Uint8Array, key: Uint8Array): boolean => {
  let publicKey: KeyObject
  try {
    publicKey = importPublicKey(key)
  } catch {
    return false
  }
  return signature.length === 64 && verify(null, message, publicKey, signature)
}

const independent = async (signature: Uint8Array, message: Uint8Array, key: Uint8Array): Promise<boolean> =>
  noble.verifyAsync(signature, message, key, { zip215: false }).catch(() => false)

interface Wycheproof {
  testGroups: {
    publicKey: { pk: string }
    tests: { tcId: number; comment: string; msg: string; sig: string; result: 'valid' | 'invalid' }[]
  }[]
}

describe.skipIf(!vectorsPresent)('published vectors', () => {
  test('ed25519_test.json: every verdict of Wycheproof is ours, and that of an independent library', async () => {
    const { testGroups } = JSON.parse(readFileSync(vectorPath('ed25519/ed25519_test.json'), 'utf8')) as Wycheproof
    let count = 0
    for (const { publicKey, tests } of testGroups) {
      for (const { tcId, comment, msg, sig, result } of tests) {
        const name = `tcId ${tcId}: ${comment}`
        expect(ours(bytes(sig), bytes(msg), bytes(publicKey.pk)), name).toBe(result === 'valid')
        expect(await independent(bytes(sig), bytes(msg), bytes(publicKey.pk)), name).toBe(result === 'valid')
        count += 1
      }
    }
    expect(count).toBe(151)
  })

  test('cases.json: the hostile cases on which libraries differ have the verdicts of this runtime, pinned', () => {
    const cases = JSON.parse(readFileSync(vectorPath('ed25519/cases.json'), 'utf8')) as Record<
      'message' | 'pub_key' | 'signature',
      string
    >[]
    const verdicts = cases.map(({ message, pub_key, signature }) =>
      ours(bytes(signature), bytes(message), bytes(pub_key)),
    )
    // Only case 3, where everything but the order of the points is in order. See the vectors' README for what each is.
    expect(verdicts.map((accepted) => (accepted ? 'V' : 'x')).join(' ')).toBe('x x x V x x x x x x x x')
  })
})

test('what we sign, an independent library verifies, and the other way round', async () => {
  for (let n = 0; n < 20; n++) {
    const seed = randomBytes(32)
    const key = importPrivateKey(seed)
    const publicKey = rawPublicKey(key)
    expect(Buffer.from(await noble.getPublicKeyAsync(new Uint8Array(seed)))).toEqual(Buffer.from(publicKey))
    for (const input of [jwsSigningInput('eyJ', 'eyJ'), webhookSigningInput('msg_1', 1, randomBytes(n * 50))]) {
      const signature = sign(null, input, key)
      expect(await independent(new Uint8Array(signature), new Uint8Array(input), publicKey)).toBe(true)
      expect(Buffer.from(await noble.signAsync(new Uint8Array(input), new Uint8Array(seed)))).toEqual(signature)
    }
  }
})

test('a private key is read from a seed, and from PKCS#8 with or without the public key', () => {
  const { privateKey } = generateKeyPairSync('ed25519')
  const v1 = privateKey.export({ format: 'der', type: 'pkcs8' })
  const seed = v1.subarray(-32)
  // RFC 8410 §7: version 1 (which is v2), the same seed, and the public key as [1].
  const v2 = Buffer.concat([
    Buffer.from('3051020101300506032b657004220420', 'hex'),
    seed,
    Buffer.from('812100', 'hex'),
    rawPublicKey(privateKey),
  ])
  for (const form of [seed, v1, v2]) expect(importPrivateKey(form).equals(privateKey)).toBe(true)
  for (const bad of [seed.subarray(1), v1.subarray(0, -1), Buffer.alloc(48)])
    expect(() => importPrivateKey(bad)).toThrow()
})
