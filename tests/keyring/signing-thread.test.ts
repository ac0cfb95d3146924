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

test('signatures of our own are confirmed, each for itself', async () => {
  const inputs = Array.from({ length: 50 }, (_, n) => Buffer.from(`input ${n}`))
  const signatures = await Promise.all(inputs.map((input) => thread.sign(privateKey, input)))
  const confirm = (signed: readonly Uint8Array[]) =>
    Promise.all(inputs.map((input, n) => thread.confirm(privateKey, input, signed[n] as Uint8Array)))
  expect(await confirm(signatures)).toEqual(inputs.map(() => true))
  const swapped = signatures.with(3, signatures[4] as Uint8Array).with(9, new Uint8Array(63))
  expect(await confirm(swapped)).toEqual(inputs.map((_, n) => n !== 3 && n !== 9))
})

test('where the last signature of a key in a letter does not verify, none of that key is confirmed, and those of others are', async () => {
  const input = Buffer.from('eyJ')
  const own = sign(null, input, privateKey)
  const others = sign(null, input, other.privateKey)
  const confirmed = await Promise.all([
    thread.confirm(privateKey, input, own),
    thread.confirm(other.privateKey, input, others),
    thread.confirm(privateKey, input, Buffer.alloc(64)),
  ])
  expect(confirmed).toEqual([false, true, false])
})

test('whatever is asked while letters are under way is answered, too', async () => {
  const rounds = Array.from({ length: 20 }, async (_, round) => {
    for (let turn = 0; turn < round % 4; turn++) await new Promise((resolve) => setImmediate(resolve))
    const input = Buffer.from(`round ${round}`)
    return thread.verify(publicKey, input, await thread.sign(privateKey, input))
  })
  expect(await Promise.all(rounds)).toEqual(rounds.map(() => true))
})

test('after it was stopped, every question is rejected, also those under way', async () => {
  const stopped = new SigningThread()
  const asked = stopped.sign(privateKey, Buffer.from('eyJ'))
  const stopping = stopped.close()
  await expect(asked).rejects.toThrow('stopped')
  await expect(stopped.sign(privateKey, Buffer.from('eyJ'))).rejects.toThrow('stopped')
  await stopping
})
