import { RelayError } from '../errors.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import { parseCheckpoint, parseDecimal } from './checkpoint.ts'
import { NoteError, noteText, openNote, parseVerifierKey, signatureLine, type VerifierKey } from './note.ts'
import { proveGrowth } from './reader.ts'
import { findHead, findPublished, type PublishedRow, recordPublished } from './store.ts'
import type { TileCache } from './tile-cache.ts'
import { formatRequest } from './witness.ts'

/** A witness as the deployment names it. */
export interface WitnessAddress {
  readonly key: VerifierKey
  /** What comes before `/add-checkpoint`. */
  readonly url: string
}

/** Posts `body` and resolves to the answer, whatever it is. Bounded in time and in bytes read; never rejects. */
export type PostToWitness = (url: string, body: Uint8Array) => Promise<WitnessReply>
export type WitnessReply =
  | { readonly kind: 'answered'; readonly status: number; readonly body: Uint8Array }
  | { readonly kind: 'unreachable'; readonly reason: string }

/** What may be published of a checkpoint. */
export interface Cosigned {
  /** With the cosignatures there are; undefined if they are fewer than the quorum. */
  readonly note: string | undefined
  /** False if asking again may yield more. */
  readonly settled: boolean
}

/**
 * The witnesses of this deployment, as the relay asks them (c2sp.org/tlog-witness@v1.0.0). It asks in the background and
 * for published checkpoints only: a post never waits for a witness, and a cosignature is no statement, since a statement
 * would be a new leaf to be cosigned, and so on without end.
 */
export class Witnesses {
  readonly #asked: readonly AskedWitness[]
  readonly #quorum: number
  readonly #database: Database
  readonly #logger: Logger
  /** The note recorded last: while a witness is out of reach, the same one comes up again and again. */
  #recorded: string | undefined

  constructor(parts: {
    witnesses: readonly WitnessAddress[]
    /** How many must cosign a checkpoint before it is published; 0 publishes anyway. */
    quorum: number
    database: Database
    tiles: TileCache
    post: PostToWitness
    clock: Clock
    logger: Logger
  }) {
    this.#asked = parts.witnesses.map((address) => new AskedWitness(address, parts))
    this.#quorum = parts.quorum
    this.#database = parts.database
    this.#logger = parts.logger
  }

