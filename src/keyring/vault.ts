import { createCipheriv, createDecipheriv, createSecretKey, type KeyObject, randomFillSync } from 'node:crypto'

/**
 * One data key: what it seals, only it opens. XAES-256-GCM (c2sp.org/XAES-256-GCM) behind a version byte:
 *
 *     sealed = 0x01 ‖ nonce (24 bytes) ‖ ciphertext ‖ tag (16 bytes)
 *
 * The first half of the nonce selects an AES-256-GCM key derived from the data key; the second half is the 96-bit nonce
 * under it. Each instance draws its first half at random, once, so the derived key is its own, and counts the second
 * half up from 0, to 2^48 at most. A seal then costs one AES-GCM call, no two seals share a nonce, and the limit of 2^32
 * messages for random nonces does not apply (NIST SP 800-38D §8.2.1, §8.3). Any XAES-256-GCM library opens the result.
 */
export class DataKey {
  readonly #subkeyMac: KeyObject
  readonly #mask: Uint8Array
  readonly #opening = new Map<string, KeyObject>()
  #sealing: Sealing | undefined

  /** Copies `key`, which the caller should then erase. Throws `RangeError` unless it is 32 bytes long. */
  constructor(key: Uint8Array) {
    if (key.length !== 32) throw new RangeError(`a data key is 32 bytes long, not ${key.length}`)
    this.#subkeyMac = createSecretKey(key)
    this.#mask = double(this.#encryptBlocks(new Uint8Array(16)))
  }

  /** Seals `plain`, bound to `additional`: to open it, both must be unaltered. The result is 41 bytes longer. */
  seal(plain: Uint8Array, additional: Uint8Array): Uint8Array {
    this.#sealing ??= this.#startSealing()
    const { nonce, counter, subkey, sealed: before } = this.#sealing
    if (before === maxSeals) throw new Error('this data key has sealed all it can in one process')
    this.#sealing.sealed++
    counter.writeUIntBE(before, counterBytes - 6, 6) // the bytes before it stay 0

    const cipher = createCipheriv('aes-256-gcm', subkey, counter, gcm)
    cipher.setAAD(additional)
    const sealed = Buffer.allocUnsafe(bodyAt + plain.length + tagBytes) // of the pool: they come by the thousand, and go soon
    sealed[0] = version
    sealed.set(nonce, prefixAt)
    sealed.set(cipher.update(plain), bodyAt)
    cipher.final()
    sealed.set(cipher.getAuthTag(), bodyAt + plain.length)
    return sealed
  }

  /** Throws {@link SealBroken} unless this data key sealed exactly these bytes with this `additional`. */
  open(sealed: Uint8Array, additional: Uint8Array): Uint8Array {
    if (sealed[0] !== version || sealed.length < bodyAt + tagBytes) throw new SealBroken()
    const subkey = this.#subkeyFor(sealed.subarray(prefixAt, counterAt))
    const decipher = createDecipheriv('aes-256-gcm', subkey, sealed.subarray(counterAt, bodyAt), gcm)
    decipher.setAAD(additional)
    decipher.setAuthTag(sealed.subarray(-tagBytes))
    const plain = decipher.update(sealed.subarray(bodyAt, -tagBytes))
    try {
      decipher.final()
    } catch (cause) {
      throw new SealBroken({ cause })
    }
    return new Uint8Array(plain.buffer, plain.byteOffset, plain.length)
  }

  #startSealing(): Sealing {
    const nonce = Buffer.alloc(prefixBytes + counterBytes)
    randomFillSync(nonce, 0, prefixBytes)
    const subkey = this.#derive(nonce.subarray(0, prefixBytes))
    return { nonce, counter: nonce.subarray(prefixBytes), subkey, sealed: 0 }
  }

  /** Every process that ever sealed has its own derived key. Readers meet few at a time, so the latest are kept. */
  #subkeyFor(prefix: Uint8Array): KeyObject {
    const name = Buffer.from(prefix).toString('latin1')
    const known = this.#opening.get(name)
    if (known !== undefined) return known
    const subkey = this.#derive(prefix)
    const [oldest] = this.#opening.keys()
    if (oldest !== undefined && this.#opening.size >= maxOpening) this.#opening.delete(oldest)
    this.#opening.set(name, subkey)
    return subkey
  }

  /** NIST SP 800-108r1 KDF in counter mode over CMAC, which for this one-block input is two AES calls: the blocks
   *  `counter (2 bytes) ‖ "X" ‖ 0x00 ‖ prefix`, each masked with the first CMAC subkey. */
  #derive(prefix: Uint8Array): KeyObject {
    const blocks = new Uint8Array(32)
    for (const counter of [1, 2]) {
      const block = blocks.subarray(16 * (counter - 1), 16 * counter)
      block.set([0, counter, 0x58, 0])
      block.set(prefix, 4)
      for (const [index, mask] of this.#mask.entries()) block[index] = (block[index] ?? 0) ^ mask
    }
    return createSecretKey(this.#encryptBlocks(blocks))
  }

  /** Plain AES-256 on each block. Not a way to encrypt anything: {@link #derive} builds its CMAC from it. */
  #encryptBlocks(blocks: Uint8Array): Uint8Array {
    return createCipheriv('aes-256-ecb', this.#subkeyMac, null).setAutoPadding(false).update(blocks)
  }
}

interface Sealing {
  /** Of the seal before; its second half is `counter`. */
  readonly nonce: Buffer
  readonly counter: Buffer
  readonly subkey: KeyObject
  /** How many were made, which is the next counter. */
  sealed: number
}

/** What was to be opened was altered, belongs to another data key, or was sealed with other additional data. */
export class SealBroken extends Error {
  override readonly name = 'SealBroken'

  constructor(options?: ErrorOptions) {
    super('the sealed bytes do not open', options)
  }
}

const version = 0x01
const prefixBytes = 12
const counterBytes = 12
const tagBytes = 16
const prefixAt = 1
const counterAt = prefixAt + prefixBytes
const bodyAt = counterAt + counterBytes
const maxSeals = 2 ** 48
const gcm = { authTagLength: tagBytes } as const
const maxOpening = 8

/** Doubling in GF(2^128), which makes the CMAC subkey K1 from AES(0) (NIST SP 800-38B §6.1). */
function double(block: Uint8Array): Uint8Array {
  const doubled = block.map((byte, index) => (byte << 1) | ((block[index + 1] ?? 0) >> 7))
  if ((block[0] ?? 0) >> 7 === 1) doubled[15] = (doubled[15] ?? 0) ^ 0x87
  return doubled
}
