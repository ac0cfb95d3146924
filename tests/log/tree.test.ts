import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { tileNode } from '../../src/log/tile.ts'
import {
  emptyRoot,
  type FullTile,
  hashLeaf,
  hashNode,
  proveConsistency,
  proveInclusion,
  TreeEdge,
  verifyConsistency,
  verifyInclusion,
} from '../../src/log/tree.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { countingEntry, countingTree, rfc6962, sha256 } from './rfc6962.ts'

const oracle = countingTree()
const leaves = Array.from({ length: 66_000 }, (_, index) => hashLeaf(countingEntry(index)))

describe('agreement with a transcription of RFC 6962', () => {
  test('every root, tile and newest proof, for each size up to 600, leaf by leaf', () => {
    let edge = TreeEdge.empty
    expect(edge.rootHash).toEqual(oracle.treeHash(0, 0))
    for (let size = 1; size <= 600; size++) {
      const growth = edge.append(leaves.slice(size - 1, size))
      edge = growth.edge
      expect(edge.treeSize).toBe(size)
      expect(edge.rootHash).toEqual(oracle.treeHash(0, size))
      expect(growth.prove(size - 1)).toEqual(oracle.inclusion(size - 1, size))
      expect(edge.partials).toEqual(partialsOf(size))
      expect(growth.fullTiles).toEqual(fullTilesBetween(size - 1, size))
    }
  })

  test('inclusion proofs from tiles, for each size up to 600: all leaves below 100, then a sample', () => {
    const { node } = grow([600])
    for (let size = 1; size <= 600; size++) {
      const indices = size < 100 ? range(0, size) : sample(size, 12)
      for (const leafIndex of indices) {
        const proof = proveInclusion(leafIndex, size, node)
        expect(proof).toEqual(oracle.inclusion(leafIndex, size))
        expect(verifyInclusion(inclusionClaim(leafIndex, size, proof))).toBe(true)
      }
    }
  })

  test('consistency proofs from tiles, for each size up to 600: all older sizes below 100, then a sample', () => {
    const { node } = grow([600])
    for (let size = 1; size <= 600; size++) {
      const olderSizes = size < 100 ? range(1, size + 1) : sample(size, 12).map((older) => older + 1)
      for (const older of olderSizes) {
        const proof = proveConsistency(older, size, node)
        expect(proof).toEqual(oracle.consistency(older, size))
        expect(verifyConsistency(consistencyClaim(older, size, proof))).toBe(true)
      }
    }
  })

  test('sizes that no 32-bit shift can halve', () => {
    // Trees far too large to build. In one, every complete node is a hash of its own name: it shows which nodes a proof
    // takes. In the other all leaves are alike: its nodes hash up as they must, so its proofs can be verified.
    const label = (level: number, index: number) => sha256(Buffer.from(`${level}/${index}`))
    const labelled = sparse(label)
    const alike = [sha256()]
    for (let level = 0; level < 53; level++)
      alike.push(hashNode(alike[level] as Uint8Array, alike[level] as Uint8Array))
    const uniformNode = (level: number) => alike[level] as Uint8Array
    const uniform = sparse(uniformNode)
    for (const treeSize of [2 ** 31 + 1, 2 ** 32 - 1, 2 ** 32 + 12_345, 10_000_000_000, 2 ** 53 - 2, 2 ** 53 - 1]) {
      const rootHash = uniform.treeHash(0, treeSize)
      for (const leafIndex of [0, 1, 2 ** 31 - 2, 2 ** 31 - 1, Math.floor(treeSize / 3), treeSize - 2, treeSize - 1]) {
        expect(proveInclusion(leafIndex, treeSize, label)).toEqual(labelled.inclusion(leafIndex, treeSize))
        const proof = proveInclusion(leafIndex, treeSize, uniformNode)
        expect(verifyInclusion({ leafHash: uniformNode(0), leafIndex, treeSize, proof, rootHash })).toBe(true)

        const fromSize = leafIndex + 1
        expect(proveConsistency(fromSize, treeSize, label)).toEqual(labelled.consistency(fromSize, treeSize))
        const claim = { fromSize, toSize: treeSize, fromRoot: uniform.treeHash(0, fromSize), toRoot: rootHash }
        const consistency = proveConsistency(fromSize, treeSize, uniformNode)
        expect(verifyConsistency({ ...claim, proof: consistency })).toBe(true)
        expect(verifyConsistency({ ...claim, fromRoot: alike[5] as Uint8Array, proof: consistency })).toBe(false)
      }
    }
  })
})

