import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import { leastRetention, payloadExpiry, statementExpiry } from '../log/retention.ts'
import { idTime, isId } from '../message/id.ts'
import { findMessage, payloadContext, type StoredMessage } from '../message/store.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Directory } from './directory.ts'

/** What is left of a message's payload. */
export type Content =
  | { readonly state: 'available'; readonly payload: Uint8Array }
  | { readonly state: 'expired' }
  /** The leaf that says that its tenant was erased. */
  | { readonly state: 'erased'; readonly leafIndex: number }

/** What was accepted, as it can be read later: payloads expire first, then the messages, and a tenant can be erased. */
export class Archive {
  readonly #database: Database
  readonly #dataKeys: DataKeys
  readonly #directory: Directory
  readonly #clock: Clock

  constructor(parts: { database: Database; dataKeys: DataKeys; directory: Directory; clock: Clock }) {
    this.#database = parts.database
    this.#dataKeys = parts.dataKeys
    this.#directory = parts.directory
    this.#clock = parts.clock
  }

  /** A message of this tenant, or `not_found`; null asks as the deployment's administrator. An id as old as what is
   *  dropped gets `statement_expired`, whether there ever was such a message or not: by then nobody knows. */
  async get(tenantId: string | null, id: string): Promise<StoredMessage> {
    const now = this.#clock.now()
    const message = await findMessage(this.#database, id)
    const theirs = message !== undefined && (tenantId === null || message.tenantId === tenantId)
    if (theirs && message.expiresAt > now) return message
    const old = isId('msg', id) && statementExpiry(idTime(id), leastRetention) <= now
    throw new RelayError(old ? 'statement_expired' : 'not_found')
  }

  async contentOf(message: StoredMessage): Promise<Content> {
    const erasure = await this.#erasureOf(message.tenantId)
    if (erasure !== undefined) return erasure
    const { tenantId, id, payload, payloadExpiresAt } = message
    if (payload === null || payloadExpiresAt === null || payloadExpiresAt <= this.#clock.now()) {
      return { state: 'expired' }
    }
    const dataKey = await this.#dataKeys.get(this.#database, tenantId)
    return { state: 'available', payload: dataKey.open(payload, payloadContext(tenantId, id)) }
  }

  /** The same for whoever holds a receipt, and no more than that: what became of the content it is about. */
  async fateOf(
    tenantId: string,
    id: string,
  ): Promise<Exclude<Content, { state: 'available' }> | { state: 'available' }> {
    const erasure = await this.#erasureOf(tenantId)
    if (erasure !== undefined) return erasure
    const now = this.#clock.now()
    // What is as young as that, nobody keeps for less: no need to look.
    if (isId('msg', id) && payloadExpiry(idTime(id), leastRetention) > now) return { state: 'available' }
    const message = await findMessage(this.#database, id)
    const until = message?.payload == null ? null : message.payloadExpiresAt
    return { state: until !== null && until > now ? 'available' : 'expired' }
  }

  async #erasureOf(tenantId: string): Promise<{ state: 'erased'; leafIndex: number } | undefined> {
    const tenant = await this.#directory.findTenant(tenantId)
    return tenant?.erasure ? { state: 'erased', leafIndex: tenant.erasure.leafIndex } : undefined
  }
}
