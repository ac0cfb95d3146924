import type { ObjectStore } from '../../ports/object-store.ts'
import { mirrorKey, tileKey } from '../published.ts'
import { decodeBundle } from '../tile.ts'
import { hashBytes, hashLeaf, type TreeEdge, tileWidth } from '../tree.ts'
import type { Tell } from './finding.ts'
import type { Copy, CopyKeeper, NamedCheckpoint, Stretch, TilesByAddress } from './rebuild.ts'

/** What was published of a log: full tiles and bundles below `publishedSize`, partial ones at the size of the mirror. */
export class ObjectCopies implements CopyKeeper {
  readonly #store: ObjectStore
  readonly #publishedSize: number
  readonly #mirrorSize: number
  /** Leaves that the bundles reach to. */
  readonly treeSize: number

  constructor(store: ObjectStore, publishedSize: number, mirrorSize: number) {
    this.#store = store
    this.#publishedSize = publishedSize
    this.#mirrorSize = mirrorSize
    this.treeSize = Math.max(mirrorSize, publishedSize - (publishedSize % tileWidth))
  }

  async read({ tileIndex, width }: Stretch, tell: Tell): Promise<readonly Copy[]> {
    const kept = this.#keptWidth(tileIndex)
    const nothing = Array.from({ length: width }, () => undefined)
    const bundle = kept === 0 ? nothing : await this.#bundle(tileIndex, kept, tell)
    const tile = kept === 0 ? nothing : await this.#tile(tileIndex, kept, tell)
    return [
      { name: 'the entry bundle in the object store', word: 'entry_mismatch', leafHashes: fit(bundle, width) },
      { name: 'the tile in the object store', word: 'tile_mismatch', leafHashes: fit(tile, width) },
    ]
  }

  async checkTiles(tiles: TilesByAddress, tell: Tell): Promise<void> {
    for (const [first] of tiles.values()) {
      if (first === undefined || first.level === 0) continue // those were read as a copy
      const leaves = tileWidth ** (first.level + 1)
      if ((first.index + 1) * leaves > this.#publishedSize) continue
      const key = tileKey(first.level, first.index)
      const kept = await this.#store.find(key)
      const candidates = tiles.get(`${first.level}/${first.index}`) ?? []
      tellOfTile(tell, { level: first.level, index: first.index, name: `${key} in the object store` }, kept, candidates)
    }
  }

  /** The partial tiles that the mirror's checkpoint stands on. */
  async checkEdge({ name, treeSize }: NamedCheckpoint, edge: TreeEdge, tell: Tell): Promise<void> {
    if (name !== mirrorName || treeSize !== this.#mirrorSize) return
    for (const [level, hashes] of edge.partials.entries()) {
      const wasRead = level === 0 && treeSize === this.treeSize // as a copy
      if (wasRead || hashes.length === 0) continue
      const index = Math.floor(treeSize / tileWidth ** (level + 1))
      const key = tileKey(level, index, hashes.length)
      const candidates = [{ hashes: Buffer.concat(hashes) }]
      tellOfTile(tell, { level, index, name: `${key} in the object store` }, await this.#store.find(key), candidates)
    }
  }

  /** How many leaves of this tile must be there. */
  #keptWidth(tileIndex: number): number {
    return Math.min(tileWidth, Math.max(0, this.treeSize - tileIndex * tileWidth))
  }

  async #bundle(index: number, width: number, tell: Tell): Promise<(Uint8Array | undefined)[]> {
    const key = tileKey('entries', index, width)
    const bytes = await this.#store.find(key)
    const entries = bytes && decodeBundle(bytes)
    if (entries?.length === width && entries.every((entry) => entry.length === hashBytes)) return entries.map(hashLeaf)
    const lack = bytes === undefined ? 'is missing' : 'is no entry bundle of this width'
    tell({ word: 'bundle_missing', leafIndex: index * tileWidth, detail: `${key} ${lack} in the object store` })
    return []
  }

  async #tile(index: number, width: number, tell: Tell): Promise<(Uint8Array | undefined)[]> {
    const key = tileKey(0, index, width)
    const hashes = await this.#store.find(key)
    if (hashes?.length === width * hashBytes) return splitHashes(hashes)
    const lack = hashes === undefined ? 'is missing' : 'is no tile of this width'
    tell({ word: 'tile_missing', leafIndex: index * tileWidth, detail: `${key} ${lack} in the object store` })
    return []
  }
}

export const mirrorName = `${mirrorKey} in the object store`

export const splitHashes = (hashes: Uint8Array): Uint8Array[] =>
  Array.from({ length: hashes.length / hashBytes }, (_, i) => hashes.subarray(i * hashBytes, (i + 1) * hashBytes))

const fit = (hashes: readonly (Uint8Array | undefined)[], width: number): (Uint8Array | undefined)[] =>
  Array.from({ length: width }, (_, i) => hashes[i])

/** Tells of a tile that is not there, or that is none of those that copies lead to. */
export function tellOfTile(
  tell: Tell,
  { level, index, name }: { level: number; index: number; name: string },
  kept: Uint8Array | undefined,
  candidates: readonly { hashes: Uint8Array }[],
): void {
  const leavesOfHash = tileWidth ** level
  const firstLeaf = index * tileWidth * leavesOfHash
  if (kept === undefined) {
    tell({ word: 'tile_missing', leafIndex: firstLeaf, detail: `${name} is missing` })
    return
  }
  if (candidates.some(({ hashes }) => Buffer.compare(hashes, kept) === 0)) return
  const right = splitHashes(candidates[0]?.hashes ?? new Uint8Array())
  const at = right.findIndex((hash, i) => Buffer.compare(hash, kept.subarray(i * hashBytes, (i + 1) * hashBytes)) !== 0)
  const leafIndex = firstLeaf + Math.max(0, at) * leavesOfHash
  const detail = `${name} holds another hash ${Math.max(0, at)}, of the leaves from ${leafIndex} on, than they have`
  // A hash higher up stands for many leaves: which of them, if any, is wrong is told by the copies of the leaves.
  tell({ word: 'tile_mismatch', ...(level === 0 && { leafIndex }), detail })
}
