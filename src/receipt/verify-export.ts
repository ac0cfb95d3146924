/**
 * Checks an export line by line, in memory that does not grow with it, by the keys of the log alone: no network, no
 * port. export-format.ts has the lines.
 *
 *     header → the checkpoint is the log's → the edge hashes to its root → each tile stands below it → each leaf stands
 *     in its tile, is this tenant's, follows the leaf before → the head counts exactly these → the manifest is signed
 *
 * tests/conformance/verify_export.py is the same in another language; the two must agree on every file.
 */
import { RelayError } from '../errors.ts'
import { jwsHeader, receiptHeader, verifyJws } from '../keyring/jws.ts'
import { NoteError } from '../log/note.ts'
import { emptyDigest, extendDigest } from '../log/tenant-digest.ts'
import { partialWidth } from '../log/tile.ts'
import { hashBytes, hashLeaf, hashNode, TreeEdge, tileHeight, tileWidth } from '../log/tree.ts'
import { decodeBase64url, sha256 } from '../message/digest.ts'
import { type JsonObject, type JsonValue, parseJson } from '../message/json.ts'
import { emptyChain, exportFormat, exportJwsType, extendChain } from './export-format.ts'
import { ExportDamaged } from './export-lines.ts'
import { readKeyHistory } from './key-history.ts'
import { type CheckpointOpener, stateProblem, type TrustedKey } from './verify.ts'

/** What is wrong with an export. */
export type ExportFault =
  | 'removed' // a line, or a statement that the range should show
  | 'changed' // bytes that are not those that were written
  | 'reordered'
  | 'duplicated'
  | 'foreign' // a line that does not belong: another tenant's, another log's
  | 'unsigned' // no signature where there must be one, or not by a key that we know
  | 'truncated'

export interface ExportTrust {
  /** Opens a checkpoint of the log trusted. */
  readonly openCheckpoint: CheckpointOpener
  /** Undefined: the keys that the export brings itself. They then prove that its signatures belong together, and not
   *  whose they are; the log does not depend on them. */
  readonly findKey: ((kid: string) => TrustedKey | undefined) | undefined
}

export interface ExportSummary {
  readonly id: string
  readonly tenant: string
  readonly origin: string
  readonly treeSize: number
  /** All leaves of the tenant in [`from`, `upto`) are in the file. */
  readonly from: number
  readonly upto: number
  readonly range: { readonly from: number; readonly to: number }
  readonly kinds: readonly string[] | undefined
  /** Leaves with their statements, and those with their entries only. */
  readonly shown: number
  readonly withheld: number
  /** Statements whose signature was verified. */
  readonly signed: number
}

export type ExportVerdict =
  | { readonly verdict: 'valid'; readonly export: ExportSummary }
  | {
      readonly verdict: 'invalid'
      readonly fault: ExportFault
      /** The first leaf that is wrong, where it can be told. */
      readonly leafIndex?: number
      /** The line that shows it, from 1. */
      readonly line: number
      readonly detail: string
    }

/** Never throws for anything the lines hold. Lines that throw {@link ExportDamaged} end in that verdict. */
export async function verifyExport(lines: AsyncIterable<Uint8Array>, trust: ExportTrust): Promise<ExportVerdict> {
  const verification = new Verification(trust)
  const rest = lines[Symbol.asyncIterator]()
  try {
    for (let next = await rest.next(); next.done !== true; next = await rest.next()) verification.take(next.value)
    return { verdict: 'valid', export: verification.end() }
  } catch (error) {
    if (error instanceof ExportDamaged) return verification.invalid(new Wrong(error.reason, error.message))
    if (!(error instanceof Wrong)) throw error
    // What is missing here may stand further down: then it was moved, not removed.
    const moved = error.missing !== undefined && (await isAmong(rest, error.missing))
    return verification.invalid(moved ? new Wrong('reordered', error.message, error.leafIndex) : error)
  } finally {
    await rest.return?.()
  }
}

/** Not thrown further than {@link verifyExport}. */
class Wrong extends Error {
  readonly fault: ExportFault
  readonly leafIndex: number | undefined
  /** How the line that was expected instead begins. */
  readonly missing: string | undefined

