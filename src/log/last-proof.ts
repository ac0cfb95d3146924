import { encodeBase64 } from './note.ts'
import { type HashOfLine, type LineOfHash, parseHash } from './tlog-proof.ts'
import { type HashOver, hashNode, sameHash } from './tree.ts'

/**
 * What one proof leaves behind for the next. The leaves of a batch stand side by side in one tree, so their proofs
 * differ in the lowest lines only, and what was done for the lines above is asked for again.
 *
 * Each method answers as the function it stands in for, whose values depend on nothing but what is asked. The last
 * answer is remembered for each line, counted from the root, where neighbours agree; another question is answered
 * anew. So no text and no verdict depends on what came before, and the memory is that of one proof. Hashes are never
 * written to once they are made, which this relies on.
 */
export class LastProof {
  readonly #lines: { readonly hash: Uint8Array; readonly line: string }[] = []
  readonly #hashes: { readonly line: string; readonly hash: Uint8Array }[] = []
  readonly #parents: { readonly left: Uint8Array; readonly right: Uint8Array; readonly parent: Uint8Array }[] = []

  /** As {@link encodeBase64}. */
  readonly lineOf: LineOfHash = (hash, linesAbove) => {
    const known = this.#lines[linesAbove]
    if (known?.hash === hash) return known.line
    const line = encodeBase64(hash)
    this.#lines[linesAbove] = { hash, line }
    return line
  }

  /** As {@link parseHash}: NoteError for what is no hash, which is not remembered. */
  readonly hashOf: HashOfLine = (line, linesAbove) => {
    const known = this.#hashes[linesAbove]
    if (known?.line === line) return known.hash
    const hash = parseHash(line)
    this.#hashes[linesAbove] = { line, hash }
    return hash
  }

  /** As {@link hashNode}. */
  readonly over: HashOver = (left, right, linesAbove) => {
    const known = this.#parents[linesAbove]
    if (known !== undefined && sameHash(known.left, left) && sameHash(known.right, right)) return known.parent
    const parent = hashNode(left, right)
    this.#parents[linesAbove] = { left, right, parent }
    return parent
  }
}
