/**
 * Signed notes (c2sp.org/signed-note@v1.0.0): a text, an empty line, and a line for each signature.
 *
 *     example.com/log          the text: the signatures cover it up to and with its last newline
 *     1
 *     jvM…E=
 *
 *     — example.com/log Az3grl…    — <key name> <base64 of 4 bytes key id, then the signature>
 *
 * A line whose key we do not know is ignored; a line of a known key must verify, or the note is refused. Known types
 * are Ed25519 over the text (0x01) and witness cosignatures (0x04, c2sp.org/tlog-cosignature).
 */
import { createPublicKey, hash, type KeyObject, sign, verify } from 'node:crypto'

/** Why a note, a key or a checkpoint was refused. Stable: tests and verdicts name it. */
export type NoteRefusal =
  | 'malformed_key' // a vkey that is not one, or of a type we do not know
  | 'malformed_note'
  | 'malformed_checkpoint' // a note well enough, but its text is no checkpoint
  | 'malformed_proof'
  | 'no_known_signature' // nobody we trust signed it
  | 'invalid_signature' // somebody we trust did not sign this text
  | 'ambiguous_key' // two of the given keys have one name and id
  | 'wrong_origin'

export class NoteError extends Error {
  override readonly name = 'NoteError'
  readonly reason: NoteRefusal

  constructor(reason: NoteRefusal, detail: string) {
    super(`${reason}: ${detail}`)
    this.reason = reason
  }
}

/** Signs notes under one name. `sign` takes the bytes of the text and returns the signature, without the key id. */
export interface NoteSigner {
  readonly name: string
  /** 4 bytes. */
  readonly keyId: Uint8Array
  sign(text: Uint8Array): Uint8Array
}

/** A parsed vkey. Parse once and keep it: importing the public key costs more than verifying with it. */
export interface VerifierKey {
  readonly name: string
  /** 4 bytes. */
  readonly keyId: Uint8Array
  readonly type: 'ed25519' | 'cosignature'
  readonly publicKey: KeyObject
}

/** One signature line. */
export interface NoteSignature {
  readonly name: string
  /** 4 bytes. */
  readonly keyId: Uint8Array
  readonly signature: Uint8Array
}

/** A signature line that verified, by whom, and when a cosignature says it was made. */
export interface VerifiedSignature extends NoteSignature {
  readonly key: VerifierKey
  readonly cosignedAt?: Date
}

export interface OpenedNote {
  readonly text: string
  /** At least one; each key once. */
  readonly verified: readonly [VerifiedSignature, ...VerifiedSignature[]]
  /** Lines of keys we do not know: anybody may have written them. */
  readonly unverified: readonly NoteSignature[]
}

/** The most a note may weigh, and carry: both are the limits of the Go checksum database's own verifier. */
export const maxNoteBytes = 1_000_000
const maxSignatures = 100

/**
 * Opens a note, given as text or as the bytes received, with the keys we trust. Whatever the note is, throws NoteError
 * and nothing else: malformed_note, ambiguous_key, invalid_signature, no_known_signature.
 */
export function openNote(note: string | Uint8Array, keys: readonly VerifierKey[]): OpenedNote {
  const { text, signatures } = parseNote(note)
  const signed = Buffer.from(text)
  const verified = new Map<VerifierKey, VerifiedSignature>()
  const unverified: NoteSignature[] = []
  for (const signature of signatures) {
    const [key, namesake] = keys.filter(({ name, keyId }) => name === signature.name && same(keyId, signature.keyId))
    if (namesake) throw new NoteError('ambiguous_key', `two of the given keys are ${signature.name} with one id`)
    if (!key) {
      unverified.push(signature)
      continue
    }
    // A second line of the same key is verified as well, then dropped: it may lie, but it may not count twice.
    const found = verifySignature(signed, signature, key)
    if (!verified.has(key)) verified.set(key, found)
  }
  const [first, ...others] = verified.values()
  if (!first) throw new NoteError('no_known_signature', 'none of the given keys signed the note')
  return { text, verified: [first, ...others], unverified }
}

