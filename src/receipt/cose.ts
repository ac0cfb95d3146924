/**
 * COSE receipts (RFC 9942, profile RFC9162_SHA256): the proof that an entry is in the log, in CBOR.
 *
 *     18([ << {1: -8, 395: 1, 4: kid, 15: {1: issuer, 2: subject}} >>,       protected: EdDSA, which kind of tree, CWT claims
 *          {396: {-1: [ << [treeSize, leafIndex, [hash, …]] >> ]}},          unprotected: inclusion proofs, sibling first
 *          nil,                                                              the payload, detached: the root of the tree
 *          signature ])                                                      by the log key, over the root
 *
 * The root is not in it, so that a verifier has to compute it from the entry. The log key signs it, and no key of its
 * own, because it says what a checkpoint says: this is the log's root. What the key signs here starts with the bytes
 * 84 6a "Signature1"; a note is UTF-8 text, which cannot start with 84. So neither passes for the other.
 */
import { type KeyObject, sign, verify } from 'node:crypto'
import { decode, encode, Tag } from 'cbor2'
import type { SigningKey } from '../keyring/keyring.ts'
import { hashLeaf, rootOfInclusion } from '../log/tree.ts'

export const coseMediaType = 'application/cose'

export interface CoseReceipt {
  readonly treeSize: number
  readonly leafIndex: number
  /** The inclusion proof, 32 bytes each, the leaf's sibling first. At least one: the CDDL knows no tree of one leaf. */
  readonly proof: readonly Uint8Array[]
  /** `iss` and `sub` of the statement, which RFC 9943 wants said here too. */
  readonly issuer: string
  readonly subject: string
}

/** Makes the receipt of an entry and verifies it. Throws a plain Error, which is a fault of ours, if it does not hold. */
export function issueCoseReceipt(
  entry: Uint8Array,
  receipt: CoseReceipt,
  key: SigningKey,
  publicKey: KeyObject,
): Uint8Array {
  const { treeSize, leafIndex, proof, issuer, subject } = receipt
  const rootHash = rootOfInclusion({ leafHash: hashLeaf(entry), leafIndex, treeSize, proof })
  if (rootHash === undefined || proof.length === 0)
    throw new Error(`leaf ${leafIndex} of ${treeSize} has no COSE receipt`)
  const header = encode(
    new Map<number, unknown>([
      [label.alg, eddsa],
      [label.vds, rfc9162Sha256],
      [label.kid, plain(Buffer.from(key.kid))],
      [
        label.claims,
        new Map([
          [claim.iss, issuer],
          [claim.sub, subject],
        ]),
      ],
    ]),
  )
  const proofs = new Map([[inclusion, [encode([treeSize, leafIndex, proof.map(plain)])]]])
  const signature = plain(sign(null, signingInput(header, rootHash), key.key))
  const bytes = encode(new Tag(sign1, [header, new Map([[label.vdp, proofs]]), null, signature]))
  if (!verifyCoseReceipt(bytes, entry, [publicKey])) throw new Error('the COSE receipt does not verify')
  return bytes
}

/**
 * Whether these bytes prove that `entry` is in the log with one of these keys. False for anything else; never throws.
 * RFC 9942 signs the root alone: the size of the tree is what the path needs, and nothing to rely on.
 */
export function verifyCoseReceipt(bytes: Uint8Array, entry: Uint8Array, keys: readonly KeyObject[]): boolean {
  try {
    const [header, unprotected, payload, signature] = read<unknown[]>(bytes, sign1)
    if (!(header instanceof Uint8Array && signature instanceof Uint8Array) || payload !== null) return false
    const claims = read<Map<number, unknown>>(header)
    const alg = claims.get(label.alg)
    if (claims.get(label.vds) !== rfc9162Sha256 || (alg !== eddsa && alg !== ed25519)) return false
    const proofs = (unprotected as Map<number, Map<number, Uint8Array[]>>).get(label.vdp)?.get(inclusion)
    if (proofs?.length !== 1) return false
    const [treeSize, leafIndex, proof] = read<[number, number, Uint8Array[]]>(proofs[0] as Uint8Array)
    const rootHash = rootOfInclusion({ leafHash: hashLeaf(entry), leafIndex, treeSize, proof })
    if (rootHash === undefined) return false
    // The protected header as it came: encoding it again could yield other bytes.
    const input = signingInput(header, rootHash)
    return keys.some((key) => verify(null, input, key, signature))
  } catch {
    return false // no CBOR, or of another shape than a receipt
  }
}

const label = { alg: 1, kid: 4, claims: 15, vds: 395, vdp: 396 } as const
const claim = { iss: 1, sub: 2 } as const
const sign1 = 18
const inclusion = -1
const rfc9162Sha256 = 1

/** RFC 9864 gives Ed25519 a number of its own, which deployed verifiers do not know yet. We say the old one, take both. */
const [eddsa, ed25519] = [-8, -19]

/** RFC 9052 §4.4: what is signed, with nothing beside the header and the detached payload. */
function signingInput(header: Uint8Array, rootHash: Uint8Array): Uint8Array {
  const input = encode(['Signature1', header, new Uint8Array(0), plain(rootHash)])
  if (Buffer.from(input.subarray(0, 12)).toString('latin1') !== '\x84\x6aSignature1')
    throw new TypeError('no Sig_structure')
  return input
}

function read<T>(bytes: Uint8Array, tag?: number): T {
  const value = decode<unknown>(plain(bytes), { rejectDuplicateKeys: true, maxDepth: 8, preferMap: true })
  if (tag === undefined) return value as T
  if (!(value instanceof Tag) || value.tag !== tag) throw new TypeError(`expected CBOR tag ${tag}`)
  return value.contents as T
}

/** cbor2 takes a Buffer for a map of its members. */
const plain = (bytes: Uint8Array): Uint8Array => new Uint8Array(bytes)
