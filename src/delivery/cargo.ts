import type { DataKeys } from '../keyring/data-keys.ts'
import { receiptHeader } from '../keyring/jws.ts'
import { readStatement } from '../log/reader.ts'
import type { SignedStatement } from '../log/statement.ts'
import { sha256 } from '../message/digest.ts'
import type { Message } from '../message/message.ts'
import { findMessage, payloadContext } from '../message/store.ts'
import type { Database } from '../ports/database.ts'
import { compactReceipt } from '../receipt/receipt.ts'
import type { ClaimedDelivery, Freight } from './delivery.ts'

export const freightOf = ({ payload, contentType, sha256 }: Message, receipt: string): Freight => ({
  payload,
  contentType: contentType ?? canonicalType,
  sha256,
  receipt,
})

/** What a claim from the database is to send. */
export async function loadFreight(
  { database, dataKeys }: { database: Database; dataKeys: DataKeys },
  { tenantId, messageId }: ClaimedDelivery,
): Promise<Freight> {
  const message = await findMessage(database, messageId)
  if (message === undefined) throw new Error(`message ${messageId} is owed but does not exist`)
  if (message.payload === null) throw new Error(`the payload of ${messageId} expired while it was owed`)
  const dataKey = await dataKeys.get(database, tenantId)
  const payload = dataKey.open(message.payload, payloadContext(tenantId, messageId))
  const { statement, kid, signature } = await readStatement(database, dataKeys, message.leafIndex)
  if (kid === null || signature === null) throw new Error(`the statement of ${messageId} is not signed`)
  const contentType = message.contentType ?? canonicalType
  return { payload, contentType, sha256: sha256(payload), receipt: compact({ statement, kid, signature }) }
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
