import type { FastifyInstance, FastifyRequest } from 'fastify'
import { RelayError } from '../errors.ts'
import { parseJson } from '../message/json.ts'
import type { StoredMessage } from '../message/store.ts'
import { aboutOf, receiptMediaType } from '../receipt/receipt.ts'
import type { Relay } from '../relay.ts'
import { readableTenant } from './authenticate.ts'
import { requestOf } from './calls.ts'
import { DeliveryAnswer, MessageAnswer, pageOf, ReceiptAnswer } from './schemas.ts'

/** Where vendors post. `app` has authenticated; the body is the bytes as received. */
export function ingestRoutes(app: FastifyInstance, relay: Relay): void {
  app.post<{ Params: { source: string } }>(
    '/v1/sources/:source/messages',
    {
      schema: {
        summary: 'Post a payload, get a receipt',
        tags: ['Messages'],
        headers: {
          type: 'object',
          properties: { 'idempotency-key': { type: 'string', description: '1 to 255 visible ASCII characters.' } },
        },
        body: { description: 'The payload: a JSON object or array.', type: ['object', 'array'] },
        produces: [receiptMediaType],
        response: { 202: ReceiptAnswer },
      },
      // The strict parser judges the bytes. Nothing else looks at them first.
      validatorCompiler: () => () => true,
    },
    async (request, reply) => {
      const { principal, params, headers, body, call } = request
      const source = await relay.directory.findSource(params.source)
      // Another tenant's source and one that never was answer alike.
      if (source === undefined || (principal.role !== 'admin' && principal.tenantId !== source.tenantId)) {
        throw new RelayError('not_found')
      }
      if (principal.role !== 'ingest' || principal.sourceId !== source.id) {
        throw new RelayError('forbidden', { detail: 'Posting takes an ingest key of this source.' })
      }
      const { receipt, repeated } = await relay.accept({
        tenantId: source.tenantId,
        sourceId: source.id,
        actor: principal.actor,
        request: requestOf(request),
        raw: body instanceof Uint8Array ? body : new Uint8Array(0),
        idempotencyKey: single(headers['idempotency-key']),
      })
      if (repeated) reply.header('idempotency-replayed', 'true')
      if (call !== null && repeated) call.facts.message = aboutOf(receipt)
      else if (call !== null) call.stated = true
      reply.code(202).type(receiptMediaType)
      return JSON.stringify(receipt)
    },
  )
}

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
    describe('Read a message and its canonical payload', MessageAnswer),
    async (request) => {
      const message = await find(request)
      const { id, sourceId, leafIndex, acceptedAt } = message
      const facts = { id, source: sourceId, accepted_at: acceptedAt.toISOString(), leaf_index: leafIndex }
      return { ...facts, payload: parseJson(await relay.payloadOf(message)) }
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

/** A header given twice is joined by a comma, which is visible ASCII: so it is another key, and that is fine. */
const single = (header: string | string[] | undefined): string | undefined =>
  Array.isArray(header) ? header.join(', ') : header
