/**
 * Exports are checked twice, by our verifier and by one in Python that shares nothing with it. Both must accept what the
 * relay writes, and both must name what is wrong with every file that somebody changed, and agree on where.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { sha256 } from '../../src/message/digest.ts'
import type { ExportFault } from '../../src/receipt/export-fault.ts'
import { exported, linesOf, textOf, trustIn, verify } from '../support/export.ts'
import { appendStatements } from '../support/many-statements.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

const checker = fileURLToPath(new URL('verify_export.py', import.meta.url))
const hasPython = spawnSync('python3', ['-c', 'import cryptography']).status === 0
if (!hasPython) console.warn('LOUD SKIP: no python3 with cryptography, so nobody but ourselves checks the exports')

let relay: TestRelay
let acme: TestTenant
let rival: TestTenant
let folder: string
/** Acme's export as lines: dense tiles, full and partial, and leaves that bring their paths. */
let lines: string[]
let rivals: string[]

beforeAll(async () => {
  relay = await TestRelay.start()
  acme = await relay.makeTenant('Acme')
  rival = await relay.makeTenant('Rival')
  folder = await mkdtemp(join(tmpdir(), 'countersign-export-'))
  await Promise.all(Array.from({ length: 40 }, (_, order) => relay.post(acme, { order })))
  await append(250, () => acme)
  for (let i = 0; i < 16; i++) {
    await append(40, () => rival)
    await append(1, () => acme)
  }
  await Promise.all(Array.from({ length: 8 }, (_, order) => relay.post(acme, { late: order })))
  lines = linesOf(await exported(relay, acme.id))
  rivals = linesOf(await exported(relay, rival.id))
})

afterAll(async () => {
  await relay?.stop()
  await rm(folder, { recursive: true, force: true })
})

const append = (count: number, tenantOf: (number: number) => TestTenant, to = relay) =>
  appendStatements(
    { sequencer: to.relay.sequencer, issuer: to.relay.issuer, now: () => to.clock.now() },
    count,
    (number) => tenantOf(number).id,
  )

interface Judgement {
  readonly verdict: 'valid' | 'invalid'
  readonly fault?: ExportFault
  readonly leaf_index?: number
  readonly line?: number
  readonly detail?: string
}

async function byPython(file: Buffer, on: TestRelay): Promise<Judgement> {
  const vkey = join(folder, 'vkey')
  await writeFile(vkey, (await on.call<string>('GET', '/log/vkey')).body)
  const child = spawn('python3', [checker, '-', '--vkey', vkey])
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk
  })
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk
  })
  child.stdin.on('error', () => {}) // it says what is wrong, and reads no further
  child.stdin.end(file)
  const [code] = (await once(child, 'close')) as [number]
  expect(stderr).toBe('')
  const judgement = JSON.parse(stdout) as Judgement
  expect(code).toBe(judgement.verdict === 'valid' ? 0 : 1)
  return judgement
}

/** What both say; fails where they disagree. */
async function judge(file: Buffer, on = relay): Promise<Judgement> {
  const verdict = await verify(file, await trustIn(on))
  const ours: Judgement =
    verdict.verdict === 'valid'
      ? { verdict: 'valid' }
      : {
          ...{ verdict: 'invalid', fault: verdict.fault, line: verdict.line, detail: verdict.detail },
          ...(verdict.leafIndex !== undefined && { leaf_index: verdict.leafIndex }),
        }
  if (hasPython && file[0] !== 0x28) {
    const { verdict, fault, leaf_index, line } = await byPython(file, on)
    // How much comes out of a compressed file before it breaks off is up to the library.
    const place = (at: number | undefined) => (file[0] === 0x1f ? {} : { line: at })
    const { verdict: same, fault: cause, leaf_index: index } = ours
    const theirs = { verdict, fault, leaf_index, ...place(line) }
    expect(theirs, ours.detail).toEqual({ verdict: same, fault: cause, leaf_index: index, ...place(ours.line) })
  }
  return ours
}