  /**
   * Asks every witness that has not cosigned this checkpoint of ours yet, all at the same time, and records what may be
   * published. Never rejects: what fails is asked again, later and later.
   */
  readonly cosign = async (checkpoint: string): Promise<Cosigned> => {
    if (this.#asked.length === 0) return { note: checkpoint, settled: true }
    const { treeSize, rootHash } = parseCheckpoint(noteText(checkpoint))
    const settled = await Promise.all(this.#asked.map((witness) => witness.ask(checkpoint, treeSize)))
    const lines = this.#asked.flatMap((witness) => witness.lineFor(checkpoint) ?? [])
    if (lines.length < this.#quorum) return { note: undefined, settled: settled.every(Boolean) }
    const note = checkpoint + lines.join('')
    try {
      if (note !== this.#recorded) {
        await recordPublished(this.#database, { treeSize, rootHash, cosignatures: lines.length, note })
      }
      this.#recorded = note
    } catch (error) {
      this.#logger.warn({ err: error }, 'checkpoint.record failed, will try again')
      return { note: undefined, settled: false }
    }
    return { note, settled: settled.every(Boolean) }
  }

  /** The newest checkpoint published; undefined where there are no witnesses, and then any may be shown. Rejects with
   *  `not_found` before enough of them have cosigned one. */
  async published(): Promise<PublishedRow | undefined> {
    if (this.#asked.length === 0) return undefined
    const row = await findPublished(this.#database, 0, this.#quorum)
    if (row === undefined && this.#quorum > 0) {
      throw new RelayError('not_found', { detail: 'No checkpoint has been cosigned by enough witnesses yet.' })
    }
    return row
  }

  /** The newest cosigned checkpoint whose tree holds this leaf, if there is one. */
  async covering(leafIndex: number): Promise<PublishedRow | undefined> {
    if (this.#asked.length === 0) return undefined
    return findPublished(this.#database, leafIndex + 1, Math.max(1, this.#quorum))
  }
}

/** What came of asking. Only the first yields a cosignature. */
type WitnessOutcome =
  | { readonly kind: 'cosigned'; readonly line: string }
  /** It has cosigned a larger tree already: another process was there first, or our database was rolled back. */
  | { readonly kind: 'ahead'; readonly treeSize: number }
  /** It keeps naming another size than the proof we made for it starts at: somebody else is asking, too. */
  | { readonly kind: 'busy' }
  | { readonly kind: 'unreachable'; readonly reason: string }
  | { readonly kind: 'refused'; readonly reason: RefusedReason; readonly status: number }

type RefusedReason =
  | 'unknown_log' // 404: it does not know our origin
  | 'untrusted_key' // 403: it knows our origin by other keys
  | 'inconsistent' // 422: what it saw before is not a prefix of our log
  | 'rolled_back' // 409: it saw more leaves than our database holds
  | 'invalid_answer' // 200 or 409, and then something else than the specification says
  | 'other_status'

const refusedReasons: Record<number, RefusedReason> = { 403: 'untrusted_key', 404: 'unknown_log', 422: 'inconsistent' }

const alarming = new Set<string>(['inconsistent', 'rolled_back'])

/** A witness that fails is asked again after 1 s, 2 s, 4 s and so on, at most this. */
const longestPauseMs = 60_000

/** One witness, what we know of it, and when it may be asked again. */
class AskedWitness {
  readonly #address: WitnessAddress
  readonly #database: Database
  readonly #tiles: TileCache
  readonly #post: PostToWitness
  readonly #clock: Clock
  readonly #logger: Logger
  /** The size of what it cosigned last, as far as we know; 0 at first, and then it tells us. */
  #treeSize = 0
  #cosigned: { readonly checkpoint: string; readonly line: string } | undefined
  #failures = 0
  #notBefore = 0

  constructor(
    address: WitnessAddress,
    parts: { database: Database; tiles: TileCache; post: PostToWitness; clock: Clock; logger: Logger },
  ) {
    this.#address = address
    this.#database = parts.database
    this.#tiles = parts.tiles
    this.#post = parts.post
    this.#clock = parts.clock
    this.#logger = parts.logger
  }

  /** Its signature line under this very checkpoint, if it gave one. */
  lineFor(checkpoint: string): string | undefined {
    return this.#cosigned?.checkpoint === checkpoint ? this.#cosigned.line : undefined
  }

  /** Asks for a cosignature, unless it is there or the witness is left alone for now. False if it is worth asking again. */
  async ask(checkpoint: string, treeSize: number): Promise<boolean> {
    if (this.lineFor(checkpoint) !== undefined) return true
    if (this.#clock.now().getTime() < this.#notBefore) return false
    const outcome = await this.#request(checkpoint, treeSize).catch((error: unknown) => {
      this.#logger.warn({ err: error }, 'witness.ask failed') // the database is out of reach: nothing about the witness
      return { kind: 'busy' } as const
    })
    switch (outcome.kind) {
      case 'cosigned':
        this.#recover()
        this.#cosigned = { checkpoint, line: outcome.line }
        return true
      case 'ahead':
        return this.#isOvertaken(outcome.treeSize)
      case 'busy':
        return false
      case 'unreachable':
      case 'refused':
        this.#fail(outcome)
        return false
    }
  }

  /** At most two requests: where the witness turns out to be elsewhere, once more from there. */
  async #request(checkpoint: string, treeSize: number): Promise<WitnessOutcome> {
    for (const last of [false, true]) {
      const oldSize = this.#treeSize
      if (oldSize > treeSize) return { kind: 'ahead', treeSize: oldSize }
      const proof = await proveGrowth(this.#database, this.#tiles, oldSize, treeSize)
      const reply = await this.#post(
        `${this.#address.url}/add-checkpoint`,
        formatRequest({ oldSize, proof, checkpoint }),
      )
      if (reply.kind === 'unreachable') return reply
      const { status, body } = reply
      if (status === 200) {
        const line = readCosignature(checkpoint, body, this.#address.key)
        if (line === undefined) return { kind: 'refused', reason: 'invalid_answer', status }
        this.#treeSize = treeSize
        return { kind: 'cosigned', line }
      }
      if (status !== 409) return { kind: 'refused', reason: refusedReasons[status] ?? 'other_status', status }
      const known = readSize(body)
      // Some witnesses answer 409 where roots differ at the same size, too.
      if (known === undefined || known === oldSize) return { kind: 'refused', reason: 'invalid_answer', status }
      this.#treeSize = known
      if (last && known <= treeSize) return { kind: 'busy' }
    }
    return { kind: 'ahead', treeSize: this.#treeSize }
  }

  /** True if the log has got there, too: then a newer checkpoint than this one is on its way. If not, leaves that the
   *  witness says it saw are gone, or it lies. */
  async #isOvertaken(witnessedSize: number): Promise<boolean> {
    const head = await findHead(this.#database).catch(() => undefined)
    if (head === undefined) return false
    if (head.treeSize >= witnessedSize) {
      this.#recover()
      return true
    }
    this.#fail({ kind: 'refused', reason: 'rolled_back', status: 409 }, { witnessedSize, treeSize: head.treeSize })
    this.#treeSize = 0 // to be told again
    return false
  }

  #fail(outcome: Extract<WitnessOutcome, { kind: 'unreachable' | 'refused' }>, facts: object = {}): void {
    this.#notBefore = this.#clock.now().getTime() + Math.min(1000 * 2 ** this.#failures, longestPauseMs)
    this.#failures += 1
    const about = { witness: this.#address.key.name, ...outcome, ...facts }
    // An outage is said once, however long it lasts. That the log is not the one witnessed is said each time.
    if (alarming.has(outcome.reason)) this.#logger.error(about, 'log.contradicted by a witness')
    else if (this.#failures === 1) this.#logger.warn(about, 'witness.failed; asking again later')
  }

  #recover(): void {
    if (this.#failures > 0) this.#logger.info({ witness: this.#address.key.name }, 'witness.recovered')
    this.#failures = 0
  }
}

/** The signature line of `key` in the answer to a request about `checkpoint`; lines of others are ignored. */
function readCosignature(checkpoint: string, answer: Uint8Array, key: VerifierKey): string | undefined {
  try {
    const { text, verified } = openNote(checkpoint + Buffer.from(answer).toString(), [key])
    // An answer with an empty line in it would end the text later, and sign something else than we asked for.
    return text === noteText(checkpoint) ? signatureLine(verified[0]) : undefined
  } catch (error) {
    if (error instanceof NoteError) return undefined
    throw error
  }
}

/** The body of a 409: a decimal number and a newline. */
function readSize(body: Uint8Array): number | undefined {
  const [size = '', ...rest] = Buffer.from(body.subarray(0, 32)).toString('latin1').split('\n')
  return rest.join('') === '' ? parseDecimal(size) : undefined
}

/** Witnesses as a deployment lists them: `<vkey> <url>`, one a line or separated by commas. RangeError with a sentence
 *  for what is no such list. */
export function parseWitnesses(text: string): WitnessAddress[] {
  const items = text.split(/[,\n]/).map((item) => item.trim())
  const parts = items.filter(Boolean).map((item) => item.split(/\s+/))
  const keys = parseCosignerKeys(parts.map(([vkey = '']) => vkey))
  return keys.map((key, i) => ({ key, url: parsePrefix(parts[i] ?? []) }))
}

function parsePrefix([vkey, url = '', ...rest]: readonly string[]): string {
  const parsed = URL.parse(url)
  if (parsed === null || !/^https?:$/.test(parsed.protocol) || parsed.search || parsed.hash || rest.length > 0) {
    throw new RangeError(`${JSON.stringify(vkey)} is not followed by one http or https URL`)
  }
  return parsed.href.replace(/\/+$/, '')
}

/** The keys of witnesses, from their vkeys. RangeError for another kind of key, and for one that is there twice, under
 *  whatever name: it would count twice. */
export function parseCosignerKeys(vkeys: readonly string[]): VerifierKey[] {
  const keys = vkeys.map(parseCosignerKey)
  for (const [i, { name, publicKey }] of keys.entries()) {
    const twin = keys.slice(0, i).find((other) => other.publicKey.equals(publicKey))
    if (twin) throw new RangeError(`the witnesses ${twin.name} and ${name} have the same key`)
  }
  return keys
}

function parseCosignerKey(vkey: string): VerifierKey {
  try {
    const key = parseVerifierKey(vkey)
    if (key.type === 'cosignature') return key
  } catch (error) {
    if (!(error instanceof NoteError)) throw error
  }
  throw new RangeError(`${JSON.stringify(vkey)} is not the vkey of a witness (type 0x04)`)
}