/** The signed note over `text`. NoteError where the text or a name is one that no note can hold. */
export function signNote(text: string, signers: readonly NoteSigner[]): string {
  const bytes = Buffer.from(text)
  if (!text.endsWith('\n') || !isPlain(text, bytes)) throw new NoteError('malformed_note', 'the text is not lines')
  return `${text}\n${signers.map((signer) => signatureLine({ ...signer, signature: signer.sign(bytes) })).join('')}`
}

/** `— <key name> <base64>` and its newline: what a note ends in, one for each signature. */
export function signatureLine({ name, keyId, signature }: NoteSignature): string {
  checkKeyName(name)
  return `— ${name} ${encodeBase64(Buffer.concat([keyId, signature]))}\n`
}

/** The text of a note, of which nothing is verified. NoteError (malformed_note) if it is none. */
export const noteText = (note: string | Uint8Array): string => parseNote(note).text

/** A signer of type 0x01. TypeError unless the key is an Ed25519 private key. */
export function makeNoteSigner(name: string, privateKey: KeyObject): NoteSigner {
  if (privateKey.asymmetricKeyType !== 'ed25519') throw new TypeError('notes are signed with Ed25519 keys only')
  const { x = '' } = createPublicKey(privateKey).export({ format: 'jwk' })
  return {
    name,
    keyId: keyIdOf(name, typeBytes.ed25519, Buffer.from(x, 'base64url')),
    sign: (text) => sign(null, text, privateKey),
  }
}

/** The vkey, `<name>+<8 hex digits of the key id>+<base64 of type byte and key>`, of an Ed25519 key of 32 bytes. */
export function makeVerifierKey(name: string, publicKey: Uint8Array, type: VerifierKey['type'] = 'ed25519'): string {
  checkKeyName(name)
  if (publicKey.length !== publicKeyBytes) throw new RangeError(`an Ed25519 key has ${publicKeyBytes} bytes`)
  const keyId = keyIdOf(name, typeBytes[type], publicKey)
  return `${name}+${hex(keyId)}+${encodeBase64(Uint8Array.of(typeBytes[type], ...publicKey))}`
}

/** The key of a vkey. NoteError (malformed_key) unless it is spelled exactly as its maker spells it. */
export function parseVerifierKey(vkey: string): VerifierKey {
  const [, name = '', id, material = ''] = /^([^+]+)\+([0-9a-f]{8})\+(.+)$/.exec(vkey) ?? []
  checkKeyName(name)
  const [typeByte, ...publicKey] = decodeBase64(material) ?? []
  const type =
    typeByte === typeBytes.ed25519 ? 'ed25519' : typeByte === typeBytes.cosignature ? 'cosignature' : undefined
  if (!type || publicKey.length !== publicKeyBytes) throw new NoteError('malformed_key', 'not an Ed25519 key we know')
  const raw = Uint8Array.from(publicKey)
  const keyId = keyIdOf(name, typeBytes[type], raw)
  if (hex(keyId) !== id) throw new NoteError('malformed_key', 'the key id belongs to another key')
  const spki = Buffer.concat([spkiPrefix, raw])
  return { name, keyId, type, publicKey: createPublicKey({ key: spki, format: 'der', type: 'spki' }) }
}

const typeBytes = { ed25519: 0x01, cosignature: 0x04 } as const
const publicKeyBytes = 32
const keyIdBytes = 4
const signatureBytes = 64
const timestampBytes = 8

/** RFC 8410 §4: the DER of a SubjectPublicKeyInfo up to the 32 bytes of an Ed25519 key. */
const spkiPrefix = Buffer.from('302a300506032b6570032100', 'hex')

/** The first 4 bytes of SHA-256(name || newline || type || key). */
function keyIdOf(name: string, typeByte: number, publicKey: Uint8Array): Uint8Array {
  const named = Buffer.concat([Buffer.from(`${name}\n`), Uint8Array.of(typeByte), publicKey])
  return hash('sha256', named, 'buffer').subarray(0, keyIdBytes)
}

