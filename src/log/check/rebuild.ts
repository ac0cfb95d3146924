/**
 * The leaves of a log are kept in several copies: statements, entries, bundles and tiles in the database; bundles and
 * tiles in the object store. Each copy is rebuilt into a tree of its own, from leaf 0 on, by the relay's own
 * {@link TreeEdge}; copies that agree share the work. Wherever a signed checkpoint says what the root was, copies that
 * lead to it are right, and those that do not are wrong from where they first differ from a right one. If none leads to
 * it, the checkpoint contradicts them all: then the log signed two histories, or nothing that is left is what it signed.
 */
import type { Checkpoint } from '../checkpoint.ts'
import { type FullTile, type Growth, TreeEdge, tileWidth } from '../tree.ts'
import type { Tell } from './finding.ts'

/** A signed checkpoint, and where it was found. */
export interface NamedCheckpoint extends Pick<Checkpoint, 'treeSize' | 'rootHash'> {
  readonly name: string
  /** Of the database itself. */
  readonly isHead?: boolean
}

/** 1 to 256 leaves in a row that lie in one tile. */
export interface Stretch {
  readonly tileIndex: number
  /** From 1 to 256, from the beginning of the tile. */
  readonly width: number
}

/** One copy's leaf hashes of a stretch; undefined where it says nothing. `name` is how a finding calls the copy. */
export interface Copy {
  readonly name: string
  readonly word: 'entry_mismatch' | 'tile_mismatch'
  readonly leafHashes: readonly (Uint8Array | undefined)[]
}

/** Where copies are kept: the database, the object store. */
export interface CopyKeeper {
  /** The same copies, in the same order, for every stretch. Tells of what it lacks or cannot read. */
  read(stretch: Stretch, tell: Tell): Promise<readonly Copy[]>
  /** Looks at what it keeps above the leaves, where `tiles` are all that a copy leads to. */
  checkTiles(tiles: TilesByAddress, tell: Tell): Promise<void>
  /** Looks at what else it keeps of the tree of a checkpoint, whose right edge is given. */
  checkEdge?(checkpoint: NamedCheckpoint, edge: TreeEdge, tell: Tell): Promise<void>
}

/** The full tiles of one address, one for each way in which copies differ. */
export type TilesByAddress = ReadonlyMap<string, readonly FullTile[]>

/** Rebuilds `treeSize` leaves of every copy, against checkpoints in the order of their sizes. */
export async function rebuild(
  keepers: readonly CopyKeeper[],
  checkpoints: AsyncIterable<NamedCheckpoint>,
  treeSize: number,
  tell: Tell,
  onProgress: (leaves: number) => void,
): Promise<void> {
  const trees = new Trees(tell)
  const waiting = checkpoints[Symbol.asyncIterator]()
  let next = (await waiting.next()).value as NamedCheckpoint | undefined
  const judgeUpTo = async (size: number): Promise<void> => {
    for (; next !== undefined && next.treeSize <= size; next = (await waiting.next()).value) {
      const edge = trees.judge(next)
      if (edge === undefined) continue
      for (const keeper of keepers) await keeper.checkEdge?.(next, edge, tell)
    }
  }
  await judgeUpTo(0)
  for (let first = 0; first < treeSize; first += tileWidth) {
    const stretch = { tileIndex: first / tileWidth, width: Math.min(tileWidth, treeSize - first) }
    const copies = (await Promise.all(keepers.map((keeper) => keeper.read(stretch, tell)))).flat()
    trees.read(copies)
    // A tree is only known at its sizes, so it grows from checkpoint to checkpoint.
    for (let from = 0; from < stretch.width; ) {
      const to = Math.min(stretch.width, (next?.treeSize ?? Number.POSITIVE_INFINITY) - first)
      const tiles = trees.grow(first, from, to)
      for (const keeper of keepers) await keeper.checkTiles(tiles, tell)
      await judgeUpTo(first + to)
      from = to
    }
    onProgress(first + stretch.width)
  }
  trees.end()
  for (; next !== undefined; next = (await waiting.next()).value) {
    const detail = `${next.name} has ${next.treeSize} leaves, and there are ${treeSize}`
    tell({ word: 'checkpoint_ahead', leafIndex: treeSize, detail })
  }
}

/** A copy as far as it was rebuilt. */
interface Tree {
  readonly name: string
  readonly word: Copy['word']
  edge: TreeEdge
  said: Copy['leafHashes']
  /** Of the stretch at hand, with what the copy does not say taken from another. */
  leafHashes: Uint8Array[]
  /** Where it first differs from each other tree, of leaves that both speak of, since one checkpoint held for both. */
  readonly differsAt: Map<Tree, number>
}

class Trees {
  readonly #tell: Tell
  #trees: Tree[] = []
  #judgedSize = 0
  #contradicted = 0

  constructor(tell: Tell) {
    this.#tell = tell
  }