describe('hashes', () => {
  test('each is SHA-256 of its prefix and what it is over, and stays that while others are made', () => {
    const entries = Array.from({ length: 200 }, (_, i) => Buffer.alloc(i % 70, i))
    const hashes = entries.map(hashLeaf)
    const nodes = hashes.map((left, i) => hashNode(left, hashes[199 - i] as Uint8Array))
    expect(hashes).toEqual(entries.map((entry) => sha256(Uint8Array.of(0x00), entry)))
    expect(nodes).toEqual(hashes.map((left, i) => sha256(Uint8Array.of(0x01), left, hashes[199 - i] as Uint8Array)))
  })

  test('a node is over two hashes of 32 bytes, and over nothing else', () => {
    const hash = hashLeaf(Buffer.of())
    for (const wrong of [Buffer.alloc(0), Buffer.alloc(31), Buffer.alloc(33)]) {
      expect(() => hashNode(wrong, hash)).toThrow(RangeError)
      expect(() => hashNode(hash, wrong)).toThrow(RangeError)
    }
  })
})

describe('batches', () => {
  test('roots, tiles and proofs do not depend on how leaves were batched', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 300 }), { maxLength: 8 }), fc.boolean(), (batches, reload) => {
        const { edge, fullTiles, proofs } = grow(batches, reload)
        const size = edge.treeSize
        expect(edge.rootHash).toEqual(oracle.treeHash(0, size))
        expect(edge.partials).toEqual(partialsOf(size))
        expect(byPlace(fullTiles)).toEqual(byPlace(fullTilesBetween(0, size)))
        for (const { leafIndex, treeSize, proof } of proofs) {
          expect(proof).toEqual(oracle.inclusion(leafIndex, treeSize))
        }
      }),
      { numRuns: 60, seed: 6962 },
    )
  })

  test.each([
    [[255, 1]],
    [[256]],
    [[200, 56, 1]],
    [[255, 2]],
    [[250, 600]],
    [[65_535, 1]],
    [[65_500, 36, 1]],
    [[65_500, 300]],
    [[65_279, 258, 300]],
  ])('a batch that crosses the end of a tile: %j', (batches) => {
    const { edge, fullTiles, proofs } = grow(batches, true)
    expect(edge.rootHash).toEqual(oracle.treeHash(0, edge.treeSize))
    expect(edge.partials).toEqual(partialsOf(edge.treeSize))
    expect(byPlace(fullTiles)).toEqual(byPlace(fullTilesBetween(0, edge.treeSize)))
    for (const { leafIndex, treeSize, proof } of proofs) {
      expect(proof).toEqual(oracle.inclusion(leafIndex, treeSize))
    }
  })

  test.each([256 ** 3 - 10, 2 ** 31 - 10, 2 ** 32 - 10, 256 ** 5 - 10, 2 ** 53 - 21])(
    'twenty leaves onto a tree of %i, of which only the edge exists',
    (size) => {
      const old = TreeEdge.load(size, syntheticPartials(size))
      const batch = leaves.slice(0, 20)
      const { edge, fullTiles, prove } = old.append(batch)
      expect(edge.treeSize).toBe(size + 20)
      batch.forEach((leafHash, i) => {
        const [leafIndex, treeSize, rootHash] = [size + i, edge.treeSize, edge.rootHash]
        expect(verifyInclusion({ leafHash, leafIndex, treeSize, proof: prove(leafIndex), rootHash })).toBe(true)
      })
      const oneByOne = batch.reduce((grown, leafHash) => grown.append([leafHash]).edge, old)
      expect(edge.rootHash).toEqual(oneByOne.rootHash)
      expect(edge.partials).toEqual(oneByOne.partials)
      for (const { hashes, rootHash } of fullTiles) expect(rootHash).toEqual(rootOfTile(hashes))
    },
  )

  test('an empty batch changes nothing', () => {
    const { edge } = grow([300])
    const growth = edge.append([])
    expect(growth.edge).toEqual(edge)
    expect(growth.fullTiles).toEqual([])
    expect(() => growth.prove(299)).toThrow(RangeError)
  })

  test('appending leaves the older edge as it was', () => {
    const { edge } = grow([300])
    edge.append(leaves.slice(300, 600))
    expect(edge.partials).toEqual(partialsOf(300))
    expect(edge.append(leaves.slice(300, 301)).edge.rootHash).toEqual(oracle.treeHash(0, 301))
  })

  test('a growth proves its own leaves and no others', () => {
    const { edge } = grow([300])
    const { prove } = edge.append(leaves.slice(300, 310))
    for (const leafIndex of [-1, 299, 310, 300.5, Number.NaN]) expect(() => prove(leafIndex)).toThrow(RangeError)
  })

  test('leaf hashes of another length are refused', () => {
    expect(() => TreeEdge.empty.append([new Uint8Array(31)])).toThrow(RangeError)
  })
})

