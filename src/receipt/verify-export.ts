/**
 * Checks an export line by line, in memory that does not grow with it, by the keys of the log alone: no network, no
 * port. export-format.ts has the lines.
 *
 *     header → the checkpoint is the log's → the edge hashes to its root → each tile stands below it → each leaf stands
 *     in its tile, is this tenant's, follows the leaf before → the head counts exactly these → the manifest is signed
 *
 * tests/conformance/verify_export.py is the same in another language; the two must agree on every file.
 */
import { jwsHeader, receiptHeader, verifyJws } from '../keyring/jws.ts'
import { NoteError } from '../log/note.ts'
import { emptyDigest, extendDigest } from '../log/tenant-digest.ts'
import { hashBytes } from '../log/tree.ts'
import { sha256 } from '../message/digest.ts'
import type { JsonObject } from '../message/json.ts'
import { type ExportFault, Wrong } from './export-fault.ts'
import { emptyChain, exportFormat, exportJwsType, extendChain } from './export-format.ts'
import { ExportDamaged } from './export-lines.ts'
import { hasOthers, parseObject, readBytes, readIndex, readObject, readText, readTexts } from './export-members.ts'
import { ExportTiles } from './export-tiles.ts'
import { readKeyHistory } from './key-history.ts'
import { type CheckpointOpener, stateProblem, type TrustedKey } from './verify.ts'

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

type Stage = 'header' | 'leaves' | 'manifest' | 'over'

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
  #tiles!: ExportTiles
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
    else if ('tile' in line) this.#tiles.take(line)
    else if (!this.#tiles.hasEdge) throw this.#tiles.edgeMissing()
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
    this.#stage = 'leaves'
  }

  #openCheckpoint(note: string): void {
    try {
      const checkpoint = this.#trust.openCheckpoint(note)
      this.#origin = checkpoint.origin
      this.#treeSize = checkpoint.treeSize
      this.#tiles = new ExportTiles(checkpoint)
    } catch (error) {
      if (!(error instanceof NoteError)) throw error
      const fault = faultOfNote[error.reason] ?? 'changed'
      throw new Wrong(fault, `the checkpoint is not one of the log trusted: ${error.message}`)
    }
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
    this.#tiles.checkLeaf(index, entry, line.path)

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

const isZero = (bytes: Uint8Array): boolean => Buffer.compare(bytes, emptyDigest) === 0

function readLine(bytes: Uint8Array): JsonObject {
  const line = parseObject(bytes)
  if (line === undefined) throw new Wrong('changed', 'a line is not a JSON object')
  return line
}
