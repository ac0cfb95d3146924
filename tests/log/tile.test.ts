import { readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  decodeBundle,
  encodeBundle,
  parseTilePath,
  partialWidth,
  type TileAddress,
  tileNode,
  tilePath,
  tilesForConsistency,
  tilesForInclusion,
} from '../../src/log/tile.ts'
import { hashLeaf, proveConsistency, proveInclusion } from '../../src/log/tree.ts'
import { vectorPath, vectorsPresent } from '../support/vectors.ts'
import { countingTree } from './rfc6962.ts'

describe('tile paths', () => {
  test.each([
    ['tile/0/000', 0, 0, 256],
    ['tile/0/005', 0, 5, 256],
    ['tile/0/x001/000', 0, 1000, 256],
    ['tile/0/x001/x234/067.p/8', 0, 1_234_067, 8],
    ['tile/63/999.p/255', 63, 999, 255],
    ['tile/1/x009/x007/x199/x254/x740/991.p/1', 1, 2 ** 53 - 1, 1],
    ['tile/entries/x123/456', 'entries', 123_456, 256],
    ['tile/entries/000.p/1', 'entries', 0, 1],
  ] as const)('%s is written and read', (path, level, index, width) => {
    expect(tilePath(level, index, width)).toBe(path)
    expect(parseTilePath(path)).toEqual({ level, index, width })
  })

  test.each([
    '',
    'tile/0',
    'tile/0/',
    'tile/0/0',
    'tile/0/00',
    'tile/0/0000',
    'tile/00/000',
    'tile/64/000',
    'tile/-1/000',
    'tile/8/0/000',
    'tile/data/000',
    'tile/Entries/000',
    'tile/0/x000/001',
    'tile/0/001/002',
    'tile/0/x001',
    'tile/0/x001/x002',
    'tile/0/x01/002',
    'tile/0/000.p',
    'tile/0/000.p/',
    'tile/0/000.p/0',
    'tile/0/000.p/01',
    'tile/0/000.p/256',
    'tile/0/000.p/1/',
    'tile/0/000.p/1\n',
    'tile/0/٠٠٠',
    'tile/0/x009/x007/x199/x254/x740/992',
    'tile/0/x999/x999/x999/x999/x999/999',
    'tile/0/x001/x000/x000/x000/x000/x000/000',
    ' tile/0/000',
    '/tile/0/000',
    'tile/0/../0/000',
    'tile/0/%30%30%30',
  ])('%j is no path', (path) => {
    expect(parseTilePath(path)).toBeUndefined()
  })

  test('what is read is spelled the one way it is written', () => {
    const pieces = fc.constantFrom('tile', '/', '0', '1', '63', 'x', '000', '001', '256', '.p/', 'entries', '.')
    fc.assert(
      fc.property(fc.array(pieces, { maxLength: 12 }), (parts) => {
        const path = parts.join('')
        const address = parseTilePath(path)
        if (address) expect(tilePath(address.level, address.index, address.width)).toBe(path)
      }),
      { numRuns: 2000, seed: 1 },
    )
    const places = fc.record({
      level: fc.oneof(fc.integer({ min: 0, max: 63 }), fc.constant('entries' as const)),
      index: fc.maxSafeNat(),
      width: fc.integer({ min: 1, max: 256 }),
    })
    fc.assert(
      fc.property(places, (place) => {
        expect(parseTilePath(tilePath(place.level, place.index, place.width))).toEqual(place)
      }),
    )
  })

  test('what no path can name is refused', () => {
    const nowhere = [
      [-1, 0, 1],
      [64, 0, 1],
      [0.5, 0, 1],
      [0, -1, 1],
      [0, 2 ** 53, 1],
      [0, 0, 0],
      [0, 0, 257],
    ] as const
    for (const [level, index, width] of nowhere) expect(() => tilePath(level, index, width)).toThrow(RangeError)
  })
})

describe('partial tiles', () => {
  test.each([
    [256, [0, 1, 0]],
    [70_000, [112, 17, 1, 0]],
    [2 ** 53 - 1, [255, 255, 255, 255, 255, 255, 31, 0]],
  ])('a tree of %i ends in tiles of widths %j', (treeSize, widths) => {
    widths.forEach((width, level) => {
      expect(partialWidth(level, treeSize)).toBe(width)
    })
  })
})

