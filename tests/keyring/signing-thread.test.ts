import { createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto'
import { afterAll, expect, test } from 'vitest'
import { SigningThread } from '../../src/keyring/signing-thread.ts'

const thread = new SigningThread()
const { privateKey, publicKey } = generateKeyPairSync('ed25519')
const other = generateKeyPairSync('ed25519')

afterAll(() => thread.close())

test('signs and verifies as node:crypto does here, each question with its own answer', async () => {
  const inputs = Array.from({ length: 200 }, (_, n) => Buffer.from(`input ${n}`))
  const signatures = await Promise.all(
    inputs.map((input, n) => thread.sign(n % 2 ? privateKey : other.privateKey, input)),
  )
  for (const [n, signature] of signatures.entries()) {
    const [key, pub] = n % 2 ? [privateKey, publicKey] : [other.privateKey, other.publicKey]
    expect(Buffer.from(signature)).toEqual(sign(null, inputs[n] as Buffer, key))
    expect(verify(null, inputs[n] as Buffer, pub, signature)).toBe(true)
  }
  const verdicts = await Promise.all(
    signatures.map((signature, n) => thread.verify(publicKey, inputs[n] as Buffer, signature)),
  )
  expect(verdicts).toEqual(signatures.map((_, n) => n % 2 === 1))
})

test('a false signature is false, and one of a wrong length too', async () => {
  const input = Buffer.from('eyJ')
  const signature = Buffer.from(await thread.sign(privateKey, input))
  const flipped = Buffer.from(signature)
  flipped[5] = (flipped[5] ?? 0) ^ 1
  expect(await thread.verify(publicKey, input, flipped)).toBe(false)
  expect(await thread.verify(createPublicKey(privateKey), input, signature.subarray(1))).toBe(false)
})

test('after it was stopped, every question is rejected, also those under way', async () => {
  const stopped = new SigningThread()
  const asked = stopped.sign(privateKey, Buffer.from('eyJ'))
  const stopping = stopped.close()
  await expect(asked).rejects.toThrow('stopped')
  await expect(stopped.sign(privateKey, Buffer.from('eyJ'))).rejects.toThrow('stopped')
  await stopping
})
