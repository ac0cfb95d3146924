/** Proofs for anyone, held against the RFC's own recursion over the entries that the log serves. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openCheckpoint } from '../../src/log/checkpoint.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { decodeBundle, tilePath } from '../../src/log/tile.ts'
import { verifyProof } from '../../src/log/tlog-proof.ts'
import { rfc6962, sha256 } from '../log/rfc6962.ts'
import { TestRelay } from '../support/relay.ts'

// Nothing is delivered and nobody with a key asks: once the posts are answered, the log stands still.
let relay: TestRelay
let entries: Uint8Array[]
let size: number
let slow: ReturnType<typeof rfc6962>

beforeAll(async () => {
  relay = await TestRelay.start()
  const tenant = await relay.makeTenant()
  await Promise.all(Array.from({ length: 300 }, (_, n) => relay.post(tenant, { n })))
  size = (await relay.relay.head()).treeSize
  const bundle = async (index: number, width: number) =>
    decodeBundle(await bytes(`/log/${tilePath('entries', index, width)}`)) ?? []
  entries = [...(await bundle(0, 256)), ...(await bundle(1, size - 256))]
  slow = rfc6962((start, end) =>
    end - start === 1 ? sha256(Uint8Array.of(0), entries[start] as Uint8Array) : undefined,
  )
})

afterAll(async () => {
  await relay?.check()
  await relay?.stop()
})

const bytes = async (path: string) => new Uint8Array(await (await fetch(relay.url + path)).arrayBuffer())
const ask = <T = Record<string, unknown>>(path: string, accept = 'application/json') =>
  relay.call<T>('GET', path, { key: null, headers: { accept } })
const base64 = (hash: Uint8Array) => Buffer.from(hash).toString('base64')
const entryAt = (index: number) => Buffer.from(entries[index] as Uint8Array).toString('base64url')
async function logTrust() {
  const lines = (await ask<string>('/log/vkey')).body.trim().split('\n')
  return { origin: 'relay.test/log', vkeys: lines.map(parseVerifierKey) }
}

describe('inclusion', () => {
  test('of any leaf, in the newest tree and in each it was in before', async () => {
    for (const index of [0, 1, 100, 255, 256, size - 1]) {
      for (const treeSize of new Set([index + 1, 2 ** Math.ceil(Math.log2(index + 2)), size - 1, size])) {
        if (treeSize > size || treeSize <= index) continue
        const { body } = await ask(`/v1/log/inclusion?index=${index}&size=${treeSize}`)
        const proof = slow.inclusion(index, treeSize).map(base64)
        const root = base64(slow.treeHash(0, treeSize))
        expect(body).toMatchObject({
          leaf_index: index,
          tree_size: treeSize,
          root_hash: root,
          proof,
          entry: entryAt(index),
        })
        expect('checkpoint' in body).toBe(treeSize === size)
      }
    }
  })

  test('of an entry, wherever among the newest it stands', async () => {
    for (const index of [0, 7, 255, 256, size - 1]) {
      const { body } = await ask(`/v1/log/inclusion?entry=${entryAt(index)}`)
      expect(body).toMatchObject({ leaf_index: index, tree_size: size })
    }
  })

  test('as text is a tlog-proof that verifies with the vkey alone', async () => {
    const { headers, body } = await ask<string>(`/v1/log/inclusion?entry=${entryAt(42)}`, 'text/plain')
    expect(headers.get('content-type')).toBe('text/plain; charset=utf-8')
    expect(headers.get('vary')).toBe('accept')
    const trust = await logTrust()
    expect(verifyProof(body, entries[42] as Uint8Array, trust)).toMatchObject({ ok: true, leafIndex: 42 })
    expect(verifyProof(body, entries[43] as Uint8Array, trust)).toMatchObject({ ok: false, failed: 'inclusion' })
  })

  test.each([
    ['neither entry nor index', () => '', 400],
    ['an entry that is none', () => '?entry=AAAA', 400],
    ['an index that is none', () => '?index=-1', 400],
    ['a size that is none', () => '?index=0&size=0', 400],
    ['another entry than stands there', () => `?entry=${entryAt(1)}&index=2`, 404],
    ['an entry that is not in the log', () => `?entry=${'A'.repeat(43)}`, 404],
    ['a leaf to come', () => `?index=${size}`, 404],
    ['a size to come', () => `?index=0&size=${size + 1}`, 404],
    ['a leaf younger than the size', () => '?index=9&size=9', 404],
  ])('of %s is refused', async (_what, query, status) => {
    expect((await ask(`/v1/log/inclusion${query()}`)).status).toBe(status)
  })

  test('as text in an older tree is refused: its checkpoint is not kept', async () => {
    const { body } = await ask(`/v1/log/inclusion?index=0&size=${size - 1}`, 'text/plain')
    expect(body).toMatchObject({ code: 'request_invalid' })
  })
})

describe('consistency', () => {
  test('of any two sizes', async () => {
    for (const from of [1, 2, 255, 256, 257, size - 1, size]) {
      for (const to of new Set([from, from + 1, 256, size])) {
        if (to > size || to < from) continue
        const { body } = await ask(`/v1/log/consistency?from=${from}&to=${to}`)
        const roots = { from_root_hash: base64(slow.treeHash(0, from)), to_root_hash: base64(slow.treeHash(0, to)) }
        expect(body).toMatchObject({ from, to, ...roots, proof: slow.consistency(from, to).map(base64) })
      }
    }
  })

  test('as text is what a witness is asked with', async () => {
    const { body } = await ask<string>('/v1/log/consistency?from=100', 'text/plain')
    const split = body.indexOf('\n\n')
    const [old, ...hashes] = body.slice(0, split).split('\n')
    expect(old).toBe('old 100')
    expect(hashes).toEqual(slow.consistency(100, size).map(base64))
    expect(openCheckpoint(body.slice(split + 2), await logTrust())).toMatchObject({ treeSize: size })
  })

  test.each([
    ['no size', () => '', 400],
    ['the empty log', () => '?from=0', 400],
    ['a size to come', () => `?from=${size + 1}`, 404],
    ['a log that shrank', () => '?from=9&to=8', 404],
  ])('from %s is refused', async (_what, query, status) => {
    expect((await ask(`/v1/log/consistency${query()}`)).status).toBe(status)
  })
})
