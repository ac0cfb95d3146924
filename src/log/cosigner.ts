/**
 * The key of a witness. It cosigns checkpoints (c2sp.org/tlog-cosignature, Ed25519, type 0x04): the signature says "at
 * this time, this was the largest tree of this log that I have seen, and it extends all I saw before".
 */
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { importPrivateKey, rawPublicKey } from '../keyring/jwk.ts'
import {
  checkKeyName,
  cosignedMessage,
  decodeBase64,
  encodeBase64,
  makeNoteSigner,
  makeVerifierKey,
  NoteError,
  type NoteSigner,
  parseVerifierKey,
  type VerifierKey,
} from './note.ts'

export interface Cosigner {
  readonly vkey: string
  readonly key: VerifierKey
  /** Signs at this time, in whole seconds. The format has no place for a time before 1970, or none. */
  at(now: Date): NoteSigner
}

/** NoteError (malformed_key) for a name that no key can have; TypeError unless the key is an Ed25519 private key. */
export function makeCosigner(name: string, privateKey: KeyObject): Cosigner {
  if (privateKey.asymmetricKeyType !== 'ed25519') throw new TypeError('checkpoints are cosigned with Ed25519 keys only')
  const vkey = makeVerifierKey(name, rawPublicKey(privateKey), 'cosignature')
  const key = parseVerifierKey(vkey)
  return {
    vkey,
    key,
    at(now) {
      const seconds = BigInt(Math.floor(now.getTime() / 1000))
      if (seconds <= 0n) throw new RangeError(`no cosignature can be made at ${now.toISOString()}`)
      return {
        name,
        keyId: key.keyId,
        sign(text) {
          const time = Buffer.alloc(8)
          time.writeBigUInt64BE(seconds)
          return Buffer.concat([time, sign(null, cosignedMessage(text, seconds), privateKey)])
        },
      }
    },
  }
}

/**
 * A fresh key in the spelling that note tools share: `PRIVATE+KEY+<name>+<key id>+<base64 of 0x01 and the seed>`. The
 * id in it is that of the plain key of type 0x01, as their readers expect. NoteError for a name that no key can have.
 */
export function generateSecretKey(name: string): string {
  checkKeyName(name)
  const { privateKey } = generateKeyPairSync('ed25519')
  const { d = '' } = privateKey.export({ format: 'jwk' })
  const id = Buffer.from(makeNoteSigner(name, privateKey).keyId).toString('hex')
  return `PRIVATE+KEY+${name}+${id}+${encodeBase64(Buffer.concat([plainType, Buffer.from(d, 'base64url')]))}`
}

/** The cosigner of a secret key. NoteError (malformed_key) unless it is spelled as {@link generateSecretKey} does. */
export function parseSecretKey(secretKey: string): Cosigner {
  const [, name = '', id, material = ''] = /^PRIVATE\+KEY\+([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(secretKey) ?? []
  const bytes = decodeBase64(material)
  if (bytes?.length !== 33 || bytes[0] !== plainType[0]) throw new NoteError('malformed_key', 'not a secret key')
  const privateKey = importPrivateKey(bytes.subarray(1))
  if (Buffer.from(makeNoteSigner(name, privateKey).keyId).toString('hex') !== id) {
    throw new NoteError('malformed_key', 'the key id belongs to another key')
  }
  return makeCosigner(name, privateKey)
}

const plainType = Uint8Array.of(0x01)
