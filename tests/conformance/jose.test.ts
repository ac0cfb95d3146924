/** Receipts and webhooks, judged by libraries that know nothing of us: jose for the JWS, noble for Ed25519 itself. */
import { verifyAsync } from '@noble/ed25519'
import { createLocalJWKSet, flattenedVerify, type JSONWebKeySet, jwtVerify } from 'jose'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { MessageReceipt } from '../../src/receipt/receipt.ts'
import { type Arrived, Receiver } from '../support/receiver.ts'
import { TestRelay } from '../support/relay.ts'

let relay: TestRelay
let receiver: Receiver
let receipt: MessageReceipt
let arrived: Arrived
let jwks: JSONWebKeySet

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  const tenant = await relay.makeTenant()
  await relay.makeEndpoint(tenant, receiver.url)
  receipt = (await relay.post(tenant, { total: 99.9 })).body
  await receiver.until(({ length }) => length === 1)
  arrived = receiver.arrived[0] as Arrived
  jwks = (await relay.call<JSONWebKeySet>('GET', '/.well-known/jwks.json', { key: null })).body
})

afterAll(async () => {
  await relay?.stop()
  await receiver?.stop()
})

const compact = ({ protected: header, payload, signature }: MessageReceipt): string =>
  `${header}.${payload}.${signature}`
const expected = { algorithms: ['EdDSA'], typ: 'receipt+jwt', issuer: 'http://relay.test' }

describe('jose', () => {
  test('verifies the receipt as it was answered, as flattened JWS with its unprotected header', async () => {
    const { protectedHeader, unprotectedHeader } = await flattenedVerify(receipt, createLocalJWKSet(jwks))
    expect(protectedHeader).toEqual({ alg: 'EdDSA', kid: jwks.keys[0]?.kid, typ: 'receipt+jwt' })
    expect(unprotectedHeader).toEqual(receipt.header)
  })

  test('verifies its compact form as a JWT of ours about this message', async () => {
    const { payload } = await jwtVerify(compact(receipt), createLocalJWKSet(jwks), expected)
    expect(payload).toMatchObject({ sub: receipt.message, kind: 'message.accepted' })
    // Stock libraries enforce these, and a receipt is for everybody and for ever.
    for (const claim of ['aud', 'exp', 'nbf']) expect(payload).not.toHaveProperty(claim)
  })

  test('finds the very receipt in the header of the webhook', () => {
    expect(arrived.headers['webhook-receipt']).toBe(compact(receipt))
  })

  test.each(['protected', 'payload', 'signature'] as const)('refuses one whose %s was changed', async (part) => {
    const text = receipt[part]
    const changed = { ...receipt, [part]: `${text.slice(0, 9)}${text[9] === 'A' ? 'B' : 'A'}${text.slice(10)}` }
    await expect(jwtVerify(compact(changed), createLocalJWKSet(jwks), expected)).rejects.toThrow()
  })

  test('takes no key of ours for another algorithm', () => {
    expect(jwks.keys.length).toBeGreaterThan(0)
    for (const key of jwks.keys) {
      expect(key).toMatchObject({ kty: 'OKP', crv: 'Ed25519', use: 'sig' })
      // Libraries disagree on its name (EdDSA, Ed25519), so the set names none (RFC 9864).
      expect(key).not.toHaveProperty('alg')
      expect(key).not.toHaveProperty('d')
    }
  })
})

describe('noble, strict as RFC 8032', () => {
  const publicKey = () => Buffer.from(String(jwks.keys[0]?.x), 'base64url')
  const holds = (signature: Uint8Array, input: Uint8Array) =>
    verifyAsync(signature, input, publicKey(), { zip215: false })

  test('verifies the signature of the receipt over its signing input', async () => {
    const input = Buffer.from(`${receipt.protected}.${receipt.payload}`)
    const signature = Buffer.from(receipt.signature, 'base64url')
    expect(await holds(signature, input)).toBe(true)
    expect(await holds(signature, input.subarray(1))).toBe(false)
  })

  test('verifies the webhook signature over id, timestamp and the bytes that arrived', async () => {
    const { headers, body } = arrived
    const signature = Buffer.from(String(headers['webhook-signature']).replace('v1a,', ''), 'base64')
    const input = Buffer.concat([Buffer.from(`${headers['webhook-id']}.${headers['webhook-timestamp']}.`), body])
    expect(await holds(signature, input)).toBe(true)
    expect(await holds(signature, body)).toBe(false)
  })
})
