import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createSecretKey,
  generateKeyPairSync,
  type KeyObject,
  randomBytes,
} from 'node:crypto'
import { type FileHandle, link, mkdir, open, unlink } from 'node:fs/promises'
import { dirname } from 'node:path'
import { OperatorError } from '../errors.ts'
import type { KeyWrapper, WrapContext, WrappedKey } from '../ports/key-wrapper.ts'
import { syncFolder } from './sync-folder.ts'

/**
 * Wraps under a key in a file of this machine, made at first start. For development and small deployments: whoever
 * copies the file and the database has everything.
 *
 * Rejects if the file is readable by anybody but its owner, or is not 32 bytes long. Any number of processes may start
 * at once; all end up with the same key.
 */
export async function openLocalKeyWrapper(path: string): Promise<KeyWrapper> {
  const key = (await findKey(path)) ?? (await makeKey(path))
  try {
    return new LocalKeyWrapper(key)
  } finally {
    key.fill(0)
  }
}

/** A blob is `0x01 ‖ nonce (12) ‖ AES-256-GCM ciphertext ‖ tag (16)`, with the context as additional data. */
class LocalKeyWrapper implements KeyWrapper {
  readonly #key: KeyObject
  readonly #wrappingKey: string

  constructor(key: Uint8Array) {
    this.#key = createSecretKey(key)
    this.#wrappingKey = `local:${createHash('sha256').update(nameLabel).update(key).digest('hex').slice(0, 16)}`
  }

  async wrap(plain: Uint8Array, context: WrapContext): Promise<WrappedKey> {
    // Random nonces are fine for the few thousand keys one deployment wraps (NIST SP 800-38D §8.3: below 2^32).
    const nonce = randomBytes(nonceBytes)
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: tagBytes })
    cipher.setAAD(encodeContext(context))
    const parts = [Uint8Array.of(version), nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]
    return { blob: new Uint8Array(Buffer.concat(parts)), wrappingKey: this.#wrappingKey, version: String(version) }
  }

  async unwrap({ blob, wrappingKey }: WrappedKey, context: WrapContext): Promise<Uint8Array> {
    if (wrappingKey !== this.#wrappingKey) {
      throw new Error(`this key is wrapped under ${wrappingKey}, but the local wrapping key is ${this.#wrappingKey}`)
    }
    if (blob[0] !== version || blob.length < 1 + nonceBytes + tagBytes) throw new Error(broken)
    const nonce = blob.subarray(1, 1 + nonceBytes)
    const decipher = createDecipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: tagBytes })
    decipher.setAAD(encodeContext(context))
    decipher.setAuthTag(blob.subarray(-tagBytes))
    const plain = decipher.update(blob.subarray(1 + nonceBytes, -tagBytes))
    try {
      decipher.final()
    } catch (cause) {
      plain.fill(0)
      throw new Error(broken, { cause })
    }
    return new Uint8Array(plain)
  }

  async generateDataKey(context: WrapContext): Promise<{ plain: Uint8Array; wrapped: WrappedKey }> {
    const plain = new Uint8Array(randomBytes(32))
    return { plain, wrapped: await this.wrap(plain, context) }
  }

  async generateSigningKey(context: WrapContext): Promise<{ publicKey: Uint8Array; wrapped: WrappedKey }> {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519')
    const seed = privateKey.export({ format: 'der', type: 'pkcs8' }).subarray(-32)
    try {
      const spki = publicKey.export({ format: 'der', type: 'spki' })
      return { publicKey: new Uint8Array(spki.subarray(-32)), wrapped: await this.wrap(seed, context) }
    } finally {
      seed.fill(0)
    }
  }
}

const version = 0x01
const nonceBytes = 12
const tagBytes = 16
const keyBytes = 32
const nameLabel = 'countersign local wrapping key\0'
const broken = 'the wrapped key was altered, or wrapped for another context'

/** A JSON array of sorted pairs: two contexts with the same bytes are the same context. */
const encodeContext = (context: WrapContext): Uint8Array =>
  Buffer.from(JSON.stringify(Object.entries(context).sort(([a], [b]) => (a < b ? -1 : 1))))

async function findKey(path: string): Promise<Uint8Array | undefined> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
  try {
    const { mode, size } = await file.stat()
    if ((mode & 0o077) !== 0) {
      throw new OperatorError(
        `${path} holds the wrapping key, but others may read it (mode ${octal(mode)}). Set it to 0600.`,
      )
    }
    if (size !== keyBytes)
      throw new OperatorError(`${path} must hold a wrapping key of ${keyBytes} bytes, and has ${size}.`)
    return await file.readFile()
  } finally {
    await file.close()
  }
}

const octal = (mode: number): string => (mode & 0o777).toString(8).padStart(4, '0')

/** Writes a new key beside `path`, whole and synced, and only then gives it the name, unless another process was first:
 *  `link` does not replace. So whatever the moment of a crash, `path` is absent or complete. */
async function makeKey(path: string): Promise<Uint8Array> {
  const folder = dirname(path)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const key = randomBytes(keyBytes)
  const draft = `${path}.${randomBytes(8).toString('hex')}.tmp`
  const file = await open(draft, 'wx', 0o600)
  try {
    await file.writeFile(key)
    await file.sync()
    await link(draft, path)
  } catch (error) {
    const other = error instanceof Error && 'code' in error && error.code === 'EEXIST' ? await findKey(path) : undefined
    if (other === undefined) throw error
    key.fill(0)
    return other
  } finally {
    await file.close()
    await unlink(draft)
  }
  await syncFolder(folder)
  return key
}
