/**
 * The Merkle tree of RFC 6962 §2.1 over SHA-256. A node is named by (level, index): it stands over the 2^level leaves
 * from index · 2^level on. Only complete nodes have names that last; what lies right of the last complete node of a
 * level is its remainder, and changes with every leaf.
 *
 *     append     leaves join the right edge: a TreeEdge, and what grew on it
 *     prove      inclusion and consistency, bottom up, from any source of complete nodes
 *     verify     the same, from outside, by the algorithms of RFC 9162; never throws
 *
 * Sizes and indices are plain numbers up to 2^53−1, so they are halved by division: JavaScript shifts stop at 32 bits.
 */
import { sha256 } from '../message/digest.ts'

/** Bytes of a hash. */
export const hashBytes = 32

/** Levels in one tile, and hashes along its bottom (c2sp.org/tlog-tiles). */
export const tileHeight = 8
export const tileWidth = 256

/** The hash of the complete node (level, index), 32 bytes. */
export type NodeAt = (level: number, index: number) => Uint8Array

const leafPrefix = Uint8Array.of(0x00)

/** SHA-256(0x00 || entry), RFC 6962 §2.1. */
export function hashLeaf(entry: Uint8Array): Uint8Array {
  if (entry.length !== hashBytes) return sha256(Buffer.concat([leafPrefix, entry])) // of another log
  leafInput.set(entry, 1)
  return sha256(leafInput)
}

/** SHA-256(0x01 || left || right), RFC 6962 §2.1. RangeError unless both are hashes. */
export function hashNode(left: Uint8Array, right: Uint8Array): Uint8Array {
  if (left.length !== hashBytes || right.length !== hashBytes) throw new RangeError(`a hash has ${hashBytes} bytes`)
  nodeInput.set(left, 1)
  nodeInput.set(right, 1 + hashBytes)
  return sha256(nodeInput)
}

// What a hash is over is written over what the last one was over: a buffer for each costs more than hashing.
const leafInput = Buffer.alloc(1 + hashBytes, 0x00)
const nodeInput = Buffer.alloc(1 + 2 * hashBytes, 0x01)

/** The root of the tree without leaves: SHA-256 of nothing, RFC 6962 §2.1. */
export const emptyRoot: Uint8Array = sha256(Buffer.of())

/** A tile that became full: `hashes` are its 256 hashes in a row (8,192 bytes), `rootHash` the one over them. */
export interface FullTile {
  readonly level: number
  readonly index: number
  readonly hashes: Uint8Array
  readonly rootHash: Uint8Array
}

/** What appending one batch of leaves made. */
export interface Growth {
  readonly edge: TreeEdge
  /** The tiles this batch filled: level by level from the leaves up, each level from left to right. */
  readonly fullTiles: readonly FullTile[]
  /** The inclusion proof, in the tree of `edge`, of a leaf of this batch; RangeError for any other leaf. */
  prove(leafIndex: number): Uint8Array[]
}

/**
 * The right edge of a tree: all that appending needs, at most 255 hashes for each 8 levels, however many leaves there
 * are. Immutable: appending returns a new edge, so a batch that fails to commit leaves nothing to undo.
 */
export class TreeEdge {
  readonly treeSize: number
  readonly rootHash: Uint8Array
  /** `partials[l]`: the hashes of the last, not yet full tile of tile level l. None are full; the last is not empty. */
  readonly partials: readonly (readonly Uint8Array[])[]
  /** The complete nodes whose sibling is still to come, by level: one for each bit that is set in treeSize. */
  readonly #frontier: readonly (Uint8Array | undefined)[]
  readonly #remainders: readonly (Uint8Array | undefined)[]

  static readonly empty = new TreeEdge(0, [], [])

  private constructor(
    treeSize: number,
    partials: readonly (readonly Uint8Array[])[],
    frontier: readonly (Uint8Array | undefined)[],
  ) {
    this.treeSize = treeSize
    this.partials = partials
    this.#frontier = frontier
    this.#remainders = foldRemainders(frontier)
    this.rootHash = this.#remainders.at(-1) ?? emptyRoot
  }

