import { createPrivateKey, createPublicKey, hash, sign } from 'node:crypto'
import { makeNoteSigner, makeVerifierKey, parseVerifierKey } from '../../src/log/note.ts'

/** A note key of type 0x01 whose seed is one byte, repeated. */
export function makeNoteKey(name: string, seedByte: number) {
  const privateKey = createPrivateKey({
    key: Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), Buffer.alloc(32, seedByte)]),
    format: 'der',
    type: 'pkcs8',
  })
  const publicKey = Buffer.from(createPublicKey(privateKey).export({ format: 'jwk' }).x ?? '', 'base64url')
  const signer = makeNoteSigner(name, privateKey)
  return { privateKey, publicKey, signer, key: parseVerifierKey(makeVerifierKey(name, publicKey)) }
}

/** A witness, written from c2sp.org/tlog-cosignature alone. */
export function makeCosigner(name: string, seedByte: number) {
  const { privateKey, publicKey } = makeNoteKey(name, seedByte)
  const typed = Buffer.concat([Buffer.of(0x04), publicKey])
  const keyId = hash('sha256', Buffer.concat([Buffer.from(`${name}\n`), typed]), 'buffer').subarray(0, 4)
  const at = (seconds: bigint) => ({
    name,
    keyId,
    sign: (text: Uint8Array) => {
      const time = Buffer.alloc(8)
      time.writeBigUInt64BE(seconds)
      const message = Buffer.concat([Buffer.from(`cosignature/v1\ntime ${seconds}\n`), text])
      return Buffer.concat([time, sign(null, message, privateKey)])
    },
  })
  return { privateKey, at, key: parseVerifierKey(`${name}+${keyId.toString('hex')}+${typed.toString('base64')}`) }
}
