import type { Id, IdMaker } from '../message/id.ts'
import type { JsonObject } from '../message/json.ts'
import { composeMessage, type Message } from '../message/message.ts'
import type { Clock } from '../ports/clock.ts'
import type { Endpoint } from '../tenant/records.ts'
import type { Audience } from './subscription.ts'

/** What the relay tells a tenant about one of its endpoints. `data` is what a reader needs beside the endpoint. */
export interface Notice {
  readonly type: `endpoint.${string}`
  /** The endpoint that it is about, and which does not get it. */
  readonly endpointId: string
  readonly data?: JsonObject
}

/** States, commits and delivers a message like any other. Told in relay.ts. */
export type Append = (message: Message, audience: Audience) => Promise<unknown>

/**
 * The messages that the relay itself makes: operational webhooks, and tests. They take the way of every message, through
 * the log and the queue, with the source `countersign` in their statement, which no vendor can post to. Their payload is
 * `{type, timestamp, data}`.
 */
export class Notices {
  readonly #append: Append
  readonly #clock: Clock
  readonly #ids: IdMaker

  constructor(parts: { append: Append; clock: Clock; ids: IdMaker }) {
    this.#append = parts.append
    this.#clock = parts.clock
    this.#ids = parts.ids
  }

  /** Sends a notice to the tenant's endpoints whose `events` ask for its type by name, and to no other. Resolves with the
   *  message's id once it is committed; rejects as `Sequencer.append` does. */
  send(tenantId: string, { type, endpointId, data = {} }: Notice): Promise<Id<'msg'>> {
    const audience = { kind: 'subscribers', except: endpointId } as const
    return this.#make(tenantId, 'deployment', type, { endpoint: endpointId, ...data }, audience)
  }

  /** Sends `endpoint.test` to one endpoint, whatever it subscribes to. */
  test(actor: string, { id, tenantId, name }: Endpoint): Promise<Id<'msg'>> {
    const audience = { kind: 'only', endpointId: id } as const
    return this.#make(tenantId, actor, 'endpoint.test', { endpoint: id, name }, audience)
  }

  async #make(tenantId: string, actor: string, type: string, data: JsonObject, audience: Audience): Promise<Id<'msg'>> {
    const now = this.#clock.now()
    const id = this.#ids.make('msg', now)
    const value = { type, timestamp: now.toISOString(), data }
    await this.#append(composeMessage(id, tenantId, actor, value, now), audience)
    return id
  }
}
