import type { FastifyInstance } from 'fastify'
import { parseJson } from '../message/json.ts'
import { receiptMediaType } from '../receipt/receipt.ts'
import type { Relay } from '../relay.ts'
import { readableTenant } from './authenticate.ts'
import { showDelivery } from './deliveries.ts'
import { DeliveryAnswer } from './delivery-schemas.ts'
import { MessageAnswer, pageOf, ReceiptAnswer } from './schemas.ts'

/** Reading back what was accepted. */
export function messageRoutes(app: FastifyInstance, relay: Relay): void {
  type AtMessage = { Params: { message: string } }
  const describe = (summary: string, answer: object, mediaType = 'application/json') => ({
    schema: { summary, tags: ['Messages'], produces: [mediaType], response: { 200: answer } },
  })

  app.get<AtMessage>(
    '/v1/messages/:message',
    describe('Read a message and its payload', MessageAnswer),
    async ({ principal, params }) => {
      const message = await relay.getMessage(readableTenant(principal), params.message)
      const { id, sourceId, leafIndex, acceptedAt } = message
      const facts = { id, source: sourceId, accepted_at: acceptedAt.toISOString(), leaf_index: leafIndex }
      const payload = await relay.payloadOf(message)
      if (message.contentType === null) return { ...facts, payload: parseJson(payload) }
      return {
        ...facts,
        payload_base64: Buffer.from(payload).toString('base64'),
        content_type: message.contentType,
      }
    },
  )

  app.get<AtMessage>(
    '/v1/messages/:message/receipt',
    describe('A fresh receipt, proven in the newest checkpoint', ReceiptAnswer, receiptMediaType),
    async ({ principal, params }, reply) => {
      const message = await relay.getMessage(readableTenant(principal), params.message)
      reply.type(receiptMediaType)
      return JSON.stringify(await relay.receiptOf(message))
    },
  )

  app.get<AtMessage>(
    '/v1/messages/:message/deliveries',
    describe('Its deliveries and their attempts', pageOf(DeliveryAnswer)),
    async ({ principal, params }) => {
      const message = await relay.getMessage(readableTenant(principal), params.message)
      return { data: (await relay.deliveriesOf(message)).map(showDelivery) }
    },
  )
}