  /**
   * The edge of a stored tree, from its partial tiles. RangeError unless they have exactly the widths that a tree of
   * `treeSize` leaves has. Whether they are the right hashes is for the caller to check, by `rootHash`.
   */
  static load(treeSize: number, partials: readonly (readonly Uint8Array[])[]): TreeEdge {
    checkSize(treeSize)
    const widths: number[] = []
    for (let rest = treeSize; rest > 0; rest = Math.floor(rest / tileWidth)) widths.push(rest % tileWidth)
    const found = partials.map((hashes) => hashes.length)
    if (found.join() !== widths.join()) {
      throw new RangeError(`a tree of ${treeSize} leaves ends in tiles of ${widths} hashes, not of ${found}`)
    }
    const frontier = partials.flatMap((hashes) => {
      checkHashes(hashes)
      const rows = [hashes]
      while (rows.length < tileHeight) rows.push(pairUp(rows.at(-1) ?? []))
      return rows.map(unpaired)
    })
    return new TreeEdge(
      treeSize,
      partials.map((hashes) => [...hashes]),
      frontier,
    )
  }

  /** Appends leaves, each by its leaf hash of 32 bytes. Hashes every new node once; the cost is that of the batch. */
  append(leafHashes: readonly Uint8Array[]): Growth {
    checkHashes(leafHashes)
    const first = this.treeSize
    const treeSize = first + leafHashes.length
    checkSize(treeSize)

    // Row k holds the nodes this batch completes at level k, after the one on the frontier that waits for a sibling.
    // Either way it starts at an even index, 2 · floor(first / 2^(k+1)), so its pairs are the fresh nodes above.
    const rows: (readonly Uint8Array[])[] = []
    for (let fresh = leafHashes; fresh.length > 0 || rows.length < this.#frontier.length; ) {
      const waiting = this.#frontier[rows.length]
      const row = waiting ? [waiting, ...fresh] : fresh
      rows.push(row)
      fresh = pairUp(row)
    }
    const node: NodeAt = (level, index) => {
      const found = rows[level]?.[index - 2 * Math.floor(first / 2 ** (level + 1))]
      if (!found) throw new RangeError(`the batch holds no node (${level}, ${index})`)
      return found
    }

    const fullTiles: FullTile[] = []
    const partials: (readonly Uint8Array[])[] = []
    for (let level = 0; level * tileHeight < rows.length; level++) {
      const row = rows[level * tileHeight] ?? []
      const fresh = this.#frontier[level * tileHeight] ? row.slice(1) : row
      let hashes = [...(this.partials[level] ?? []), ...fresh]
      for (let index = Math.floor(first / tileWidth ** (level + 1)); hashes.length >= tileWidth; index++) {
        fullTiles.push({
          level,
          index,
          hashes: Buffer.concat(hashes.slice(0, tileWidth)),
          rootHash: node((level + 1) * tileHeight, index),
        })
        hashes = hashes.slice(tileWidth)
      }
      partials.push(hashes)
    }

    const edge = new TreeEdge(treeSize, partials, rows.map(unpaired))
    const remainder = (level: number) => edge.#remainders[level]
    return {
      edge,
      fullTiles,
      prove(leafIndex) {
        if (!(leafIndex >= first && leafIndex < treeSize))
          throw new RangeError(`leaf ${leafIndex} is not of this batch`)
        return siblings(0, leafIndex, treeSize, node, remainder)
      },
    }
  }
}

/**
 * The inclusion proof of a leaf, its sibling first and a child of the root last (RFC 6962 §2.1.1). Asks `node` for
 * complete nodes only. RangeError unless 0 <= leafIndex < treeSize.
 */
export function proveInclusion(leafIndex: number, treeSize: number, node: NodeAt): Uint8Array[] {
  checkSize(treeSize)
  if (!isIndex(leafIndex, treeSize)) throw new RangeError(`there is no leaf ${leafIndex} in a tree of ${treeSize}`)
  return siblings(0, leafIndex, treeSize, node, remainderFrom(treeSize, node))
}

