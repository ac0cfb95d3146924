import type { DataKeys } from '../keyring/data-keys.ts'
import { receiptHeader } from '../keyring/jws.ts'
import { openStatement } from '../log/reader.ts'
import type { SignedStatement } from '../log/statement.ts'
import { sha256 } from '../message/digest.ts'
import { type Id, idTime } from '../message/id.ts'
import type { Message } from '../message/message.ts'
import { payloadContext } from '../message/store.ts'
import { type Database, textArray, timestamptzArray } from '../ports/database.ts'
import { compactReceipt } from '../receipt/receipt.ts'
import type { Cargo, ClaimedDelivery } from './delivery.ts'

/** What is sent of a message, whoever gets it. */
export type Freight = Omit<Cargo, 'endpoint'>

export const freightOf = ({ payload, contentType, sha256 }: Message, signed: SignedStatement): Freight => ({
  ...{ payload, contentType: contentType ?? canonicalType, sha256 },
  receipt: compact(signed),
})

const selectFreight = `
  select m.id as "messageId", m.content_type as "contentType", p.sealed as payload,
         s.tenant_id as "statementOf", s.sealed as statement, s.kid, s.signature
    from unnest($1::text[], $2::timestamptz[]) as owed (id, made_at)
    join messages m on m.id = owed.id and m.expires_at >= owed.made_at + interval '8760 hours'
    left join lateral (select sealed from payloads
                        where leaf_index = m.leaf_index and expires_at >= owed.made_at + interval '720 hours'
                        limit 1) p on true
    left join lateral (select tenant_id, sealed, kid, signature from statements
                        where leaf_index = m.leaf_index
                        limit 1) s on true`

interface FreightRow {
  readonly messageId: string
  readonly contentType: string | null
  /** Null where it has expired, as the statement's columns are. */
  readonly payload: Uint8Array | null
  /** Whose data key sealed the statement; null for the deployment's own. */
  readonly statementOf: string | null
  readonly statement: Uint8Array | null
  readonly kid: string | null
  readonly signature: Uint8Array | null
}

/** Asked for at once. A payload may have a mebibyte, and a result is held twice while it is read. */
const mostLoaded = 16

interface Asked {
  readonly tenantId: string
  readonly messageId: string
  readonly resolve: (freight: Freight) => void
  readonly reject: (error: unknown) => void
}

/** Loads what claims from the database are to send. What is asked for in one turn of the event loop shares queries, so that a
 *  relay that is behind does not fall further behind by looking up each message alone. */
export class FreightLoader {
  readonly #parts: { readonly database: Database; readonly dataKeys: DataKeys }
  #asked: Asked[] = []

  constructor(parts: { database: Database; dataKeys: DataKeys }) {
    this.#parts = parts
  }

  load({ tenantId, messageId }: ClaimedDelivery): Promise<Freight> {
    if (this.#asked.length === 0) setImmediate(() => this.#loadAsked())
    return new Promise((resolve, reject) => this.#asked.push({ tenantId, messageId, resolve, reject }))
  }

  #loadAsked(): void {
    const asked = this.#asked
    this.#asked = []
    while (asked.length > 0) void this.#loadPage(asked.splice(0, mostLoaded))
  }

  async #loadPage(page: readonly Asked[]): Promise<void> {
    try {
      const rows = await this.#parts.database.query<FreightRow>(selectFreight, [
        textArray(page.map(({ messageId }) => messageId)),
        timestamptzArray(page.map(({ messageId }) => idTime(messageId as Id<'msg'>))),
      ])
      const found = new Map(rows.map((row) => [row.messageId, row]))
      for (const { tenantId, messageId, resolve, reject } of page) {
        this.#open(tenantId, messageId, found.get(messageId)).then(resolve, reject)
      }
    } catch (error) {
      for (const { reject } of page) reject(error)
    }
  }

  async #open(tenantId: string, messageId: string, row: FreightRow | undefined): Promise<Freight> {
    if (row === undefined) throw new Error(`message ${messageId} is owed but does not exist`)
    if (row.payload === null) throw new Error(`the payload of ${messageId} expired while it was owed`)
    const { statementOf, statement: sealed, kid, signature } = row
    if (sealed === null) throw new Error(`there is no statement of ${messageId}`)
    if (kid === null || signature === null) throw new Error(`the statement of ${messageId} is not signed`)
    const { database, dataKeys } = this.#parts
    const payload = (await dataKeys.get(database, tenantId)).open(row.payload, payloadContext(tenantId, messageId))
    const statement = await openStatement(database, dataKeys, { tenantId: statementOf, sealed })
    const contentType = row.contentType ?? canonicalType
    return { payload, contentType, sha256: sha256(payload), receipt: compact({ statement, kid, signature }) }
  }
}

/** Of a payload that is canonical JSON, which messages need not say. */
const canonicalType = 'application/json'

const compact = ({
  statement,
  kid,
  signature,
}: Pick<SignedStatement, 'kid' | 'signature'> & { statement: Uint8Array }) =>
  compactReceipt({
    protected: receiptHeader(kid),
    payload: Buffer.from(statement).toString('base64url'),
    signature: Buffer.from(signature).toString('base64url'),
  })
