/**
 * A witness (c2sp.org/tlog-witness@v1.0.0): remembers the newest checkpoint of a log, and cosigns another only if it
 * extends that one. Whoever demands its cosignature cannot be shown a log that was forked or rolled back.
 *
 *     old 20852014            the size of what the witness cosigned last, as the log believes
 *     PlRNCrwHpqhGrupue…      the consistency proof from there: at most 63 hashes, one a line
 *
 *     example.com/log …       the checkpoint, verbatim
 *
 * Everything here is a function of its arguments. Who calls {@link cosign} keeps `next` durably before it answers, and
 * one request at a time: between asking what is remembered and remembering more, nothing may come (§ add-checkpoint).
 */
import {
  type Checkpoint,
  formatCheckpoint,
  type LogTrust,
  openCheckpoint,
  parseCheckpoint,
  parseDecimal,
  type VerifiedCheckpoint,
} from './checkpoint.ts'
import type { Cosigner } from './cosigner.ts'
import { decodeBase64, encodeBase64, NoteError, noteText, openNote, signatureLine, signNote } from './note.ts'
import { emptyRoot, hashBytes, verifyConsistency } from './tree.ts'

/** What an add-checkpoint request says. */
export interface CosignRequest {
  readonly oldSize: number
  readonly proof: readonly Uint8Array[]
  /** The signed note. */
  readonly checkpoint: string
}

/** Who the witness is, and which log it watches, by the log's own keys. */
export interface Witness {
  readonly cosigner: Cosigner
  readonly log: LogTrust
}

/** What the witness remembers of the log: the newest checkpoint it cosigned. */
export interface Witnessed extends Pick<Checkpoint, 'treeSize' | 'rootHash'> {
  /** The checkpoint with the log's signatures and ours; before the first, the empty tree with ours alone. */
  readonly note: string
}

export type CosignAnswer =
  /** `cosignature` is the signature line to answer with, once `next` is kept. */
  | { readonly status: 200; readonly cosignature: string; readonly next: Witnessed }
  /** `treeSize` is what the witness cosigned last: the proof must start there. */
  | { readonly status: 409; readonly treeSize: number }
  | { readonly status: 400 | 403 | 404 | 422; readonly reason: string }

/** Judges one add-checkpoint request. Never throws, whatever the body is. */
export function cosign(witness: Witness, witnessed: Witnessed, body: Uint8Array, now: Date): CosignAnswer {
  const { cosigner, log } = witness
  const request = parseRequest(body)
  if (request === undefined) return { status: 400, reason: 'malformed request' }
  if (!request.checkpoint.startsWith(`${log.origin}\n`)) return { status: 404, reason: 'unknown log' }
  let checkpoint: VerifiedCheckpoint
  try {
    checkpoint = openCheckpoint(request.checkpoint, log)
  } catch (error) {
    if (!(error instanceof NoteError)) throw error
    // A note that cannot be opened carries no signature that counts; one that can be may still say nothing about a tree.
    return { status: error.reason === 'malformed_checkpoint' ? 400 : 403, reason: error.reason.replaceAll('_', ' ') }
  }
  if (request.oldSize > checkpoint.treeSize) return { status: 400, reason: 'the old size exceeds the new' }
  if (request.oldSize !== witnessed.treeSize) return { status: 409, treeSize: witnessed.treeSize }
  const objection = objectionTo(checkpoint, witnessed, request.proof)
  if (objection !== undefined) return { status: 422, reason: objection }

  const text = noteText(request.checkpoint)
  const signed = signNote(text, [cosigner.at(now)])
  const cosignature = signed.slice(text.length + 1)
  const note = `${text}\n${checkpoint.verified.map(signatureLine).join('')}${cosignature}`
  return { status: 200, cosignature, next: { treeSize: checkpoint.treeSize, rootHash: checkpoint.rootHash, note } }
}

/** Why `next` does not extend what was witnessed, if it does not. From the empty tree anything does, without a proof. */
function objectionTo(next: Checkpoint, witnessed: Witnessed, proof: readonly Uint8Array[]): string | undefined {
  if (next.treeSize === 0 && Buffer.compare(next.rootHash, emptyRoot) !== 0) return 'not the root of the empty tree'
  if (witnessed.treeSize === 0) return proof.length === 0 ? undefined : 'a consistency proof from the empty tree'
  const [fromSize, toSize, fromRoot, toRoot] = [witnessed.treeSize, next.treeSize, witnessed.rootHash, next.rootHash]
  const consistent = verifyConsistency({ fromSize, toSize, fromRoot, toRoot, proof })
  return consistent ? undefined : 'the consistency proof does not verify'
}

/** What a witness remembers before it has seen anything. Signed, so that it cannot be mistaken for a lost file. */
export function witnessedNothing({ cosigner, log }: Witness, now: Date): Witnessed {
  const text = formatCheckpoint({ origin: log.origin, treeSize: 0, rootHash: emptyRoot })
  return { treeSize: 0, rootHash: emptyRoot, note: signNote(text, [cosigner.at(now)]) }
}

/** Reads back `note` as it was kept. NoteError unless this very witness cosigned it, for this very log. */
export function readWitnessed({ cosigner, log }: Witness, note: Uint8Array): Witnessed {
  const { text } = openNote(note, [cosigner.key])
  const { origin, treeSize, rootHash } = parseCheckpoint(text)
  if (origin !== log.origin) throw new NoteError('wrong_origin', `it is about ${origin}`)
  return { treeSize, rootHash, note: Buffer.from(note).toString() }
}

/** Whether the log signed what is remembered, so that it may be shown. */
export const hasCosigned = ({ cosigner }: Witness, { note }: Witnessed): boolean =>
  openNote(note, [cosigner.key]).unverified.length > 0

/** More would be longer than the proof of any tree (c2sp.org/tlog-witness: "MUST NOT send more than 63"). */
const maxProofHashes = 63

export const formatRequest = ({ oldSize, proof, checkpoint }: CosignRequest): Uint8Array =>
  Buffer.from(`old ${oldSize}\n${proof.map((hash) => `${encodeBase64(hash)}\n`).join('')}\n${checkpoint}`)

function parseRequest(body: Uint8Array): CosignRequest | undefined {
  const whole = Buffer.from(body)
  const split = whole.indexOf('\n\n')
  if (split < 0) return undefined
  // The lines are ASCII; whatever else stands there decodes to something that is neither a size nor a hash.
  const [old = '', ...lines] = whole.toString('latin1', 0, split).split('\n')
  const oldSize = old.startsWith('old ') ? parseDecimal(old.slice('old '.length)) : undefined
  const proof = lines.map(decodeBase64)
  const hashes = proof.filter((hash) => hash?.length === hashBytes) as Uint8Array[]
  if (oldSize === undefined || hashes.length !== lines.length || lines.length > maxProofHashes) return undefined
  const checkpoint = decodeUtf8(whole.subarray(split + 2))
  return checkpoint === undefined ? undefined : { oldSize, proof: hashes, checkpoint }
}

function decodeUtf8(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    return undefined
  }
}