/**
 * The proof that the first `fromSize` leaves of the tree of `toSize` were its leaves before (RFC 6962 §2.1.2). Asks
 * `node` for complete nodes only. RangeError unless 1 <= fromSize <= toSize: from the empty tree there is nothing to
 * prove, and {@link verifyConsistency} refuses it.
 */
export function proveConsistency(fromSize: number, toSize: number, node: NodeAt): Uint8Array[] {
  checkSize(toSize)
  if (!isIndex(fromSize - 1, toSize)) throw new RangeError(`a tree of ${toSize} does not extend one of ${fromSize}`)
  // The proof is the path of the last complete subtree of the older tree. That subtree starts it, unless it is the
  // whole older tree: then the verifier has its hash.
  if (fromSize === toSize) return []
  const level = trailingZeros(fromSize)
  const index = fromSize / 2 ** level - 1
  const path = siblings(level, index, toSize, node, remainderFrom(toSize, node))
  return index === 0 ? path : [node(level, index), ...path]
}

/** A leaf, and the path that is said to lead from it to a root. */
interface InclusionClaim {
  leafHash: Uint8Array
  leafIndex: number
  treeSize: number
  proof: readonly Uint8Array[]
}

/** How the hash over two nodes is had. `linesAbove` is how many hashes of the proof are still to come. */
export type HashOver = (left: Uint8Array, right: Uint8Array, linesAbove: number) => Uint8Array

/** Whether `proof` leads from the leaf to the root, by RFC 9162 §2.1.3.2. False for any malformed value; never throws. */
export function verifyInclusion(claim: InclusionClaim & { rootHash: Uint8Array }, over: HashOver = hashNode): boolean {
  const found = rootOfInclusion(claim, over)
  return found !== undefined && isHash(claim.rootHash) && sameHash(found, claim.rootHash)
}

/** The root to which `proof` leads from the leaf; undefined for any malformed value, or a path of another length. */
export function rootOfInclusion(
  { leafHash, leafIndex, treeSize, proof }: InclusionClaim,
  over: HashOver = hashNode,
): Uint8Array | undefined {
  if (!isSize(treeSize) || !isIndex(leafIndex, treeSize)) return undefined
  if (!isHash(leafHash) || !proof.every(isHash)) return undefined

  let index = leafIndex // RFC 9162: fn
  let last = treeSize - 1 // RFC 9162: sn
  let node = leafHash // RFC 9162: r
  let linesAbove = proof.length
  for (const sibling of proof) {
    if (last === 0) return undefined
    linesAbove--
    if (isOdd(index) || index === last) {
      node = over(sibling, node, linesAbove)
      for (; !isOdd(index) && index !== 0; index = half(index)) last = half(last)
    } else {
      node = over(node, sibling, linesAbove)
    }
    index = half(index)
    last = half(last)
  }
  return last === 0 ? node : undefined
}

/**
 * Whether `proof` shows the older tree to be a prefix of the newer, by RFC 9162 §2.1.4.2. False for any malformed
 * value; never throws. False also from size 0: the empty tree proves nothing about a later one, so whoever starts
 * from it must decide that before asking.
 */
export function verifyConsistency(claim: {
  fromSize: number
  toSize: number
  fromRoot: Uint8Array
  toRoot: Uint8Array
  proof: readonly Uint8Array[]
}): boolean {
  const { fromSize, toSize, fromRoot, toRoot, proof } = claim
  if (!isSize(toSize) || !isIndex(fromSize - 1, toSize)) return false
  if (![fromRoot, toRoot, ...proof].every(isHash)) return false
  if (fromSize === toSize) return proof.length === 0 && sameHash(fromRoot, toRoot)

  const trailing = trailingZeros(fromSize)
  const [start, ...path] = fromSize === 2 ** trailing ? [fromRoot, ...proof] : proof
  if (!start) return false
  let index = Math.floor((fromSize - 1) / 2 ** trailing) // RFC 9162: fn
  let last = Math.floor((toSize - 1) / 2 ** trailing) // RFC 9162: sn
  let older = start // RFC 9162: fr
  let newer = start // RFC 9162: sr
  for (const sibling of path) {
    if (last === 0) return false
    if (isOdd(index) || index === last) {
      older = hashNode(sibling, older)
      newer = hashNode(sibling, newer)
      for (; !isOdd(index) && index !== 0; index = half(index)) last = half(last)
    } else {
      newer = hashNode(newer, sibling)
    }
    index = half(index)
    last = half(last)
  }
  return last === 0 && sameHash(older, fromRoot) && sameHash(newer, toRoot)
}