  constructor(fault: ExportFault, detail: string, leafIndex?: number, missing?: string) {
    super(detail)
    this.fault = fault
    this.leafIndex = leafIndex
    this.missing = missing
  }
}

async function isAmong(lines: AsyncIterator<Uint8Array>, start: string): Promise<boolean> {
  try {
    for (let next = await lines.next(); next.done !== true; next = await lines.next()) {
      if (Buffer.from(next.value.buffer, next.value.byteOffset, start.length).toString('latin1') === start) return true
    }
  } catch (error) {
    if (!(error instanceof ExportDamaged)) throw error
  }
  return false
}

type Stage = 'header' | 'edge' | 'leaves' | 'manifest' | 'over'

interface Tile {
  readonly index: number
  readonly hashes: Uint8Array
}

interface ReadHeader {
  readonly id: string
  readonly issuer: string
  readonly tenant: string
  readonly basis: { readonly upto: number; readonly digest: Uint8Array; readonly index: number | undefined }
  readonly range: { readonly from: number; readonly to: number }
  readonly kinds: readonly string[] | undefined
  readonly findKey: (kid: string) => TrustedKey | undefined
}

class Verification {
  readonly #trust: ExportTrust
  #stage: Stage = 'header'
  /** Lines taken, and their digest. */
  #lines = 0
  #chain = emptyChain
  #header!: ReadHeader
  #origin = ''
  #treeSize = 0
  #rootHash: Uint8Array = emptyDigest
  /** By level: the partial tiles at the right edge, and the full one met last. */
  readonly #edge: Uint8Array[] = []
  readonly #tiles = new Map<number, Tile>()
  #digest: Uint8Array = emptyDigest
  #last: number | undefined
  #basisSeen = false
  #upto = 0
  #shown = 0
  #withheld = 0
  #signed = 0
  /** The manifest, once it is taken. */
  #final: Uint8Array = emptyDigest

  constructor(trust: ExportTrust) {
    this.#trust = trust
  }

