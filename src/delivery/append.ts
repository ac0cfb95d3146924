import type { DataKeys } from '../keyring/data-keys.ts'
import type { Keyring } from '../keyring/keyring.ts'
import type { Sequencer } from '../log/sequencer.ts'
import { type AuditEvent, signStatement, state } from '../log/statement.ts'
import type { Message } from '../message/message.ts'
import { payloadContext, storeMessages } from '../message/store.ts'
import type { Database } from '../ports/database.ts'
import { bind } from '../ports/effect.ts'
import { draftReceipt } from '../receipt/issue.ts'
import type { Expiry } from '../tenant/expiry.ts'
import type { Audience } from './subscription.ts'
import type { DeliveryWorker } from './worker.ts'

/** What a message is appended with. */
interface Appending {
  readonly issuer: string
  readonly database: Database
  readonly keyring: Keyring
  readonly dataKeys: DataKeys
  readonly expiry: Expiry
  readonly sequencer: Sequencer
  readonly worker: DeliveryWorker
}

/** The middle of the story, for a vendor's message and for one of our own: stated, signed, sealed, and committed with what
 *  it is owed to. */
export function appending({ issuer, database, keyring, dataKeys, expiry, sequencer, worker }: Appending) {
  return async function append(message: Message, audience: Audience) {
    const stated = state(issuer, acceptanceOf(message), message.acceptedAt)
    const signed = await signStatement(keyring, stated.statement)
    const draft = draftReceipt({ message: message.id }, signed, keyring, 'confirm')
    const dataKey = await dataKeys.get(database, message.tenantId)
    const sealed = dataKey.seal(message.payload, payloadContext(message.tenantId, message.id))
    const kept = { message, sealed, ...(await expiry.ofMessage(message)) }
    const place = await sequencer.append({
      stated,
      signed,
      effects: [bind(storeMessages, kept), bind(worker.owe, { message, expiresAt: kept.expiresAt, signed, audience })],
    })
    return { draft, place }
  }
}

const acceptanceOf = (message: Message): AuditEvent => ({
  kind: 'message.accepted',
  sub: message.id,
  tenant: message.tenantId,
  source: message.sourceId,
  actor: message.actor,
  ...(message.request && { request: message.request }),
  ...(message.authentication !== undefined && { authentication: message.authentication }),
  payload: {
    bytes: message.payload.length,
    sha256: Buffer.from(message.sha256).toString('base64url'),
    received_sha256: message.receivedSha256,
    ...(message.contentType !== null && { canonicalization: 'none', content_type: message.contentType }),
  },
})

export type AppendMessage = ReturnType<typeof appending>