/** Splits at the last empty line. Nothing is trusted yet. */
function parseNote(note: string | Uint8Array): { text: string; signatures: NoteSignature[] } {
  const whole = typeof note === 'string' ? note : decodeUtf8(note)
  const split = whole.lastIndexOf('\n\n')
  const lines = whole.slice(split + 2).split('\n')
  // The last line ends in a newline too, so the last piece is empty; a note that ends at the split has no other.
  if (split < 0 || lines.pop() !== '' || lines.length === 0) {
    throw new NoteError('malformed_note', 'not a text, an empty line and signature lines')
  }
  if (lines.length > maxSignatures) throw new NoteError('malformed_note', `more than ${maxSignatures} signatures`)
  const bytes = Buffer.from(whole)
  if (bytes.length > maxNoteBytes || !isPlain(whole, bytes)) throw new NoteError('malformed_note', 'not plain text')
  // Lines that are the same say the same once.
  return { text: whole.slice(0, split + 1), signatures: [...new Set(lines)].map(parseSignature) }
}

function parseSignature(line: string): NoteSignature {
  const [, name = '', encoded = ''] = /^— (\S+) (\S+)$/.exec(line) ?? []
  const blob = decodeBase64(encoded)
  if (!isKeyName(name) || !blob || blob.length <= keyIdBytes) {
    throw new NoteError('malformed_note', 'a signature line is not "— <key name> <base64>"')
  }
  return { name, keyId: blob.subarray(0, keyIdBytes), signature: blob.subarray(keyIdBytes) }
}

function verifySignature(text: Uint8Array, line: NoteSignature, key: VerifierKey): VerifiedSignature {
  if (key.type === 'ed25519') {
    checkSignature(text, line.signature, key)
    return { ...line, key }
  }
  // c2sp.org/tlog-cosignature, Ed25519: u64 unix seconds, then the signature over them and the text. The format allows
  // times up to 2^63−1; we refuse those beyond what a Date can hold (the year 275760).
  if (line.signature.length !== timestampBytes + signatureBytes) throw invalidSignature(key)
  const seconds = Buffer.from(line.signature).readBigUInt64BE()
  const cosignedAt = new Date(Number(seconds) * 1000)
  if (Number.isNaN(cosignedAt.getTime())) throw invalidSignature(key)
  checkSignature(cosignedMessage(text, seconds), line.signature.subarray(timestampBytes), key)
  return { ...line, key, cosignedAt }
}

/** What a cosignature of type 0x04 signs (c2sp.org/tlog-cosignature): the time in unix seconds, and the whole text. */
export const cosignedMessage = (text: Uint8Array, seconds: bigint): Uint8Array =>
  Buffer.concat([Buffer.from(`cosignature/v1\ntime ${seconds}\n`), text])

function checkSignature(message: Uint8Array, signature: Uint8Array, key: VerifierKey): void {
  if (signature.length !== signatureBytes || !verify(null, message, key.publicKey, signature)) {
    throw invalidSignature(key)
  }
}

function invalidSignature(key: VerifierKey): NoteError {
  return new NoteError('invalid_signature', `not by ${key.name}+${hex(key.keyId)}`)
}

/** Well-formed, and without control characters below U+0020 other than newline. */
function isPlain(text: string, bytes: Uint8Array): boolean {
  return text.isWellFormed() && bytes.every((byte) => byte >= 0x20 || byte === 0x0a)
}

/** Not empty, no plus, no Unicode space. U+0085 is a space to Unicode, though not to JavaScript. */
function isKeyName(name: string): boolean {
  return /^[^\s\u{85}+]+$/u.test(name)
}

/** NoteError (malformed_key) for a name that no key can have. */
export function checkKeyName(name: string): void {
  if (!isKeyName(name)) throw new NoteError('malformed_key', 'a key name is not empty and has no spaces and no plus')
}

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new NoteError('malformed_note', 'not UTF-8')
  }
}

function same(one: Uint8Array, other: Uint8Array): boolean {
  return Buffer.compare(one, other) === 0
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

/** Base64 (RFC 4648 §4) in its one canonical spelling; undefined for any other. */
export function decodeBase64(text: string): Uint8Array | undefined {
  // Node skips what it does not know and forgives padding, so only spelling it again shows that there was one way.
  const bytes = Buffer.from(text, 'base64')
  return bytes.toString('base64') === text ? bytes : undefined
}

export function encodeBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64')
}
