import type { Partitions } from '../log/partitions.ts'
import { payloadExpiry, statementExpiry } from '../log/retention.ts'
import { idTime } from '../message/id.ts'
import type { Message } from '../message/message.ts'
import { idempotencyExpiry, type SealedMessage } from '../message/store.ts'
import type { Directory } from './directory.ts'

/** When what is being written for a tenant expires, as the tenant chose, with a place for it in the months of then. */
export class Expiry {
  readonly #directory: Directory
  readonly #partitions: Partitions

  constructor(directory: Directory, partitions: Partitions) {
    this.#directory = directory
    this.#partitions = partitions
  }

  /** Of a message that is being accepted, and of what will become of its deliveries. Counted from its id, by which it is
   *  looked for (message/store.ts). */
  async ofMessage({
    id,
    tenantId,
    idempotencyHash,
    acceptedAt,
  }: Message): Promise<Omit<SealedMessage, 'message' | 'sealed'>> {
    const retention = await this.#directory.retentionOf(tenantId)
    const madeAt = idTime(id)
    const payloadExpiresAt = payloadExpiry(madeAt, retention)
    const expiresAt = statementExpiry(madeAt, retention)
    const places = [
      this.#partitions.ready('payloads', payloadExpiresAt),
      this.#partitions.ready('messages', expiresAt),
      this.#partitions.ready('settled_deliveries', expiresAt),
      idempotencyHash === null ? undefined : this.#partitions.ready('idempotency_keys', idempotencyExpiry(acceptedAt)),
    ]
    for (const place of places) if (place !== undefined) await place
    return { payloadExpiresAt, expiresAt }
  }

  /** Of what a receiver answered at `at`: it is kept as long as a payload of then. */
  async ofAnswer(tenantId: string, at: Date): Promise<Date> {
    const expiresAt = payloadExpiry(at, await this.#directory.retentionOf(tenantId))
    await this.#partitions.ready('answers', expiresAt)
    return expiresAt
  }
}