type Line = Record<string, unknown> & { index: number; statement?: string; path?: string; head?: string }
const read = (line: string | undefined): Line => JSON.parse(line ?? '{}') as Line
/** The place, from 0, of the nth line that begins so. */
const find = (start: RegExp, nth = 0): number => {
  const found = lines.flatMap((line, at) => (start.test(line) ? [at] : []))[nth]
  if (found === undefined) throw new Error(`there are fewer lines like ${start}`)
  return found
}
const leaf = (nth: number) => find(/^\{"index":\d+,.*"statement"/, nth)
const without = (...places: number[]) => lines.filter((_, at) => !places.includes(at))
const swapped = (one: number, other: number) =>
  lines.map((line, at) => (at === one ? lines[other] : at === other ? lines[one] : line) ?? '')
const replaced = (at: number, line: string) => lines.with(at, line)
const edited = (at: number, change: object) => replaced(at, JSON.stringify({ ...read(lines[at]), ...change }))
const inserted = (at: number, ...more: string[]) => lines.toSpliced(at, 0, ...more)
const indexOf = (at: number): number => read(lines[at]).index
/** Some base64url with one bit changed, which stays canonical. */
const bent = (text: unknown): string => {
  const bytes = Buffer.from(String(text), 'base64url')
  bytes[3] = (bytes[3] ?? 0) ^ 1
  return bytes.toString('base64url')
}
const createEntry = (statement: unknown): string =>
  sha256(Buffer.from(String(statement), 'base64url')).toString('base64url')
const restated = (text: unknown, from: string, to: string): string =>
  Buffer.from(Buffer.from(String(text), 'base64url').toString().replace(from, to)).toString('base64url')

test('the export that the lies are made of has a line of every kind', () => {
  const kinds = [
    /^\{"format"/,
    /^\{"tile":"\d+\/\d+\.p/,
    /^\{"tile":"0\/\d+"/,
    /"path"/,
    /"kid"/,
    /"head"/,
    /^\{"manifest"/,
  ]
  for (const kind of kinds) expect(lines.filter((line) => kind.test(line)).length, String(kind)).toBeGreaterThan(0)
})

test('it is valid: plain, as gzip, and as the parts of a zstd file', async () => {
  expect(await judge(textOf(lines))).toMatchObject({ verdict: 'valid' })
  expect(await judge(gzipSync(textOf(lines)))).toMatchObject({ verdict: 'valid' })
  expect(await judge(await exported(relay, acme.id))).toMatchObject({ verdict: 'valid' })
  expect(await judge(await exported(relay, acme.id, { compression: 'gzip' }))).toMatchObject({ verdict: 'valid' })
})

/** Each lie is a file; `leaf` is the place of the line whose leaf must be named. */
interface Lie {
  readonly file: () => string[] | Buffer
  readonly fault: ExportFault
  readonly leaf?: () => number
}

const head = () => find(/"head"/)
const manifest = () => lines.length - 1
const signed = () => find(/"kid"/, 3)
const pathed = () => find(/"path".*\}$/, 2)
const fullTile = () => find(/^\{"tile":"0\/\d+"/)
const edge = () => find(/^\{"tile":"0\/\d+\.p/)

const lies: Record<string, Lie> = {
  'a leaf removed': { file: () => without(leaf(5)), fault: 'removed', leaf: () => leaf(5) },
  'two leaves removed, of which the last is named': {
    file: () => without(leaf(5), leaf(6)),
    fault: 'removed',
    leaf: () => leaf(6),
  },
  'the last leaf before the head removed': {
    file: () => without(head() - 1),
    fault: 'removed',
    leaf: () => head() - 1,
  },
  'the first leaf removed': { file: () => without(leaf(0)), fault: 'removed', leaf: () => leaf(0) },
  'a leaf removed, and the next made to fit': {
    file: () =>
      replaced(leaf(6), JSON.stringify({ ...read(lines[leaf(6)]), prev: indexOf(leaf(4)) })).toSpliced(leaf(5), 1),
    fault: 'removed',
  },
  'a leaf duplicated': {
    file: () => inserted(leaf(6), lines[leaf(5)] ?? ''),
    fault: 'duplicated',
    leaf: () => leaf(5),
  },
  'a leaf duplicated far behind': {
    file: () => inserted(leaf(30), lines[leaf(5)] ?? ''),
    fault: 'duplicated',
    leaf: () => leaf(5),
  },
  'two leaves exchanged': { file: () => swapped(leaf(5), leaf(6)), fault: 'reordered', leaf: () => leaf(5) },
  'two distant leaves exchanged': { file: () => swapped(leaf(5), leaf(30)), fault: 'reordered', leaf: () => leaf(29) },
  'a statement changed': {
    file: () => edited(leaf(7), { statement: bent(read(lines[leaf(7)]).statement) }),
    fault: 'changed',
    leaf: () => leaf(7),
  },
  'a statement changed well': {
    file: () => edited(leaf(60), { statement: restated(read(lines[leaf(60)]).statement, 'delivered', 'refused') }),
    fault: 'changed',
    leaf: () => leaf(60),
  },
  'a statement replaced by that of another leaf': {
    file: () => edited(leaf(7), { statement: read(lines[leaf(8)]).statement }),
    fault: 'changed',
    leaf: () => leaf(7),
  },
  'a statement withheld': {
    file: () => {
      const { index, prev, statement, path } = read(lines[leaf(60)])
      const entry = createEntry(statement)
      return replaced(leaf(60), JSON.stringify({ index, prev, entry, path }))
    },
    fault: 'removed',
    leaf: () => leaf(60),
  },
  'a leaf of another tenant added': {
    file: () => {
      const place = head()
      const theirs = rivals
        .map(read)
        .find((line) => line.statement && line.path === undefined && line.index > 400 && line.index < 500)
      const after = lines.findIndex((line) => (read(line).index ?? -1) > (theirs?.index ?? 0))
      const prev = indexOf(after - 1)
      expect(after).toBeLessThan(place)
      return inserted(after, JSON.stringify({ ...theirs, prev }))
    },
    fault: 'foreign',
  },
  'a leaf added as an entry': {
    file: () => {
      const theirs = rivals
        .map(read)
        .find((line) => line.statement && line.path === undefined && line.index > 400 && line.index < 500)
      const after = lines.findIndex((line) => (read(line).index ?? -1) > (theirs?.index ?? 0))
      const entry = createEntry(theirs?.statement)
      return inserted(after, JSON.stringify({ index: theirs?.index, prev: indexOf(after - 1), entry }))
    },
    fault: 'removed', // it claims to be ours, and its statement is not shown
  },
  'a path changed': {
    file: () => edited(pathed(), { path: bent(read(lines[pathed()]).path) }),
    fault: 'changed',
    leaf: pathed,
  },
  'a path removed': { file: () => edited(pathed(), { path: undefined }), fault: 'removed', leaf: pathed },
  'a full tile removed': { file: () => without(fullTile()), fault: 'removed', leaf: () => fullTile() + 1 },
  'a full tile changed': {
    file: () => edited(fullTile(), { hashes: bent(read(lines[fullTile()]).hashes) }),
    fault: 'changed',
  },
  'a full tile duplicated': { file: () => inserted(fullTile() + 4, lines[fullTile()] ?? ''), fault: 'duplicated' },
  'a full tile behind its first leaf': {
    file: () => swapped(fullTile(), fullTile() + 1),
    fault: 'reordered',
    leaf: () => fullTile() + 1,
  },
  'a tile at the edge removed': { file: () => without(edge()), fault: 'removed' },
  'a tile at the edge changed': {
    file: () => edited(edge(), { hashes: bent(read(lines[edge()]).hashes) }),
    fault: 'changed',
  },
  'the tiles at the edge exchanged': { file: () => swapped(edge() - 1, edge()), fault: 'reordered' },
  'a tile at the edge duplicated': { file: () => inserted(edge() + 1, lines[edge()] ?? ''), fault: 'duplicated' },
  'a signature removed': {
    file: () => edited(signed(), { kid: undefined, signature: undefined }),
    fault: 'unsigned',
    leaf: signed,
  },
  'a signature changed': {
    file: () => edited(signed(), { signature: bent(read(lines[signed()]).signature) }),
    fault: 'unsigned',
    leaf: signed,
  },
  'a signature of another leaf': {
    file: () => edited(signed(), { signature: read(lines[find(/"kid"/, 4)]).signature }),
    fault: 'unsigned',
    leaf: signed,
  },
  'a key that nobody has': {
    file: () => edited(signed(), { kid: bent(read(lines[signed()]).kid) }),
    fault: 'unsigned',
    leaf: signed,
  },
  'a member added': { file: () => edited(leaf(7), { note: 1 }), fault: 'changed', leaf: () => leaf(7) },
  'a space added': { file: () => replaced(leaf(7), `${lines[leaf(7)]} `), fault: 'changed' },
  'a line that is no JSON': { file: () => replaced(leaf(7), (lines[leaf(7)] ?? '').slice(0, -1)), fault: 'changed' },
  'an empty line': { file: () => inserted(leaf(7), ''), fault: 'changed' },
  'the header removed': { file: () => without(0), fault: 'removed' },
  'the header duplicated': { file: () => inserted(1, lines[0] ?? ''), fault: 'duplicated' },
  'the header of another tenant’s export': { file: () => replaced(0, rivals[0] ?? ''), fault: 'changed' },
  'a header with another tenant': {
    file: () => edited(0, { tenant: rival.id }),
    fault: 'foreign',
    leaf: () => leaf(0),
  },
  'a header with a narrower range': {
    file: () => edited(0, { range: { from: 0, to: 40 } }),
    fault: 'changed',
  },
  'a header with a wider range': { file: () => edited(0, { range: { from: 0, to: 100_000 } }), fault: 'removed' },
  'a checkpoint that is not signed': {
    file: () =>
      edited(0, { checkpoint: String(read(lines[0]).checkpoint).replace(/\n—[^\n]+\n$/, '\n— nobody AAAAAAAA\n') }),
    fault: 'unsigned',
  },
  'a checkpoint of another size': {
    file: () =>
      edited(0, { checkpoint: String(read(lines[0]).checkpoint).replace(/\n(\d+)\n/, (_, size) => `\n${size}0\n`) }),
    fault: 'unsigned',
  },
  'the head removed': { file: () => without(head()), fault: 'removed' },
  'the head changed': {
    file: () => edited(head(), { head: bent(read(lines[head()]).head) }),
    fault: 'changed',
    leaf: head,
  },
  'the head of another tenant': {
    file: () => {
      const theirs = read(rivals.find((line) => line.includes('"head"')))
      return edited(head(), { head: theirs.head })
    },
    fault: 'changed',
    leaf: head,
  },
  'the head duplicated': { file: () => inserted(head() + 1, lines[head()] ?? ''), fault: 'foreign', leaf: head },
  'the manifest removed': { file: () => without(manifest()), fault: 'truncated' },
  'the manifest twice': { file: () => inserted(lines.length, lines[manifest()] ?? ''), fault: 'duplicated' },
  'a leaf behind the manifest': { file: () => inserted(lines.length, lines[leaf(7)] ?? ''), fault: 'foreign' },
  'the manifest of another export': { file: () => replaced(manifest(), rivals.at(-1) ?? ''), fault: 'foreign' },
  'a manifest whose signature was changed': {
    file: () => {
      const [header, payload, signature] = String(read(lines[manifest()]).manifest).split('.')
      return edited(manifest(), { manifest: `${header}.${payload}.${bent(signature)}` })
    },
    fault: 'unsigned',
  },
  'a manifest whose claims were changed': {
    file: () => {
      const [header, payload, signature] = String(read(lines[manifest()]).manifest).split('.')
      const other = restated(payload, `"lines":${manifest()}`, `"lines":${manifest() + 1}`)
      return edited(manifest(), { manifest: `${header}.${other}.${signature}` })
    },
    fault: 'unsigned',
  },
  'a file cut within a line': { file: () => textOf(lines).subarray(0, 20_000), fault: 'truncated' },
  'a file cut between lines': { file: () => lines.slice(0, 30), fault: 'truncated' },
  'a file cut within its compression': {
    file: () => gzipSync(textOf(lines)).subarray(0, 20_000),
    fault: 'truncated',
  },
  'nothing at all': { file: () => Buffer.alloc(0), fault: 'truncated' },
}

test.each(Object.entries(lies))('%s is found and named', async (_name, { file, fault, leaf }) => {
  const lie = file()
  const judgement = await judge(Buffer.isBuffer(lie) ? lie : textOf(lie))
  expect(judgement, judgement.detail).toMatchObject({ verdict: 'invalid', fault })
  if (leaf !== undefined) expect(judgement.leaf_index, judgement.detail).toBe(indexOf(leaf()))
})

test('any line removed, moved or twice, and any byte changed, is found', async () => {
  const trust = await trustIn(relay)
  const place = fc.nat(lines.length - 1)
  const changes = fc.oneof(
    place.map((at) => textOf(without(at))),
    place.map((at) => textOf(inserted(at, lines[at] ?? ''))),
    fc
      .tuple(place, place)
      .filter(([from, to]) => from !== to)
      .map(([from, to]) => textOf(without(from).toSpliced(to, 0, lines[from] ?? ''))),
    fc.tuple(fc.nat(textOf(lines).length - 1), fc.integer({ min: 1, max: 255 })).map(([at, bits]) => {
      const file = textOf(lines)
      file[at] = (file[at] ?? 0) ^ bits
      return file
    }),
  )
  const found = async (file: Buffer) => (await verify(file, trust)).verdict === 'invalid'
  await fc.assert(fc.asyncProperty(changes, found), { numRuns: 150 })
})

test('beside a log that grows, a tenant with one leaf in a thousand gets a small file, another a large one, and both hold', async () => {
  const busy = await TestRelay.start()
  try {
    const sparse = await busy.makeTenant('Sparse')
    const dense = await busy.makeTenant('Dense')
    const tenantOf = (number: number) => (number % 1000 === 0 ? sparse : dense)
    await append(70_000, tenantOf, busy) // beyond 65,536 there is a full tile of level 1
    const growing = append(6000, tenantOf, busy)
    const wish = { compression: 'gzip' }
    const [few, many] = await Promise.all([exported(busy, sparse.id, wish), exported(busy, dense.id, wish)])
    await growing
    expect(few.length).toBeLessThan(100_000)
    expect(linesOf(few).filter((line) => line.includes('"path"')).length).toBeGreaterThan(60)
    expect(linesOf(many).filter((line) => line.includes('"statement"')).length).toBeGreaterThan(69_900)
    expect(linesOf(many).some((line) => line.startsWith('{"tile":"1/0"'))).toBe(true)
    for (const file of [few, many]) expect(await judge(file, busy)).toMatchObject({ verdict: 'valid' })
  } finally {
    await busy.stop()
  }
}, 180_000)