describe('loading an edge', () => {
  test('gives back the edge that was stored', () => {
    for (const size of [0, 1, 255, 256, 257, 600, 65_536]) {
      expect(TreeEdge.load(size, partialsOf(size)).rootHash).toEqual(oracle.treeHash(0, size))
    }
  })

  test('is refused unless the widths are those of the size', () => {
    const hash = new Uint8Array(32)
    const wrong: [number, Uint8Array[][]][] = [
      [0, [[]]],
      [1, []],
      [1, [[hash, hash]]],
      [1, [[hash], []]],
      [256, [Array(256).fill(hash)]],
      [256, [[], [hash], [hash]]],
      [1, [[new Uint8Array(31)]]],
      [-1, []],
      [1.5, [[hash]]],
      [2 ** 53, syntheticPartials(2 ** 53)],
    ]
    for (const [size, partials] of wrong) expect(() => TreeEdge.load(size, partials)).toThrow(RangeError)
  })
})

describe('lies', () => {
  test('every flipped bit of an inclusion proof, leaf or root is refused', () => {
    for (const [leafIndex, size] of [
      [0, 1],
      [2, 3],
      [5, 8],
      [6, 7],
      [299, 300],
    ] as const) {
      const claim = inclusionClaim(leafIndex, size, oracle.inclusion(leafIndex, size))
      expect(verifyInclusion(claim)).toBe(true)
      for (const leafHash of flips(claim.leafHash)) expect(verifyInclusion({ ...claim, leafHash })).toBe(false)
      for (const rootHash of flips(claim.rootHash)) expect(verifyInclusion({ ...claim, rootHash })).toBe(false)
      for (const proof of flipsOfOne(claim.proof)) expect(verifyInclusion({ ...claim, proof })).toBe(false)
    }
  })

  test('every flipped bit of a consistency proof or root is refused', () => {
    for (const [older, size] of [
      [1, 2],
      [3, 7],
      [4, 8],
      [6, 8],
      [256, 300],
      [5, 5],
    ] as const) {
      const claim = consistencyClaim(older, size, oracle.consistency(older, size))
      expect(verifyConsistency(claim)).toBe(true)
      for (const fromRoot of flips(claim.fromRoot)) expect(verifyConsistency({ ...claim, fromRoot })).toBe(false)
      for (const toRoot of flips(claim.toRoot)) expect(verifyConsistency({ ...claim, toRoot })).toBe(false)
      for (const proof of flipsOfOne(claim.proof)) expect(verifyConsistency({ ...claim, proof })).toBe(false)
    }
  })

  test('a proof holds for one index only', () => {
    const size = 100
    for (const leafIndex of range(0, size)) {
      const claim = inclusionClaim(leafIndex, size, oracle.inclusion(leafIndex, size))
      for (const other of range(0, size)) {
        expect(verifyInclusion({ ...claim, leafIndex: other })).toBe(other === leafIndex)
      }
    }
  })

  test('a proof longer than the tree is deep is refused, though it leads to the root', () => {
    // Leaf 1 of two, passed off as the only leaf of one; and sizes 7 and 8, passed off as 3 and 4.
    const inclusion = inclusionClaim(1, 2, oracle.inclusion(1, 2))
    expect(verifyInclusion({ ...inclusion, leafIndex: 0, treeSize: 1 })).toBe(false)
    const consistency = consistencyClaim(7, 8, oracle.consistency(7, 8))
    expect(verifyConsistency(consistency)).toBe(true)
    expect(verifyConsistency({ ...consistency, fromSize: 3, toSize: 4 })).toBe(false)
  })

  test('numbers that are no sizes or indices are refused and nothing is thrown', () => {
    const claim = inclusionClaim(5, 8, oracle.inclusion(5, 8))
    const older = consistencyClaim(5, 8, oracle.consistency(5, 8))
    for (const odd of [-1, 0.5, 8.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, 2 ** 64]) {
      expect(verifyInclusion({ ...claim, leafIndex: odd })).toBe(false)
      expect(verifyInclusion({ ...claim, treeSize: odd })).toBe(false)
      expect(verifyConsistency({ ...older, fromSize: odd })).toBe(false)
      expect(verifyConsistency({ ...older, toSize: odd })).toBe(false)
    }
  })

  test('the empty tree proves nothing, not even itself', () => {
    const roots = { fromRoot: emptyRoot, toRoot: emptyRoot }
    expect(verifyConsistency({ fromSize: 0, toSize: 0, ...roots, proof: [] })).toBe(false)
    expect(verifyConsistency({ fromSize: 0, toSize: 8, ...roots, proof: [] })).toBe(false)
    expect(() => proveConsistency(0, 8, () => emptyRoot)).toThrow(RangeError)
  })

  test('proofs of what does not exist are refused when producing', () => {
    for (const leafIndex of [-1, 8, 0.5])
      expect(() => proveInclusion(leafIndex, 8, () => emptyRoot)).toThrow(RangeError)
    for (const older of [-1, 9, 0.5]) expect(() => proveConsistency(older, 8, () => emptyRoot)).toThrow(RangeError)
  })
})

