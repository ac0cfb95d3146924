import { partialWidth } from '../log/tile.ts'
import { hashBytes, hashLeaf, hashNode, TreeEdge, tileHeight, tileWidth } from '../log/tree.ts'
import type { JsonObject, JsonValue } from '../message/json.ts'
import { Wrong } from './export-fault.ts'
import { hasOthers, readBytes, readText } from './export-members.ts'

/**
 * The tiles that an export brings, from the right edge, which must hash to the root of the checkpoint, down to the leaves:
 * none is relied on before it was held against the one above it. Of each level only the edge and the tile met last are
 * kept, since leaves come in order. Every method throws {@link Wrong}.
 */
export class ExportTiles {
  readonly #treeSize: number
  readonly #rootHash: Uint8Array
  /** The levels whose partial tile is still to come, from the top down. */
  readonly #awaited: number[] = []
  /** By level. */
  readonly #edge: Uint8Array[] = []
  readonly #full = new Map<number, { readonly index: number; readonly hashes: Uint8Array }>()

  constructor({ treeSize, rootHash }: { treeSize: number; rootHash: Uint8Array }) {
    this.#treeSize = treeSize
    this.#rootHash = rootHash
    for (let level = 0; tileWidth ** level <= treeSize; level++)
      if (partialWidth(level, treeSize) > 0) this.#awaited.unshift(level)
  }

  /** Whether the whole right edge is there. Nothing else may come before. */
  get hasEdge(): boolean {
    return this.#awaited.length === 0
  }

  /** What to say of a line that stands where the next tile of the edge should. */
  edgeMissing(): Wrong {
    const [level = 0] = this.#awaited
    const name = `${level}/${this.#edgeIndex(level)}.p/${partialWidth(level, this.#treeSize)}`
    return new Wrong('removed', `tile ${name} should stand here`, undefined, `{"tile":"${name}"`)
  }

  take(line: JsonObject): void {
    const [, levelText = '', indexText = '', widthText] =
      /^(\d{1,2})\/(0|[1-9]\d{0,15})(?:\.p\/(\d{1,3}))?$/.exec(readText(line.tile) ?? '') ?? []
    const level = Number(levelText)
    const index = Number(indexText)
    const width = widthText === undefined ? tileWidth : Number(widthText)
    const hashes = levelText === '' ? undefined : readBytes(line.hashes, width * hashBytes)
    if (hashes === undefined || hasOthers(line, ['tile', 'hashes']))
      throw new Wrong('changed', 'a tile is not of its form')
    if (widthText !== undefined) this.#takeEdge(level, index, width, hashes)
    else if (!this.hasEdge) throw this.edgeMissing()
    else this.#takeFull(level, index, hashes)
  }

  /** That `entry` stands at `index`, by its tile, or where that is not there by its own path to the tile above. */
  checkLeaf(index: number, entry: Uint8Array, path: JsonValue | undefined): void {
    let hash = hashLeaf(entry)
    let expected: Uint8Array
    if (path === undefined) {
      expected = this.#hashAt(0, index, index)
    } else {
      const siblings = readBytes(path, tileHeight * hashBytes)
      if (siblings === undefined) throw new Wrong('changed', `the path of leaf ${index} is not of its form`, index)
      for (const [level, sibling] of split(siblings).entries()) {
        const isRight = Math.floor(index / 2 ** level) % 2 === 1
        hash = isRight ? hashNode(sibling, hash) : hashNode(hash, sibling)
      }
      expected = this.#hashAt(1, Math.floor(index / tileWidth), index)
    }
    if (Buffer.compare(hash, expected) !== 0)
      throw new Wrong('changed', `leaf ${index} is not what stands at this place of the log`, index)
  }

  #edgeIndex(level: number): number {
    return Math.floor(this.#treeSize / tileWidth ** (level + 1))
  }

  #takeEdge(level: number, index: number, width: number, hashes: Uint8Array): void {
    const name = `tile ${level}/${index}.p/${width}`
    if (this.#edge[level] !== undefined) throw new Wrong('duplicated', `${name} is there twice`)
    const [expected] = this.#awaited
    if (expected === undefined) throw new Wrong('reordered', `${name} does not belong here`)
    if (level !== expected) throw this.edgeMissing()
    if (index !== this.#edgeIndex(level) || width !== partialWidth(level, this.#treeSize))
      throw new Wrong('changed', `${name} is no tile at the edge of a tree of ${this.#treeSize}`)
    this.#edge[level] = hashes
    this.#awaited.shift()
    if (!this.hasEdge) return
    const partials: Uint8Array[][] = []
    for (let each = 0; tileWidth ** each <= this.#treeSize; each++) partials.push(split(this.#edge[each]))
    const { rootHash } = TreeEdge.load(this.#treeSize, partials)
    if (Buffer.compare(rootHash, this.#rootHash) !== 0)
      throw new Wrong('changed', 'the tiles at the edge do not hash to the root of the checkpoint')
  }

  #takeFull(level: number, index: number, hashes: Uint8Array): void {
    const name = `tile ${level}/${index}`
    const before = this.#full.get(level)
    if (before !== undefined && index <= before.index)
      throw new Wrong(index === before.index ? 'duplicated' : 'reordered', `${name} is there again, or too late`)
    const firstLeaf = index * tileWidth ** (level + 1)
    if ((index + 1) * tileWidth ** (level + 1) > this.#treeSize)
      throw new Wrong('changed', `${name} is not full in a tree of ${this.#treeSize}`, firstLeaf)
    const { rootHash } = TreeEdge.empty.append(split(hashes)).edge
    if (Buffer.compare(rootHash, this.#hashAt(level + 1, index, firstLeaf)) !== 0)
      throw new Wrong('changed', `${name} does not hash to what the tile above it says`, firstLeaf)
    this.#full.set(level, { index, hashes })
  }

  /** A hash in a tile that was checked. */
  #hashAt(level: number, index: number, leafIndex: number): Uint8Array {
    const tileIndex = Math.floor(index / tileWidth)
    const full = this.#full.get(level)
    const hashes =
      full?.index === tileIndex ? full.hashes : tileIndex === this.#edgeIndex(level) ? this.#edge[level] : undefined
    const offset = (index % tileWidth) * hashBytes
    const found = hashes?.subarray(offset, offset + hashBytes)
    if (found?.length === hashBytes) return found
    const name = `${level}/${tileIndex}`
    throw new Wrong('removed', `tile ${name} should stand before this line`, leafIndex, `{"tile":"${name}"`)
  }
}

const split = (hashes: Uint8Array = new Uint8Array()): Uint8Array[] =>
  Array.from({ length: hashes.length / hashBytes }, (_, i) => hashes.subarray(i * hashBytes, (i + 1) * hashBytes))
