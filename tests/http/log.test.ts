import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openCheckpoint, type VerifiedCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey, type VerifierKey } from '../../src/log/note.ts'
import { decodeBundle, tileNode, tilePath, tilesForConsistency } from '../../src/log/tile.ts'
import { parseProof } from '../../src/log/tlog-proof.ts'
import { hashLeaf, proveConsistency, verifyConsistency } from '../../src/log/tree.ts'
import { rfc6962 } from '../log/rfc6962.ts'
import { TestRelay } from '../support/relay.ts'

// The tenant has no endpoints: once the posts are answered, the log stands still.
let relay: TestRelay
let vkeys: VerifierKey[]
let checkpoint: VerifiedCheckpoint
let treeSize: number

beforeAll(async () => {
  relay = await TestRelay.start()
  const tenant = await relay.makeTenant()
  for (let n = 0; n < 5; n++) await relay.post(tenant, { n })
  await Promise.all(Array.from({ length: 300 }, (_, n) => relay.post(tenant, { n })))
  vkeys = (await text('/log/vkey')).trim().split('\n').map(parseVerifierKey)
  checkpoint = open(await text('/log/checkpoint'))
  treeSize = checkpoint.treeSize
})

afterAll(async () => {
  await relay?.stop()
})

const open = (note: string) => openCheckpoint(note, { origin: 'relay.test/log', vkeys })
const get = (path: string) => fetch(relay.url + path)
const text = async (path: string) => (await get(path)).text()
const bytes = async (path: string) => {
  const response = await get(path)
  expect(response.status, path).toBe(200)
  return Buffer.from(await response.arrayBuffer())
}
const seen = ({ status, headers }: Response) => ({
  status,
  type: headers.get('content-type'),
  cache: headers.get('cache-control'),
  origin: headers.get('access-control-allow-origin'),
})

test('the whole of it holds together', async () => {
  expect(treeSize).toBeGreaterThan(300)
  expect(treeSize).toBeLessThan(512)
  expect(relay.receipts.size).toBe(305)
  await relay.check()
})

test('the checkpoint and the keys are text, tiles are bytes that never change', async () => {
  const plain = 'text/plain; charset=utf-8'
  const tile = {
    status: 200,
    type: 'application/octet-stream',
    cache: 'public, max-age=31536000, immutable',
    origin: '*',
  }
  expect(seen(await get('/log/checkpoint'))).toEqual({ status: 200, type: plain, cache: 'no-cache', origin: '*' })
  expect(seen(await get('/log/vkey'))).toMatchObject({ status: 200, type: plain, origin: '*' })
  expect(seen(await get('/log/tile/0/000'))).toEqual(tile)
  expect(seen(await get('/log/tile/0/001.p/1'))).toEqual(tile)
  expect(seen(await get('/log/tile/1/000.p/1'))).toEqual(tile)
  expect(seen(await get('/log/tile/entries/000'))).toEqual(tile)
  expect(seen(await get('/log/tile/entries/001.p/1'))).toEqual(tile)
})

test('every width of every tile is the beginning of the widest', async () => {
  const partial = treeSize - 256
  for (const [index, widest] of [256, partial].entries()) {
    const tile = await bytes(`/log/${tilePath(0, index, widest)}`)
    const bundle = decodeBundle(await bytes(`/log/${tilePath('entries', index, widest)}`)) ?? []
    expect(tile).toEqual(Buffer.concat(bundle.map(hashLeaf)))
    const widths = Array.from({ length: widest - 1 }, (_, i) => i + 1)
    await Promise.all(
      widths.map(async (width) => {
        expect(await bytes(`/log/${tilePath(0, index, width)}`)).toEqual(tile.subarray(0, 32 * width))
        const narrower = decodeBundle(await bytes(`/log/${tilePath('entries', index, width)}`))
        expect(narrower).toEqual(bundle.slice(0, width))
      }),
    )
  }
})

test('a full tile has its root in the level above', async () => {
  const tile = await bytes('/log/tile/0/000')
  const slow = rfc6962((start, end) => (end - start === 1 ? tile.subarray(32 * start, 32 * end) : undefined))
  expect(await bytes('/log/tile/1/000.p/1')).toEqual(Buffer.from(slow.treeHash(0, 256)))
})

describe('there is no', () => {
  test.each([
    ['tile beyond the log', () => ['0/002', '0/002.p/1', 'entries/002', '1/001.p/1', '2/000.p/1', '0/x999/x999/999']],
    ['full tile where it is not full yet', () => ['0/001', 'entries/001', '1/000']],
    ['wider tile than the log', () => [`0/001.p/${treeSize - 255}`, `entries/001.p/${treeSize - 255}`, '1/000.p/2']],
    ['tile without a width', () => ['0/000.p/0', '0/000.p/', '0/000.p', '0/000.p/256', '0/000.p/01', '0/000.p/-1']],
    ['other spelling of a tile', () => ['0/0', '0/00', '0/0000', '00/000', '0/x000/000', '+0/000', '0/000/', '0//000']],
    ['tile of another kind', () => ['64/000', '-1/000', 'data/000', 'entry/000', '0/x000', '0/abc', '0', 'entries']],
  ])('%s', async (_what, paths) => {
    for (const path of paths()) {
      const response = await get(`/log/tile/${path}`)
      expect(response.status, path).toBe(404)
      expect(await response.json()).toMatchObject({ code: 'not_found' })
      expect(response.headers.get('cache-control'), 'it may exist in a moment').toBeNull()
    }
  })
})

test('every checkpoint that a receipt showed extends the one before it, and is extended by the last', async () => {
  const notes = new Set([...relay.receipts.values()].map(({ header }) => parseProof(header['tlog-proof']).checkpoint))
  const checkpoints = [...notes].map(open).sort((one, other) => one.treeSize - other.treeSize)
  expect(new Set(checkpoints.map((seen) => seen.treeSize)).size, 'no size was signed twice').toBe(checkpoints.length)
  expect(checkpoints.length).toBeGreaterThan(5)
  expect(checkpoints.at(-1)?.rootHash).toEqual(checkpoint.rootHash)
  const last = checkpoints.at(-1) as (typeof checkpoints)[0]
  for (const [i, older] of checkpoints.entries()) {
    for (const newer of [checkpoints[i + 1] ?? last, last]) {
      const proof = await proveFromTiles(older.treeSize, newer.treeSize)
      const [fromSize, toSize, fromRoot, toRoot] = [older.treeSize, newer.treeSize, older.rootHash, newer.rootHash]
      expect(verifyConsistency({ fromSize, toSize, fromRoot, toRoot, proof }), `${fromSize} to ${toSize}`).toBe(true)
    }
  }
})

/** As a client of the log does it: the tiles it needs, at the widths they have in the newer tree. */
async function proveFromTiles(fromSize: number, toSize: number): Promise<Uint8Array[]> {
  const tiles = new Map<string, Uint8Array>()
  for (const { level, index, width } of tilesForConsistency(fromSize, toSize)) {
    tiles.set(`${level}/${index}`, await bytes(`/log/${tilePath(level, index, width)}`))
  }
  return proveConsistency(
    fromSize,
    toSize,
    tileNode((level, index) => tiles.get(`${level}/${index}`)),
  )
}
