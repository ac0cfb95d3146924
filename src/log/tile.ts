/**
 * The log as files (c2sp.org/tlog-tiles): where each tile and entry bundle is found, which tiles a proof needs, and
 * proofs from tiles alone. A tile (level, index) holds up to 256 hashes in a row, those of the complete nodes
 * (8 · level, 256 · index …) of the tree; an entry bundle holds the entries under a tile of level 0.
 */
import { hashBytes, hashNode, type NodeAt, proveConsistency, proveInclusion, tileHeight, tileWidth } from './tree.ts'

/** The level of a tile, 0 to 63, or the row of entry bundles below them all. */
export type TileLevel = number | 'entries'

/** One tile at one width: 256 when it is full, 1 to 255 when it is the last of its level. */
export interface TileAddress<Level extends TileLevel = number> {
  readonly level: Level
  readonly index: number
  readonly width: number
}

const maxLevel = 63

/** `tile/0/x001/x234/067.p/8` and the like. RangeError for what no path can name. */
export function tilePath(level: TileLevel, index: number, width: number = tileWidth): string {
  if (!isAddress({ level, index, width })) throw new RangeError(`there is no tile ${level}/${index} of width ${width}`)
  const digits = String(index)
  const groups = digits.padStart(Math.ceil(digits.length / 3) * 3, '0').match(/\d{3}/g) ?? []
  const folders = groups.slice(0, -1).map((group) => `x${group}/`)
  const suffix = width === tileWidth ? '' : `.p/${width}`
  return `tile/${level}/${folders.join('')}${groups.at(-1)}${suffix}`
}

/** The tile or bundle a path names; undefined unless it is spelled exactly as {@link tilePath} spells it. */
export function parseTilePath(path: string): TileAddress<TileLevel> | undefined {
  const match = /^tile\/(entries|\d{1,2})\/((?:x\d{3}\/){0,5}\d{3})(?:\.p\/(\d{1,3}))?$/.exec(path)
  if (!match) return undefined
  const [, level, groups = '', width = tileWidth] = match
  const address: TileAddress<TileLevel> = {
    level: level === 'entries' ? level : Number(level),
    index: Number(groups.replaceAll(/\D/g, '')),
    width: Number(width),
  }
  if (!isAddress(address)) return undefined
  return tilePath(address.level, address.index, address.width) === path ? address : undefined
}

/** How many hashes the last, not yet full tile of a level has; 0 when there is none, and then none is served. */
export function partialWidth(level: number, treeSize: number): number {
  return Math.floor(treeSize / tileWidth ** level) % tileWidth
}

/**
 * The nodes of a tree from its tiles, for {@link proveInclusion} and {@link proveConsistency}. `tile` returns the bytes
 * of a loaded tile. RangeError where a hash is asked for that the tile does not hold. Nodes between two tile levels
 * are hashed once and remembered as long as the function is, so use one for all the proofs of one tree.
 */
export function tileNode(tile: (level: number, index: number) => Uint8Array | undefined): NodeAt {
  const hashed = new Map<string, Uint8Array>()
  const node: NodeAt = (level, index) => {
    if (level % tileHeight === 0) return storedHash(level / tileHeight, index)
    const name = `${level}/${index}`
    const known = hashed.get(name)
    if (known) return known
    const fresh = hashNode(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))
    hashed.set(name, fresh)
    return fresh
  }
  const storedHash = (level: number, index: number): Uint8Array => {
    const offset = (index % tileWidth) * hashBytes
    const found = tile(level, Math.floor(index / tileWidth))?.subarray(offset, offset + hashBytes)
    if (found?.length !== hashBytes) throw new RangeError(`no loaded tile of level ${level} holds hash ${index}`)
    return found
  }
  return node
}

/** The tiles that must be loaded to prove a leaf's inclusion, each at its width in a tree of `treeSize`. */
export function tilesForInclusion(leafIndex: number, treeSize: number): TileAddress[] {
  return tilesFor(treeSize, (node) => proveInclusion(leafIndex, treeSize, node))
}

/** The tiles that must be loaded to prove consistency, each at its width in the newer tree. */
export function tilesForConsistency(fromSize: number, toSize: number): TileAddress[] {
  return tilesFor(toSize, (node) => proveConsistency(fromSize, toSize, node))
}

/** Runs the proof over placeholder hashes and notes where it looked: no second arithmetic that could disagree. */
function tilesFor(treeSize: number, prove: (node: NodeAt) => unknown): TileAddress[] {
  const placeholder = new Uint8Array(hashBytes)
  const needed = new Map<string, TileAddress>()
  prove((nodeLevel, nodeIndex) => {
    const level = Math.floor(nodeLevel / tileHeight)
    const firstHash = nodeIndex * 2 ** (nodeLevel % tileHeight)
    const index = Math.floor(firstHash / tileWidth)
    const width = Math.min(tileWidth, Math.floor(treeSize / tileWidth ** level) - index * tileWidth)
    needed.set(`${level}/${index}`, { level, index, width })
    return placeholder
  })
  return [...needed.values()]
}

const lengthBytes = 2
const maxEntryBytes = 0xffff

/** The entries of a bundle, each after its length in two bytes, big-endian. RangeError unless 1 to 256 entries fit. */
export function encodeBundle(entries: readonly Uint8Array[]): Uint8Array {
  if (!isWidth(entries.length)) throw new RangeError(`a bundle holds 1 to ${tileWidth} entries, not ${entries.length}`)
  return Buffer.concat(
    entries.flatMap((entry) => {
      if (entry.length > maxEntryBytes) throw new RangeError(`an entry has at most ${maxEntryBytes} bytes`)
      return [Uint8Array.of(entry.length >> 8, entry.length & 0xff), entry]
    }),
  )
}

/** The entries of a bundle, as views into `bundle`; undefined unless it is exactly 1 to 256 whole entries. */
export function decodeBundle(bundle: Uint8Array): Uint8Array[] | undefined {
  const entries: Uint8Array[] = []
  for (let offset = 0; offset < bundle.length; ) {
    const start = offset + lengthBytes
    const end = start + (((bundle[offset] ?? 0) << 8) | (bundle[offset + 1] ?? 0))
    if (end > bundle.length || entries.length === tileWidth) return undefined
    entries.push(bundle.subarray(start, end))
    offset = end
  }
  return isWidth(entries.length) ? entries : undefined
}

function isAddress({ level, index, width }: TileAddress<TileLevel>): boolean {
  const levelExists = level === 'entries' || (Number.isInteger(level) && level >= 0 && level <= maxLevel)
  return levelExists && Number.isSafeInteger(index) && index >= 0 && isWidth(width)
}

function isWidth(width: number): boolean {
  return Number.isInteger(width) && width >= 1 && width <= tileWidth
}
