import type { FastifyInstance, FastifyRequest } from 'fastify'
import { parseJson } from '../message/json.ts'
import type { StoredMessage } from '../message/store.ts'
import type { Relay } from '../relay.ts'
import { readableTenant } from './authenticate.ts'
import { DeliveryAnswer, MessageAnswer, pageOf } from './schemas.ts'

/** Reading back what was accepted. */
export function messageRoutes(app: FastifyInstance, relay: Relay): void {
  type AtMessage = { Params: { message: string } }
  const describe = (summary: string, answer: object, mediaType = 'application/json') => ({
    schema: { summary, tags: ['Messages'], produces: [mediaType], response: { 200: answer } },
  })

  async function find({ principal, params, call }: FastifyRequest<AtMessage>): Promise<StoredMessage> {
    const message = await relay.getMessage(readableTenant(principal), params.message)
    if (call !== null) call.tenant = message.tenantId
    return message
  }

  app.get<AtMessage>(
    '/v1/messages/:message',
    describe('Read a message and its payload, as long as that is kept', MessageAnswer),
    async (request) => {
      const message = await find(request)
      const { id, sourceId, leafIndex, acceptedAt } = message
      const facts = { id, source: sourceId, accepted_at: acceptedAt.toISOString(), leaf_index: leafIndex }
      const content = await relay.archive.contentOf(message)
      if (content.state !== 'available') {
        return { ...facts, payload: null, payload_state: content.state, ...erasedLeaf(content) }
      }
      const { payload, state: payload_state } = content
      if (message.contentType === null) return { ...facts, payload: parseJson(payload), payload_state }
      return {
        ...facts,
        payload_base64: Buffer.from(payload).toString('base64'),
        content_type: message.contentType,
        payload_state,
      }
    },
  )

  app.get<AtMessage>(
    '/v1/messages/:message/deliveries',
    describe('Its deliveries and their attempts', pageOf(DeliveryAnswer)),
    async (request) => {
      const message = await find(request)
      const deliveries = await relay.deliveriesOf(message)
      return {
        data: deliveries.map(({ id, endpointId, state, nextAttemptAt, attempts }) => ({
          id,
          endpoint: endpointId,
          state,
          ...(nextAttemptAt !== null && { next_attempt_at: nextAttemptAt.toISOString() }),
          attempts,
        })),
      }
    },
  )
}

/** Where the log says that the content was erased, if it was. */
export const erasedLeaf = (fate: { state: string; leafIndex?: number }) =>
  fate.leafIndex === undefined ? {} : { erased_leaf: fate.leafIndex }
