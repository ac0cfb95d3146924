import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import type { Keyring } from '../keyring/keyring.ts'
import { openStatement, proveAt, proveNow } from '../log/reader.ts'
import { type Statement, signStatement } from '../log/statement.ts'
import { findHead, findStatement, type StatementRow } from '../log/store.ts'
import type { TileCache } from '../log/tile-cache.ts'
import type { Witnesses } from '../log/witnesses.ts'
import { parseJson } from '../message/json.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import { issueCoseReceipt } from './cose.ts'
import { draftReceipt, type IssueReceipt } from './issue.ts'
import type { Receipt } from './receipt.ts'

/** Issues the receipt of any statement in the log. */
export class Receipts {
  readonly #database: Database
  readonly #dataKeys: DataKeys
  readonly #keyring: Keyring
  readonly #tiles: TileCache
  readonly #witnesses: Witnesses
  readonly #issueReceipt: IssueReceipt
  readonly #issuer: string
  readonly #clock: Clock

  constructor(parts: {
    database: Database
    dataKeys: DataKeys
    keyring: Keyring
    tiles: TileCache
    witnesses: Witnesses
    issueReceipt: IssueReceipt
    issuer: string
    clock: Clock
  }) {
    this.#database = parts.database
    this.#dataKeys = parts.dataKeys
    this.#keyring = parts.keyring
    this.#tiles = parts.tiles
    this.#witnesses = parts.witnesses
    this.#issueReceipt = parts.issueReceipt
    this.#issuer = parts.issuer
    this.#clock = parts.clock
  }

  /** The row of a statement that this tenant may see, or `not_found`; null sees all. One that is not kept any more is
   *  `statement_expired`, whoever asks: by then nobody knows whose it was. */
  async find(tenantId: string | null, leafIndex: number): Promise<StatementRow> {
    const row = await findStatement(this.#database, leafIndex)
    if (row === undefined || row.expiresAt <= this.#clock.now()) {
      const head = await findHead(this.#database)
      throw new RelayError(leafIndex < (head?.treeSize ?? 0) ? 'statement_expired' : 'not_found')
    }
    if (tenantId !== null && row.tenantId !== tenantId) throw new RelayError('not_found')
    return row
  }

  /** Signed when it was made, or else now, by the key that is active now: nobody needed the signature before. */
  async issue(row: StatementRow): Promise<Receipt> {
    const { leafIndex, kid, signature } = row
    const statement = await this.#open(row)
    const signed =
      kid === null || signature === null ? await signStatement(this.#keyring, statement) : { statement, kid, signature }
    const about = subjectOf(statement)
    const named = row.kind === 'message.accepted' ? { message: about } : { subject: about }
    const place = await this.#placeOf(leafIndex)
    return this.#issueReceipt(draftReceipt(named, signed, this.#keyring, 'verify'), place)
  }

  /** The same proof as RFC 9942 has it, signed by the log key. What it is about is the row's entry. */
  async issueCose(row: StatementRow): Promise<Uint8Array> {
    const { leafIndex, entry } = row
    const subject = subjectOf(await this.#open(row))
    const { treeSize, proof } = await this.#placeOf(leafIndex)
    const key = this.#keyring.signer('log')
    const publicKey = this.#keyring.find(key.kid)?.publicKey
    if (publicKey === undefined) throw new Error(`the keyring signs with ${key.kid} and does not know it`)
    return issueCoseReceipt(entry, { treeSize, leafIndex, proof, issuer: this.#issuer, subject }, key, publicKey)
  }

  /** A leaf's proof, in the newest checkpoint that witnesses cosigned if it is as old as that, else in the newest. */
  async #placeOf(leafIndex: number) {
    const cosigned = await this.#witnesses.covering(leafIndex)
    if (cosigned === undefined) {
      const { head, proof } = await proveNow(this.#database, this.#tiles, leafIndex)
      return { leafIndex, treeSize: head.treeSize, proof, checkpoint: head.checkpoint }
    }
    const { treeSize, note: checkpoint } = cosigned
    return { leafIndex, treeSize, proof: await proveAt(this.#database, this.#tiles, leafIndex, treeSize), checkpoint }
  }

  async #open(row: StatementRow): Promise<Statement> {
    return (await openStatement(this.#database, this.#dataKeys, row)) as Statement
  }
}

/** What a statement is about. The bytes are ours, and were written by `state()`. */
function subjectOf(statement: Uint8Array): string {
  const { sub } = parseJson(statement) as { sub?: unknown }
  if (typeof sub !== 'string') throw new Error('a statement names no subject')
  return sub
}