  take(bytes: Uint8Array): void {
    if (this.#stage === 'over') {
      const again = Buffer.compare(bytes, this.#final) === 0
      throw new Wrong(again ? 'duplicated' : 'foreign', 'a line follows the manifest')
    }
    this.#lines += 1
    const line = readLine(bytes)
    if (this.#stage === 'header') this.#takeHeader(line)
    else if ('format' in line) throw new Wrong('duplicated', 'there is a second header')
    else if ('tile' in line) this.#takeTile(line)
    else if (this.#stage === 'edge') throw this.#edgeMissing()
    else if ('manifest' in line) this.#takeManifest(line, bytes)
    else this.#takeLeaf(line)
    this.#chain = extendChain(this.#chain, bytes)
  }

  end(): ExportSummary {
    if (this.#stage !== 'over') throw new Wrong('truncated', 'the file ends before its manifest')
    const { id, tenant, basis, range, kinds } = this.#header
    const [origin, treeSize, from, upto] = [this.#origin, this.#treeSize, basis.upto, this.#upto]
    const counts = { shown: this.#shown, withheld: this.#withheld, signed: this.#signed }
    return { id, tenant, origin, treeSize, from, upto, range, kinds, ...counts }
  }

  invalid({ fault, leafIndex, message: detail }: Wrong): ExportVerdict {
    const line = fault === 'truncated' || this.#stage === 'over' ? this.#lines + 1 : Math.max(1, this.#lines)
    return { verdict: 'invalid', fault, ...(leafIndex !== undefined && { leafIndex }), line, detail }
  }

  #takeHeader(line: JsonObject): void {
    if (line.format !== exportFormat) throw new Wrong('removed', `the first line is no header of ${exportFormat}`)
    const { id, issuer, tenant, checkpoint } = line
    const basis = readObject(line.basis)
    const range = readObject(line.range)
    const [upto, from, to] = [readIndex(basis?.upto), readIndex(range?.from), readIndex(range?.to)]
    const digest = readBytes(basis?.digest, hashBytes)
    const index = basis?.index === undefined ? undefined : readIndex(basis.index)
    const kinds = line.kinds === undefined ? undefined : readTexts(line.kinds)
    const readable =
      typeof id === 'string' &&
      typeof issuer === 'string' &&
      typeof tenant === 'string' &&
      typeof checkpoint === 'string'
    if (!readable || upto === undefined || from === undefined || to === undefined || digest === undefined)
      throw new Wrong('changed', 'the header is not of its form')
    // From nowhere, the count begins at nothing; from a head, at a leaf behind what the head counts.
    const rooted = basis?.index === undefined ? upto === 0 && isZero(digest) : index !== undefined && index >= upto
    if (!rooted || from < upto || to < from || (line.kinds !== undefined && kinds === undefined))
      throw new Wrong('changed', 'the header contradicts itself')
    this.#openCheckpoint(checkpoint)
    const keys = readKeyHistory(line.keys)
    if (typeof keys === 'string') throw new Wrong('changed', `the key history of the header cannot be used: ${keys}`)
    const findKey = this.#trust.findKey ?? ((kid: string) => keys.find((key) => key.kid === kid))
    this.#header = { id, issuer, tenant, basis: { upto, digest, index }, range: { from, to }, kinds, findKey }
    this.#digest = digest
    this.#stage = this.#edgeLevels.length > 0 ? 'edge' : 'leaves'
  }

  #openCheckpoint(note: string): void {
    try {
      const { origin, treeSize, rootHash } = this.#trust.openCheckpoint(note)
      this.#origin = origin
      this.#treeSize = treeSize
      this.#rootHash = rootHash
    } catch (error) {
      if (!(error instanceof NoteError)) throw error
      const fault = faultOfNote[error.reason] ?? 'changed'
      throw new Wrong(fault, `the checkpoint is not one of the log trusted: ${error.message}`)
    }
  }

  /** The levels with a partial tile, from the top down. */
  get #edgeLevels(): number[] {
    const levels: number[] = []
    for (let level = 0; tileWidth ** level <= this.#treeSize; level++)
      if (partialWidth(level, this.#treeSize) > 0) levels.unshift(level)
    return levels
  }

  #edgeMissing(): Wrong {
    const level = this.#edgeLevels.find((each) => this.#edge[each] === undefined) ?? 0
    const name = `${level}/${this.#edgeIndex(level)}.p/${partialWidth(level, this.#treeSize)}`
    return new Wrong('removed', `tile ${name} should stand here`, undefined, `{"tile":"${name}"`)
  }

  #edgeIndex(level: number): number {
    return Math.floor(this.#treeSize / tileWidth ** (level + 1))
  }

  #takeTile(line: JsonObject): void {
    const [, levelText = '', indexText = '', widthText] =
      /^(\d{1,2})\/(0|[1-9]\d{0,15})(?:\.p\/(\d{1,3}))?$/.exec(readText(line.tile) ?? '') ?? []
    const level = Number(levelText)
    const index = Number(indexText)
    const width = widthText === undefined ? tileWidth : Number(widthText)
    const hashes = levelText === '' ? undefined : readBytes(line.hashes, width * hashBytes)
    if (hashes === undefined || hasOthers(line, ['tile', 'hashes']))
      throw new Wrong('changed', 'a tile is not of its form')
    if (widthText !== undefined) this.#takeEdge(level, index, width, hashes)
    else if (this.#stage === 'edge') throw this.#edgeMissing()
    else this.#takeFullTile(level, index, hashes)
  }

  #takeEdge(level: number, index: number, width: number, hashes: Uint8Array): void {
    const name = `tile ${level}/${index}.p/${width}`
    if (this.#edge[level] !== undefined) throw new Wrong('duplicated', `${name} is there twice`)
    const expected = this.#edgeLevels.find((each) => this.#edge[each] === undefined)
    if (this.#stage !== 'edge' || expected === undefined) throw new Wrong('reordered', `${name} does not belong here`)
    if (level !== expected) throw this.#edgeMissing()
    if (index !== this.#edgeIndex(level) || width !== partialWidth(level, this.#treeSize))
      throw new Wrong('changed', `${name} is no tile at the edge of a tree of ${this.#treeSize}`)
    this.#edge[level] = hashes
    if (this.#edgeLevels.some((each) => this.#edge[each] === undefined)) return
    const partials: Uint8Array[][] = []
    for (let each = 0; tileWidth ** each <= this.#treeSize; each++) partials.push(split(this.#edge[each]))
    const { rootHash } = TreeEdge.load(this.#treeSize, partials)
    if (Buffer.compare(rootHash, this.#rootHash) !== 0)
      throw new Wrong('changed', 'the tiles at the edge do not hash to the root of the checkpoint')
    this.#stage = 'leaves'
  }

  #takeFullTile(level: number, index: number, hashes: Uint8Array): void {
    const name = `tile ${level}/${index}`
    const before = this.#tiles.get(level)
    if (before !== undefined && index <= before.index)
      throw new Wrong(index === before.index ? 'duplicated' : 'reordered', `${name} is there again, or too late`)
    const firstLeaf = index * tileWidth ** (level + 1)
    if ((index + 1) * tileWidth ** (level + 1) > this.#treeSize)
      throw new Wrong('changed', `${name} is not full in a tree of ${this.#treeSize}`, firstLeaf)
    if (Buffer.compare(rootOf(hashes), this.#hashAt(level + 1, index, firstLeaf)) !== 0)
      throw new Wrong('changed', `${name} does not hash to what the tile above it says`, firstLeaf)
    this.#tiles.set(level, { index, hashes })
  }

  /** A hash in a tile that was checked. */
  #hashAt(level: number, index: number, leafIndex: number): Uint8Array {
    const tileIndex = Math.floor(index / tileWidth)
    const full = this.#tiles.get(level)
    const hashes =
      full?.index === tileIndex ? full.hashes : tileIndex === this.#edgeIndex(level) ? this.#edge[level] : undefined
    const offset = (index % tileWidth) * hashBytes
    const found = hashes?.subarray(offset, offset + hashBytes)
    if (found?.length === hashBytes) return found
    const name = `${level}/${tileIndex}`
    throw new Wrong('removed', `tile ${name} should stand before this line`, leafIndex, `{"tile":"${name}"`)
  }

  #takeLeaf(line: JsonObject): void {
    const index = readIndex(line.index)
    const prev = line.prev === undefined ? undefined : readIndex(line.prev)
    if (index === undefined || (line.prev !== undefined && prev === undefined))
      throw new Wrong('changed', 'a line is not of its form', this.#last)
    if (this.#stage === 'manifest') throw new Wrong(this.#misplaced(index), 'a leaf stands behind the head', index)
    this.#checkOrder(index, prev)

    const text = line.statement ?? line.head
    const bytes = text === undefined ? undefined : readBytes(text)
    const entry = bytes === undefined ? readBytes(line.entry, hashBytes) : sha256(bytes)
    const members = bytes === undefined ? ['entry'] : line.head === undefined ? signedMembers : ['head']
    if (entry === undefined || hasOthers(line, ['index', 'prev', 'path', ...members]))
      throw new Wrong('changed', `the line of leaf ${index} is not of its form`, index)
    this.#checkInclusion(index, entry, line.path)

    if (bytes === undefined) this.#checkWithheld(index)
    const statement = bytes && this.#readStatement(bytes, index)
    if (statement !== undefined && line.head !== undefined) {
      this.#takeHead(statement, index)
      return
    }
    if (statement !== undefined && bytes !== undefined) {
      this.#checkSignature(line, statement, bytes, index)
      this.#checkBasis(statement, index)
    }
    this.#digest = extendDigest(this.#digest, index, entry)
    if (statement === undefined) this.#withheld += 1
    else this.#shown += 1
    this.#last = index
  }

  #checkOrder(index: number, prev: number | undefined): void {
    const last = this.#last
    if (last !== undefined && index <= last)
      throw new Wrong(this.#misplaced(index), `leaf ${index} stands behind leaf ${last}`, index)
    if (prev === last) {
      if (index >= this.#header.basis.upto && index < this.#treeSize) return
      throw new Wrong('foreign', `leaf ${index} is none that this export is about`, index)
    }
    if (prev === undefined || prev < (last ?? -1))
      throw new Wrong('foreign', `leaf ${last} is none that the one behind it knows`, last)
    throw new Wrong('removed', `leaf ${prev} should stand before leaf ${index}`, prev, `{"index":${prev},`)
  }

  /** A leaf that is there too late was there before, or else whoever came first would have missed it. */
  #misplaced(index: number): ExportFault {
    return index >= this.#header.basis.upto && index <= (this.#last ?? -1) ? 'duplicated' : 'foreign'
  }

  #checkInclusion(index: number, entry: Uint8Array, path: JsonValue | undefined): void {
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

  #checkWithheld(index: number): void {
    const { range, kinds } = this.#header
    if (kinds === undefined && index >= range.from && index < range.to)
      throw new Wrong('removed', `the statement of leaf ${index} is in the range, and is not shown`, index)
  }

  #readStatement(bytes: Uint8Array, index: number): JsonObject {
    const { tenant, issuer } = this.#header
    const statement = parseObject(bytes)
    if (statement === undefined) throw new Wrong('changed', `the statement of leaf ${index} is not strict JSON`, index)
    if (statement.tenant !== tenant || statement.iss !== issuer)
      throw new Wrong('foreign', `leaf ${index} is a statement about another tenant, or by another issuer`, index)
    return statement
  }

  #checkSignature(line: JsonObject, { kind, iat }: JsonObject, bytes: Uint8Array, index: number): void {
    if (line.kid === undefined && line.signature === undefined) {
      if (kind === 'message.accepted')
        throw new Wrong('unsigned', `leaf ${index} lacks the signature of its receipt`, index)
      return
    }
    const { kid } = line
    const signature = readBytes(line.signature, 64)
    const key = typeof kid === 'string' ? this.#header.findKey(kid) : undefined
    if (typeof kid !== 'string' || signature === undefined || key === undefined)
      throw new Wrong('unsigned', `leaf ${index} is signed by a key that is not known`, index)
    if (!verifyJws(receiptHeader(kid), Buffer.from(bytes).toString('base64url'), signature, key.publicKey))
      throw new Wrong('unsigned', `the signature of leaf ${index} is not of its statement`, index)
    const problem = stateProblem(key, Number(iat), index, 'at once')
    if (problem !== undefined) throw new Wrong('unsigned', `leaf ${index}: ${problem}`, index)
    this.#signed += 1
  }

  #checkBasis(statement: JsonObject, index: number): void {
    const { basis } = this.#header
    if (index !== basis.index) return
    const counted = statement.kind === 'tenant.head' && statement.upto === basis.upto
    if (!counted || statement.digest !== Buffer.from(basis.digest).toString('base64url'))
      throw new Wrong('changed', `leaf ${index} is not the head that the header builds upon`, index)
    this.#basisSeen = true
  }

  #takeHead({ kind, upto, digest, from, previous, count }: JsonObject, index: number): void {
    const { basis, range } = this.#header
    const last = this.#last ?? -1
    if (kind !== 'tenant.head' || typeof upto !== 'number' || upto > index)
      throw new Wrong('changed', `leaf ${index} is no head`, index)
    if (last >= upto) throw new Wrong('foreign', `leaf ${last} is none of those that the head counts`, last)
    if (basis.index !== undefined && !this.#basisSeen)
      throw new Wrong('removed', 'the head that the header builds upon is not there', basis.index)
    if (range.to > upto) throw new Wrong('removed', `the head counts the leaves before ${upto}, and no more`, upto)
    if (digest !== Buffer.from(this.#digest).toString('base64url')) {
      const here = this.#shown + this.#withheld
      const sameStart = from === basis.upto && previous === Buffer.from(basis.digest).toString('base64url')
      const fault = !sameStart || here === count ? 'changed' : here < Number(count) ? 'removed' : 'foreign'
      const sentence = sameStart ? `there are ${here} leaves, and the head counts ${count}` : 'the head counts others'
      throw new Wrong(fault, `the leaves are not those that the head counts: ${sentence}`)
    }
    this.#upto = upto
    this.#stage = 'manifest'
  }

  #takeManifest(line: JsonObject, written: Uint8Array): void {
    if (this.#stage !== 'manifest')
      throw new Wrong('removed', 'the head should stand before the manifest', undefined, '{"index":')
    const [header = '', payload = '', signatureText = '', ...more] = (readText(line.manifest) ?? '').split('.')
    const kid = parseObject(readBytes(header) ?? emptyChain)?.kid
    const signature = readBytes(signatureText, 64)
    const bytes = readBytes(payload)
    if (hasOthers(line, ['manifest']) || more.length > 0 || bytes === undefined || signature === undefined)
      throw new Wrong('changed', 'the manifest is not of its form')
    const key = typeof kid === 'string' ? this.#header.findKey(kid) : undefined
    if (typeof kid !== 'string' || key === undefined || header !== jwsHeader(kid, exportJwsType))
      throw new Wrong('unsigned', 'the manifest is signed by a key that is not known')
    if (!verifyJws(header, payload, signature, key.publicKey))
      throw new Wrong('unsigned', 'the signature of the manifest is not of these bytes')
    const claims = parseObject(bytes)
    const problem = stateProblem(key, Number(claims?.iat), undefined, 'at once')
    if (problem !== undefined) throw new Wrong('unsigned', `the manifest: ${problem}`)
    const { id, tenant, issuer } = this.#header
    if (claims?.sub !== id || claims.tenant !== tenant || claims.iss !== issuer)
      throw new Wrong('foreign', 'the manifest is that of another export')
    if (claims.lines !== this.#lines - 1 || claims.digest !== Buffer.from(this.#chain).toString('base64url'))
      throw new Wrong('changed', 'a line is not as it was written, although all that it says holds')
    this.#final = Uint8Array.from(written)
    this.#stage = 'over'
  }
}

/** What an unreadable checkpoint comes to. */
const faultOfNote: Partial<Record<NoteError['reason'], ExportFault>> = {
  no_known_signature: 'unsigned',
  invalid_signature: 'unsigned',
  wrong_origin: 'foreign',
}

const signedMembers = ['statement', 'kid', 'signature']

const hasOthers = (line: JsonObject, members: readonly string[]): boolean =>
  Object.keys(line).some((name) => !members.includes(name))

function readLine(bytes: Uint8Array): JsonObject {
  const line = parseObject(bytes)
  if (line === undefined) throw new Wrong('changed', 'a line is not a JSON object')
  return line
}

function parseObject(bytes: Uint8Array): JsonObject | undefined {
  try {
    return readObject(parseJson(bytes))
  } catch (error) {
    if (error instanceof RelayError) return undefined
    throw error
  }
}

const readObject = (value: JsonValue | undefined): JsonObject | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined

const readText = (value: JsonValue | undefined): string | undefined => (typeof value === 'string' ? value : undefined)

const readTexts = (value: JsonValue): string[] | undefined =>
  Array.isArray(value) && value.every((item) => typeof item === 'string') ? value : undefined

const readIndex = (value: JsonValue | undefined): number | undefined =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined

/** Bytes of base64url; of this length, where one is given. */
function readBytes(value: JsonValue | undefined, length?: number): Buffer | undefined {
  const bytes = typeof value === 'string' ? decodeBase64url(value) : undefined
  return length === undefined || bytes?.length === length ? bytes : undefined
}

const isZero = (bytes: Uint8Array): boolean => Buffer.compare(bytes, emptyDigest) === 0

const split = (hashes: Uint8Array = new Uint8Array()): Uint8Array[] =>
  Array.from({ length: hashes.length / hashBytes }, (_, i) => hashes.subarray(i * hashBytes, (i + 1) * hashBytes))

/** What a full tile hashes to. */
function rootOf(hashes: Uint8Array): Uint8Array {
  let row = split(hashes)
  while (row.length > 1) {
    const above: Uint8Array[] = []
    for (let i = 0; i + 1 < row.length; i += 2) above.push(hashNode(row[i] ?? emptyDigest, row[i + 1] ?? emptyDigest))
    row = above
  }
  return row[0] ?? emptyDigest
}