describe('proofs from tiles', () => {
  const oracle = countingTree()
  const sizes = [1, 2, 255, 256, 257, 300, 511, 512, 600, 65_535, 65_536, 65_537, 66_000]

  test('an inclusion proof needs the tiles that are listed for it, and no others', () => {
    for (const size of sizes) {
      for (const leafIndex of new Set(
        [0, size >> 1, 200, 255, 256, 65_535, size - 1].filter((index) => index < size),
      )) {
        const tiles = tilesForInclusion(leafIndex, size)
        expect(proveInclusion(leafIndex, size, tileNode(load(tiles)))).toEqual(oracle.inclusion(leafIndex, size))
        for (const missing of tiles) {
          const others = tileNode(load(tiles.filter((tile) => tile !== missing)))
          expect(() => proveInclusion(leafIndex, size, others)).toThrow(RangeError)
        }
      }
    }
  })

  test('a consistency proof needs the tiles that are listed for it, and no others', () => {
    for (const size of sizes) {
      for (const older of new Set(
        [1, 3, size >> 1, 256, 300, 65_536, size].filter((from) => from > 0 && from <= size),
      )) {
        const tiles = tilesForConsistency(older, size)
        expect(proveConsistency(older, size, tileNode(load(tiles)))).toEqual(oracle.consistency(older, size))
        for (const missing of tiles) {
          const others = tileNode(load(tiles.filter((tile) => tile !== missing)))
          expect(() => proveConsistency(older, size, others)).toThrow(RangeError)
        }
      }
    }
  })

  test('each tile is listed once, at the width the tree of that size has', () => {
    expect(tilesForInclusion(69_999, 70_000)).toEqual(
      expect.arrayContaining([
        { level: 0, index: 273, width: 112 },
        { level: 1, index: 1, width: 17 },
        { level: 2, index: 0, width: 1 },
      ]),
    )
    expect(tilesForInclusion(0, 70_000)).toHaveLength(4)
    expect(tilesForConsistency(70_000, 70_000)).toEqual([])
  })

  test('a tile that was cut short is refused when it is used', () => {
    const node = tileNode(() => new Uint8Array(40))
    expect(node(0, 0)).toHaveLength(32)
    expect(() => node(0, 1)).toThrow(RangeError)
  })

  function load(tiles: readonly TileAddress[]) {
    const loaded = new Map(
      tiles.map(({ level, index, width }) => {
        const span = 256 ** level
        const hashes = Array.from({ length: width }, (_, i) => index * 256 + i)
        return [`${level}/${index}`, Buffer.concat(hashes.map((i) => oracle.treeHash(i * span, (i + 1) * span)))]
      }),
    )
    return (level: number, index: number) => loaded.get(`${level}/${index}`)
  }
})

describe('entry bundles', () => {
  test('each entry follows its length in two bytes, big-endian', () => {
    const entries = ['one', 'two', 'three', ''].map((text) => Buffer.from(text))
    const bundle = encodeBundle(entries)
    expect(Buffer.from(bundle).toString('hex')).toBe('00036f6e65000374776f000574687265650000')
    expect(decodeBundle(bundle)).toEqual(entries)
    const large = [Buffer.alloc(65_535), Buffer.alloc(256)]
    expect(decodeBundle(encodeBundle(large))).toEqual(large)
  })

  test('more than 256 entries, none, or one of 65,536 bytes are refused when producing', () => {
    expect(decodeBundle(encodeBundle(Array(256).fill(new Uint8Array(1))))).toHaveLength(256)
    expect(() => encodeBundle(Array(257).fill(new Uint8Array(1)))).toThrow(RangeError)
    expect(() => encodeBundle([])).toThrow(RangeError)
    expect(() => encodeBundle([new Uint8Array(65_536)])).toThrow(RangeError)
  })

  test('a bundle cut anywhere but between entries is refused when consuming', () => {
    const bundle = encodeBundle(['one', 'two'].map((text) => Buffer.from(text)))
    for (let end = 0; end < bundle.length; end++) {
      expect(decodeBundle(bundle.subarray(0, end)) !== undefined).toBe(end === 5)
    }
    expect(decodeBundle(new Uint8Array(2 * 257))).toBeUndefined()
  })

  test('any bytes are either refused or the one encoding of their entries', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40, max: 6 }), (bytes) => {
        const entries = decodeBundle(bytes)
        if (entries) expect(Buffer.compare(encodeBundle(entries), bytes)).toBe(0)
      }),
      { numRuns: 1000, seed: 1 },
    )
  })
})

test.skipIf(!vectorsPresent)('the bundles of the published log hash to its tiles, at every size', () => {
  for (let size = 1; size <= 15; size++) {
    const bundle = readFileSync(vectorPath(`tlog/log/${tilePath('entries', 0, size)}`))
    const tile = readFileSync(vectorPath(`tlog/log/${tilePath(0, 0, size)}`))
    const entries = decodeBundle(bundle) ?? []
    expect(entries).toHaveLength(size)
    expect(Buffer.concat(entries.map(hashLeaf)).equals(tile)).toBe(true)
    expect(Buffer.compare(encodeBundle(entries), bundle)).toBe(0)
  }
})
