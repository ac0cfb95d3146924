import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { RelayError } from '../errors.ts'
import { parseDecimal } from '../log/checkpoint.ts'
import type { StatementRow } from '../log/store.ts'
import { coseMediaType } from '../receipt/cose.ts'
import { receiptMediaType } from '../receipt/receipt.ts'
import type { Relay } from '../relay.ts'
import { preferred } from './accept.ts'
import { readableTenant } from './authenticate.ts'
import { Octets, ReceiptAnswer } from './schemas.ts'

/** Receipts of what is in the log, fresh: proven in the newest checkpoint. `app` has authenticated. */
export function receiptRoutes(app: FastifyInstance, relay: Relay): void {
  app.get<{ Params: { message: string } }>(
    '/v1/messages/:message/receipt',
    describe('A fresh receipt, proven in the newest checkpoint'),
    async (request, reply) => {
      const { principal, params } = request
      const { tenantId, leafIndex } = await relay.getMessage(readableTenant(principal), params.message)
      return answer(request, reply, await relay.receipts.find(tenantId, leafIndex))
    },
  )

  app.get<{ Params: { index: string } }>(
    '/v1/statements/:index/receipt',
    describe('The receipt of any statement: an attempt, a key, an administrative act'),
    async (request, reply) => {
      const { principal, params } = request
      const tenantId = readableTenant(principal)
      const leafIndex = parseDecimal(params.index)
      if (leafIndex === undefined) throw new RelayError('not_found')
      return answer(request, reply, await relay.receipts.find(tenantId, leafIndex))
    },
  )

  async function answer(request: FastifyRequest, reply: FastifyReply, row: StatementRow) {
    if (request.call !== null && row.tenantId !== null) request.call.tenant = row.tenantId
    const mediaType = preferred(request, reply, [receiptMediaType, coseMediaType])
    reply.type(mediaType)
    if (mediaType === receiptMediaType) return JSON.stringify(await relay.receipts.issue(row))
    return Buffer.from(await relay.receipts.issueCose(row))
  }
}

const describe = (summary: string) => ({
  schema: {
    summary,
    tags: ['Audit'],
    response: {
      200: {
        description: 'As the Accept header prefers.',
        content: { [receiptMediaType]: { schema: ReceiptAnswer }, [coseMediaType]: { schema: Octets } },
      },
    },
  },
})
