import type { Tx } from '../ports/database.ts'
import { findTile } from './reader.ts'
import { type TileAddress, tileNode } from './tile.ts'
import { type NodeAt, type TreeEdge, tileHeight, tileWidth } from './tree.ts'

/** Tiles above level 0 that are remembered, 8 KiB each and as much again for the nodes within: 16 million leaves' worth. */
const mostTiles = 256

/**
 * The nodes that proofs are made of, so that an old leaf of a large log costs what one of a small log costs: one tile of
 * level 0, read and hashed. The tiles above it are few and asked for again and again, and the right edge, on which every
 * proof ends, is in the sequencer's memory. A tile at one width never changes, so nothing here goes stale.
 */
export class TileCache {
  readonly #edge: () => TreeEdge | undefined
  readonly #remembered = new Map<string, NodeAt>()

  /** `edge` tells the right edge of the tree as this process last left it. */
  constructor(edge: () => TreeEdge | undefined) {
    this.#edge = edge
  }

  /** The complete nodes within the tiles of `needed`. Throws if the log lacks one of them. */
  async nodes(tx: Tx, needed: readonly TileAddress[]): Promise<NodeAt> {
    const loaded = new Map<string, NodeAt>()
    for (const tile of needed) loaded.set(`${tile.level}/${tile.index}`, await this.#nodesWithin(tx, tile))
    return (level, index) => {
      const firstHash = index * 2 ** (level % tileHeight)
      const within = loaded.get(`${Math.floor(level / tileHeight)}/${Math.floor(firstHash / tileWidth)}`)
      if (within === undefined) throw new RangeError(`no loaded tile holds the node (${level}, ${index})`)
      return within(level, index)
    }
  }

  async #nodesWithin(tx: Tx, tile: TileAddress): Promise<NodeAt> {
    const { level, index, width } = tile
    const name = `${level}/${index}.${width}`
    const known = this.#remembered.get(name)
    const hashes = known === undefined ? (this.#onEdge(tile) ?? (await findTile(tx, level, index, width))) : undefined
    if (known === undefined && hashes === undefined) {
      throw new Error(`tile ${level}/${index} of width ${width} is missing from the log`)
    }
    const nodes = known ?? tileNode(() => hashes)
    if (level > 0) this.#remember(name, nodes)
    return nodes
  }

  /** The last tile of its level, as far as the edge in memory has got. */
  #onEdge({ level, index, width }: TileAddress): Uint8Array | undefined {
    const edge = this.#edge()
    const hashes = edge?.partials[level]
    if (edge === undefined || hashes === undefined || hashes.length < width) return undefined
    if (index !== Math.floor(edge.treeSize / tileWidth ** (level + 1))) return undefined
    return Buffer.concat(hashes.slice(0, width))
  }

  /** The one asked for longest ago makes room. */
  #remember(name: string, nodes: NodeAt): void {
    this.#remembered.delete(name)
    this.#remembered.set(name, nodes)
    if (this.#remembered.size <= mostTiles) return
    for (const oldest of this.#remembered.keys()) if (this.#remembered.delete(oldest)) break
  }
}