/** The hash over the leaves right of the last complete node of `level`; undefined where there are none. */
type RemainderAt = (level: number) => Uint8Array | undefined

/** The siblings of a complete node and of all its ancestors, bottom first. */
function siblings(
  startLevel: number,
  startIndex: number,
  treeSize: number,
  node: NodeAt,
  remainder: RemainderAt,
): Uint8Array[] {
  const path: Uint8Array[] = []
  let index = startIndex
  for (let level = startLevel; 2 ** level < treeSize; level++) {
    const complete = Math.floor(treeSize / 2 ** level)
    const sibling = isOdd(index) ? index - 1 : index + 1
    // With neither, the node has no sibling here and is its own parent: RFC 6962 hashes no node with itself.
    const hashOfSibling =
      sibling < complete ? node(level, sibling) : sibling === complete ? remainder(level) : undefined
    if (hashOfSibling) path.push(hashOfSibling)
    index = half(index)
  }
  return path
}

function remainderFrom(treeSize: number, node: NodeAt): RemainderAt {
  return (level) => {
    const frontier = Array.from({ length: level }, (_, below) => {
      const complete = Math.floor(treeSize / 2 ** below)
      return isOdd(complete) ? node(below, complete - 1) : undefined
    })
    return foldRemainders(frontier).at(-1)
  }
}

/** From the frontier, lowest level first, the remainder of each level and, last, the root. */
function foldRemainders(frontier: readonly (Uint8Array | undefined)[]): (Uint8Array | undefined)[] {
  let remainder: Uint8Array | undefined
  const above = frontier.map((waiting) => {
    remainder = waiting && remainder ? hashNode(waiting, remainder) : (waiting ?? remainder)
    return remainder
  })
  return [undefined, ...above]
}

/** The parents of a row of nodes that starts at an even index. */
function pairUp(row: readonly Uint8Array[]): Uint8Array[] {
  const parents: Uint8Array[] = []
  for (let left = 0; left + 1 < row.length; left += 2) {
    parents.push(hashNode(row[left] as Uint8Array, row[left + 1] as Uint8Array))
  }
  return parents
}

function unpaired(row: readonly Uint8Array[]): Uint8Array | undefined {
  return isOdd(row.length) ? row.at(-1) : undefined
}

function half(value: number): number {
  return Math.floor(value / 2)
}

function isOdd(value: number): boolean {
  return value % 2 === 1
}

/** Of a positive number: how often it can be halved. */
function trailingZeros(value: number): number {
  let zeros = 0
  for (let rest = value; !isOdd(rest); rest /= 2) zeros++
  return zeros
}

function isSize(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0
}

function isIndex(value: number, size: number): boolean {
  return isSize(value) && value < size
}

function isHash(value: Uint8Array): boolean {
  return value instanceof Uint8Array && value.length === hashBytes
}

export function sameHash(one: Uint8Array, other: Uint8Array): boolean {
  return one === other || Buffer.compare(one, other) === 0
}

function checkSize(treeSize: number): void {
  if (!isSize(treeSize)) throw new RangeError(`no tree has ${treeSize} leaves`)
}

function checkHashes(hashes: readonly Uint8Array[]): void {
  if (!hashes.every(isHash)) throw new RangeError(`a hash has ${hashBytes} bytes`)
}