describe.skipIf(!vectorsPresent)('the probes of transparency-dev/merkle', () => {
  test('the inclusion probes are accepted or refused as published', () => {
    const probes = readProbes<InclusionProbe>('merkle/inclusion')
    expect(probes).toHaveLength(98)
    for (const { path, probe } of probes) {
      const claim = {
        leafHash: base64(probe.leafHash),
        leafIndex: probe.leafIdx,
        treeSize: probe.treeSize,
        proof: (probe.proof ?? []).map(base64),
        rootHash: base64(probe.root),
      }
      expect(verifyInclusion(claim), path).toBe(!probe.wantErr)
    }
  })

  // Upstream accepts two equal roots of twelve bytes. A root that is no SHA-256 hash is nothing we could have signed.
  const stricter = ['additional/sizes-are-equal-one-and-proof-is-empty.json']

  test('the consistency probes are accepted or refused as published, but for one where we are stricter', () => {
    const probes = readProbes<ConsistencyProbe>('merkle/consistency')
    expect(probes).toHaveLength(98)
    for (const { path, probe } of probes) {
      const claim = {
        fromSize: probe.size1,
        toSize: probe.size2,
        fromRoot: base64(probe.root1),
        toRoot: base64(probe.root2),
        proof: (probe.proof ?? []).map(base64),
      }
      expect(verifyConsistency(claim), path).toBe(!probe.wantErr && !stricter.includes(path))
    }
  })
})

interface InclusionProbe {
  leafIdx: number
  treeSize: number
  leafHash: string
  proof: string[] | null
  root: string
  wantErr: boolean
}

interface ConsistencyProbe {
  size1: number
  size2: number
  root1: string
  root2: string
  proof: string[] | null
  wantErr: boolean
}

