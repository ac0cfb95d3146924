/**
 * Checkpoints (c2sp.org/tlog-checkpoint): what the log says about itself, as a signed note.
 *
 *     example.com/log                                 origin: which log
 *     20852163                                        treeSize: how many leaves, in decimal
 *     CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=    rootHash: of the tree of that size, in base64
 *
 * A log never signs two that contradict each other; whoever keeps one can hold it to that.
 */
import {
  decodeBase64,
  encodeBase64,
  NoteError,
  type NoteSigner,
  openNote,
  signNote,
  type VerifiedSignature,
  type VerifierKey,
} from './note.ts'
import { hashBytes } from './tree.ts'

export interface Checkpoint {
  readonly origin: string
  /** Leaves, at most 2^53−1. */
  readonly treeSize: number
  /** 32 bytes. */
  readonly rootHash: Uint8Array
}

/** A checkpoint as found in a text. Extension lines are legal and opaque; no checkpoint of ours has any. */
export interface ParsedCheckpoint extends Checkpoint {
  readonly extensions: readonly string[]
}

/** A checkpoint that its log signed, and all known keys that did, witnesses among them. */
export interface VerifiedCheckpoint extends ParsedCheckpoint {
  readonly verified: readonly VerifiedSignature[]
}

/** What a verifier must bring: the log it expects, and the keys of that log and of witnesses it knows. */
export interface LogTrust {
  readonly origin: string
  readonly vkeys: readonly VerifierKey[]
}

/** Signs checkpoints with whatever log keys are in use now. What it returns may leave only once the tree is durable. */
export type CheckpointSigner = (checkpoint: Checkpoint) => string

/** The signed note of a checkpoint. Several signers sign alike: the old and the new log key during an overlap. */
export function signCheckpoint(checkpoint: Checkpoint, signers: readonly NoteSigner[]): string {
  return signNote(formatCheckpoint(checkpoint), signers)
}

/**
 * Opens the checkpoint of the log we expect. It must carry the signature of a key named like the origin, of type 0x01:
 * a witness vouches for the log, never in its place (c2sp.org/tlog-tiles). Throws NoteError and nothing else: the
 * refusals of openNote, malformed_checkpoint, wrong_origin, no_known_signature.
 */
export function openCheckpoint(note: string | Uint8Array, { origin, vkeys }: LogTrust): VerifiedCheckpoint {
  const { text, verified } = openNote(note, vkeys)
  const checkpoint = parseCheckpoint(text)
  if (checkpoint.origin !== origin) throw new NoteError('wrong_origin', `expected a checkpoint of ${origin}`)
  if (!verified.some(({ key }) => key.type === 'ed25519' && key.name === origin)) {
    throw new NoteError('no_known_signature', `no key of ${origin} itself signed the checkpoint`)
  }
  return { ...checkpoint, verified }
}

/** The text of a checkpoint. NoteError (malformed_checkpoint) for values that no checkpoint can state. */
export function formatCheckpoint({ origin, treeSize, rootHash }: Checkpoint): string {
  const text = `${origin}\n${treeSize}\n${encodeBase64(rootHash)}\n`
  // What we could not read back must not be signed: an origin of two lines would shift size and root.
  const { extensions } = parseCheckpoint(text)
  if (extensions.length > 0) throw new NoteError('malformed_checkpoint', 'the origin is more than one line')
  return text
}

/** Reads the text of a checkpoint, which is not verified by that. NoteError (malformed_checkpoint) if it is none. */
export function parseCheckpoint(text: string): ParsedCheckpoint {
  const [origin = '', size = '', root = '', ...rest] = text.split('\n')
  const treeSize = parseDecimal(size)
  const rootHash = decodeBase64(root)
  // Every line ends in a newline, so the last piece is empty, and no other is (tlog-checkpoint: "non-empty lines").
  const wellFormed = origin !== '' && rest.pop() === '' && rest.every((line) => line !== '')
  if (!wellFormed || treeSize === undefined || rootHash?.length !== hashBytes) {
    throw new NoteError('malformed_checkpoint', 'not origin, tree size and root hash')
  }
  return { origin, treeSize, rootHash, extensions: rest }
}

/** A decimal number up to 2^53−1 without sign or leading zeros; undefined for anything else. */
export function parseDecimal(text: string): number | undefined {
  const value = Number(text)
  return /^(?:0|[1-9]\d*)$/.test(text) && Number.isSafeInteger(value) ? value : undefined
}
