/**
 * A proof that travels (c2sp.org/tlog-proof@v1): with it, an entry and the log's vkey, anyone can check offline that
 * the entry is in the log.
 *
 *     c2sp.org/tlog-proof@v1
 *     extra <base64>            optional, opaque, and authenticated by nothing
 *     index 5                   leafIndex
 *     zMKa4OAq…                 the inclusion proof: one hash a line, the leaf's sibling first
 *     nk9gCR+f…
 *
 *     example.com/log …         the checkpoint, verbatim
 */
import { type LogTrust, openCheckpoint, parseDecimal, type VerifiedCheckpoint } from './checkpoint.ts'
import { decodeBase64, encodeBase64, maxNoteBytes, NoteError, type NoteRefusal } from './note.ts'
import { hashBytes, hashLeaf, verifyInclusion } from './tree.ts'

export interface TlogProof {
  readonly leafIndex: number
  /** The inclusion proof, 32 bytes each, the leaf's sibling first. */
  readonly proof: readonly Uint8Array[]
  /** The signed note, verbatim. */
  readonly checkpoint: string
  readonly extra?: Uint8Array
}

/** What became of a verification. `failed` is the first step that did not hold. */
export type TlogProofVerdict =
  | { readonly ok: true; readonly leafIndex: number; readonly checkpoint: VerifiedCheckpoint }
  | { readonly ok: false; readonly failed: 'format' | 'checkpoint'; readonly reason: NoteRefusal }
  | { readonly ok: false; readonly failed: 'inclusion' }

/** Whether `text` proves `entry` to be in the log we expect. Never throws, whatever the text is. */
export function verifyProof(text: string, entry: Uint8Array, trust: LogTrust): TlogProofVerdict {
  let failed: 'format' | 'checkpoint' = 'format'
  try {
    const { leafIndex, proof, checkpoint: note } = parseProof(text)
    failed = 'checkpoint'
    const checkpoint = openCheckpoint(note, trust)
    const { treeSize, rootHash } = checkpoint
    return verifyInclusion({ leafHash: hashLeaf(entry), leafIndex, treeSize, proof, rootHash })
      ? { ok: true, leafIndex, checkpoint }
      : { ok: false, failed: 'inclusion' }
  } catch (error) {
    if (error instanceof NoteError) return { ok: false, failed, reason: error.reason }
    throw error
  }
}

/** How a line of the inclusion proof is spelled or read. `linesAbove` is how many follow it, up to the root's children. */
export type LineOfHash = (hash: Uint8Array, linesAbove: number) => string
export type HashOfLine = (line: string, linesAbove: number) => Uint8Array

/** The proof as text. What it is made of is not checked here: whoever issues a proof verifies it. */
export function formatProof(
  { leafIndex, proof, checkpoint, extra }: TlogProof,
  lineOf: LineOfHash = encodeBase64,
): string {
  let text = `${firstLine}\n`
  if (extra) text += `extra ${encodeBase64(extra)}\n`
  text += `index ${leafIndex}\n`
  let linesAbove = proof.length
  for (const hash of proof) text += `${lineOf(hash, --linesAbove)}\n`
  return `${text}\n${checkpoint}`
}

const firstLine = 'c2sp.org/tlog-proof@v1'

/** The longest inclusion proof in any tree of at most 2^53−1 leaves. */
const maxProofHashes = 53

/** Reads a proof, which is not verified by that. NoteError (malformed_proof) unless it is spelled the one way. */
export function parseProof(text: string, hashOf: HashOfLine = parseHash): TlogProof {
  const split = text.indexOf('\n\n')
  if (text.length > maxNoteBytes || split < 0) throw malformed('not a proof, an empty line and a checkpoint')
  const lines = text.slice(0, split).split('\n')
  if (lines[0] !== firstLine) throw malformed(`the first line is not ${firstLine}`)
  const extra = lines[1]?.startsWith('extra ') ? parseExtra(lines[1]) : undefined
  const indexAt = extra ? 2 : 1
  const index = lines[indexAt] ?? ''
  const leafIndex = index.startsWith('index ') ? parseDecimal(index.slice('index '.length)) : undefined
  if (leafIndex === undefined) throw malformed('no leaf index')
  const hashes = lines.slice(indexAt + 1)
  if (hashes.length > maxProofHashes) throw malformed('a longer proof than any tree has')
  const proof = hashes.map((line, i) => hashOf(line, hashes.length - 1 - i))
  return { leafIndex, proof, checkpoint: text.slice(split + 2), ...(extra && { extra }) }
}

/** No extra data is said by no line, so a line without any is refused. */
function parseExtra(line: string): Uint8Array {
  const extra = decodeBase64(line.slice('extra '.length))
  if (!extra?.length) throw malformed('the extra line holds no base64')
  return extra
}

/** The 32 bytes of a line of the inclusion proof. NoteError (malformed_proof) if it is none. */
export function parseHash(line: string): Uint8Array {
  const bytes = decodeBase64(line)
  if (bytes?.length !== hashBytes) throw malformed('a line of the proof is not a hash')
  return bytes
}

function malformed(detail: string): NoteError {
  return new NoteError('malformed_proof', detail)
}