  /** Takes what the copies say of a stretch of leaves. */
  read(copies: readonly Copy[]): void {
    if (this.#trees.length === 0) {
      const start = { edge: TreeEdge.empty, said: [], leafHashes: [] }
      this.#trees = copies.map(({ name, word }) => ({ name, word, ...start, differsAt: new Map() }))
    }
    for (const [i, tree] of this.#trees.entries()) tree.said = copies[i]?.leafHashes ?? []
    for (const tree of this.#trees) {
      // What a copy does not say it takes from one that it has agreed with so far, if there is one.
      const others = this.#trees.filter((other) => other !== tree)
      const guides = [...others.filter(({ edge }) => edge === tree.edge), ...others]
      tree.leafHashes = Array.from(tree.said, (hash, i) => {
        return hash ?? guides.map((guide) => guide.said[i]).find((value) => value !== undefined) ?? unknown
      })
    }
  }

  /** Grows every tree by a part of the stretch that begins at leaf `first`. Returns the tiles that became full. */
  grow(first: number, from: number, to: number): TilesByAddress {
    for (const tree of this.#trees) for (const other of this.#trees) compare(tree, other, first, from, to)
    const grown: { from: TreeEdge; leaves: Buffer; growth: Growth }[] = []
    for (const tree of this.#trees) {
      const part = tree.leafHashes.slice(from, to)
      const leaves = Buffer.concat(part)
      let same = grown.find((other) => other.from === tree.edge && other.leaves.equals(leaves))
      if (same === undefined) {
        same = { from: tree.edge, leaves, growth: tree.edge.append(part) }
        grown.push(same)
      }
      tree.edge = same.growth.edge
    }
    const tiles = new Map<string, FullTile[]>()
    for (const tile of grown.flatMap(({ growth }) => growth.fullTiles)) {
      const address = `${tile.level}/${tile.index}`
      tiles.set(address, [...(tiles.get(address) ?? []), tile])
    }
    return tiles
  }

  /** Says of each copy whether it leads to the checkpoint. Those that do not go on from one that does, so that the next
   *  fault is found as well. Returns the edge of the right ones, if there are any. */
  judge(checkpoint: NamedCheckpoint): TreeEdge | undefined {
    const { treeSize, rootHash } = checkpoint
    const edges = this.#trees.length === 0 ? [TreeEdge.empty] : this.#trees.map((tree) => tree.edge)
    const rightEdge = edges.find((edge) => Buffer.compare(edge.rootHash, rootHash) === 0)
    if (rightEdge === undefined) {
      this.#contradict(checkpoint)
      return undefined
    }
    const isRight = ({ edge }: Tree) => Buffer.compare(edge.rootHash, rootHash) === 0
    const right = this.#trees.filter(isRight)
    for (const tree of this.#trees) {
      if (isRight(tree)) continue
      const at = Math.min(...right.map((other) => tree.differsAt.get(other) ?? Number.POSITIVE_INFINITY))
      if (at !== Number.POSITIVE_INFINITY) {
        const detail = `${tree.name} differs at leaf ${at} from what the log signed (${checkpoint.name})`
        this.#tell({ word: tree.word, leafIndex: at, detail })
      }
      tree.edge = rightEdge
    }
    for (const tree of this.#trees) tree.differsAt.clear()
    this.#judgedSize = treeSize
    return rightEdge
  }

  /** Copies that differ where no checkpoint says which is right. */
  end(): void {
    const told = new Set<Tree>()
    for (const tree of this.#trees) {
      for (const [other, leafIndex] of tree.differsAt) {
        if (told.has(other) || tree.edge === other.edge) continue
        const detail = `${tree.name} and ${other.name} differ, and no checkpoint says which is right`
        this.#tell({ word: tree.word, leafIndex, detail })
      }
      told.add(tree)
    }
    if (this.#contradicted > 1) {
      const detail = `${this.#contradicted} checkpoints in all are contradicted`
      this.#tell({ word: 'checkpoint_contradicted', detail })
    }
  }

  /** The first is told of; from then on all others of the same history are contradicted as well. */
  #contradict({ name, treeSize, isHead = false }: NamedCheckpoint): void {
    if (!isHead) this.#contradicted += 1
    if (!isHead && this.#contradicted > 1) return
    const since = this.#judgedSize
    const detail = `no copy of the log leads to the root of ${name} at ${treeSize} leaves; the last that held has ${since}`
    this.#tell({ word: isHead ? 'head_mismatch' : 'checkpoint_contradicted', leafIndex: since, detail })
  }
}

/** Stands for a leaf that no copy knows. */
const unknown = new Uint8Array(32)

/** Notes where two copies first differ, of what both say. */
function compare(one: Tree, other: Tree, first: number, from: number, to: number): void {
  if (one === other || one.differsAt.has(other)) return
  for (let i = from; i < to; i++) {
    const [mine, its] = [one.said[i], other.said[i]]
    if (mine === undefined || its === undefined || Buffer.compare(mine, its) === 0) continue
    one.differsAt.set(other, first + i)
    return
  }
}