function readProbes<Probe>(folder: string): { path: string; probe: Probe }[] {
  return readdirSync(vectorPath(folder), { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.json'))
    .map((path) => ({ path, probe: JSON.parse(readFileSync(join(vectorPath(folder), path), 'utf8')) as Probe }))
}

/** Appends batches of the given sizes to the empty tree, through a stored edge each time if `reload`. */
function grow(batches: readonly number[], reload = false) {
  let edge = TreeEdge.empty
  const fullTiles: FullTile[] = []
  const proofs: { leafIndex: number; treeSize: number; proof: Uint8Array[] }[] = []
  for (const count of batches) {
    const first = edge.treeSize
    const growth = edge.append(leaves.slice(first, first + count))
    edge = reload ? TreeEdge.load(growth.edge.treeSize, growth.edge.partials) : growth.edge
    fullTiles.push(...growth.fullTiles)
    for (const leafIndex of range(first + Math.max(0, count - 300), first + count)) {
      proofs.push({ leafIndex, treeSize: edge.treeSize, proof: growth.prove(leafIndex) })
    }
  }
  const tiles = new Map(fullTiles.map(({ level, index, hashes }) => [`${level}/${index}`, hashes]))
  edge.partials.forEach((hashes, level) => {
    tiles.set(`${level}/${Math.floor(edge.treeSize / 256 ** (level + 1))}`, Buffer.concat(hashes))
  })
  return { edge, fullTiles, proofs, node: tileNode((level, index) => tiles.get(`${level}/${index}`)) }
}

/** c2sp.org/tlog-tiles: hash i of tile (level, n) is MTH(D[(n · 256 + i) · 256^level : (n · 256 + i + 1) · 256^level]). */
function tileHashes(level: number, index: number, width: number): Uint8Array[] {
  const span = 256 ** level
  return range(index * 256, index * 256 + width).map((i) => oracle.treeHash(i * span, (i + 1) * span))
}

function partialsOf(size: number): Uint8Array[][] {
  const partials: Uint8Array[][] = []
  for (let level = 0; 256 ** level <= size; level++) {
    const hashes = Math.floor(size / 256 ** level)
    partials.push(tileHashes(level, Math.floor(hashes / 256), hashes % 256))
  }
  return partials
}

function fullTilesBetween(older: number, newer: number): FullTile[] {
  const tiles: FullTile[] = []
  for (let level = 0; 256 ** (level + 1) <= newer; level++) {
    const span = 256 ** (level + 1)
    for (const index of range(Math.floor(older / span), Math.floor(newer / span))) {
      const rootHash = oracle.treeHash(index * span, (index + 1) * span)
      tiles.push({ level, index, hashes: Buffer.concat(tileHashes(level, index, 256)), rootHash })
    }
  }
  return tiles
}

/** The order between batches is that of the batches; only within one is it by level. */
function byPlace(tiles: readonly FullTile[]): FullTile[] {
  return tiles.toSorted((one, other) => one.level - other.level || one.index - other.index)
}

/** The oracle over a tree that is given by its complete nodes. */
function sparse(node: (level: number, index: number) => Uint8Array) {
  return rfc6962((start, end) => {
    const level = Math.round(Math.log2(end - start))
    return 2 ** level === end - start && start % 2 ** level === 0 ? node(level, start / 2 ** level) : undefined
  })
}

function syntheticPartials(size: number): Uint8Array[][] {
  const partials: Uint8Array[][] = []
  for (let level = 0; 256 ** level <= size; level++) {
    const width = Math.floor(size / 256 ** level) % 256
    partials.push(range(0, width).map((i) => sha256(Buffer.from(`${level}/${i}`))))
  }
  return partials
}

function rootOfTile(hashes: Uint8Array): Uint8Array {
  let row = range(0, 256).map((i) => hashes.subarray(32 * i, 32 * i + 32))
  while (row.length > 1) {
    row = range(0, row.length / 2).map((i) => hashNode(row[2 * i] as Uint8Array, row[2 * i + 1] as Uint8Array))
  }
  return row[0] as Uint8Array
}

function inclusionClaim(leafIndex: number, treeSize: number, proof: Uint8Array[]) {
  const leafHash = oracle.treeHash(leafIndex, leafIndex + 1)
  return { leafHash, leafIndex, treeSize, proof, rootHash: oracle.treeHash(0, treeSize) }
}

function consistencyClaim(fromSize: number, toSize: number, proof: Uint8Array[]) {
  return { fromSize, toSize, fromRoot: oracle.treeHash(0, fromSize), toRoot: oracle.treeHash(0, toSize), proof }
}

function flips(bytes: Uint8Array): Uint8Array[] {
  return range(0, bytes.length * 8).map((bit) =>
    bytes.map((byte, i) => (i === bit >> 3 ? byte ^ (1 << (bit & 7)) : byte)),
  )
}

function flipsOfOne(hashes: readonly Uint8Array[]): Uint8Array[][] {
  return hashes.flatMap((hash, i) => flips(hash).map((flipped) => hashes.with(i, flipped)))
}

/** Indices below `count`: both ends, and others by a fixed congruential sequence. */
function sample(count: number, wanted: number): number[] {
  let state = count
  const inside = range(0, wanted).map(() => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31
    return state % count
  })
  return [0, count - 1, ...inside]
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, i) => start + i)
}

function base64(text: string): Uint8Array {
  return Buffer.from(text, 'base64')
}
