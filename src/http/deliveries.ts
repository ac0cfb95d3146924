import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import type { AnsweredAttempt } from '../delivery/deliveries.ts'
import type { AttemptRecord } from '../delivery/delivery.ts'
import type { DeliveryRow } from '../delivery/store.ts'
import { RelayError } from '../errors.ts'
import type { Relay } from '../relay.ts'
import { type Principal, permitTenant, readableTenant } from './authenticate.ts'
import { DeliveryAnswer, DeliveryQuery } from './delivery-schemas.ts'
import { page } from './page.ts'
import { pageOf } from './schemas.ts'

/** What became of deliveries. `app` has authenticated. */
export function deliveryRoutes(app: FastifyInstance, { deliveries }: Relay): void {
  app.get<{ Querystring: Static<typeof DeliveryQuery> }>(
    '/v1/deliveries',
    describe('List deliveries by state', { querystring: DeliveryQuery, response: { 200: pageOf(DeliveryAnswer) } }),
    async ({ principal, query, call }) => {
      const { state, endpoint: endpointId = null } = query
      const tenantId = askedTenant(principal, query.tenant)
      if (call !== null) call.tenant = tenantId
      return page(query, (after, limit) => deliveries.list({ tenantId, endpointId, state, after, limit }), showDelivery)
    },
  )

  app.get<{ Params: { delivery: string } }>(
    '/v1/deliveries/:delivery',
    describe('Read a delivery, its attempts and what was answered', { response: { 200: DeliveryAnswer } }),
    async ({ principal, params, call }) => {
      const delivery = await deliveries.get(readableTenant(principal), params.delivery)
      if (call !== null) call.tenant = delivery.tenantId
      const answered = await deliveries.answered(delivery)
      return { ...showDelivery(delivery), attempts: answered.attempts.map(showAnswered) }
    },
  )
}

const describe = (summary: string, schema: object) => ({ schema: { summary, tags: ['Deliveries'], ...schema } })

/** A tenant asks for its own; an administrator says whose. */
function askedTenant(principal: Principal, asked: string | undefined): string {
  const tenantId = asked ?? readableTenant(principal)
  if (tenantId === null) throw new RelayError('request_invalid', { detail: 'An administrator must name the tenant.' })
  permitTenant(principal, tenantId, ['tenant'])
  return tenantId
}

export const showDelivery = ({ id, messageId, endpointId, state, nextAttemptAt, replay, attempts }: DeliveryRow) => ({
  id,
  message: messageId,
  endpoint: endpointId,
  state,
  ...(nextAttemptAt !== null && { next_attempt_at: nextAttemptAt.toISOString() }),
  ...(replay !== null && { replay }),
  attempts,
})

function showAnswered({ answerHead, ...attempt }: AnsweredAttempt): AttemptRecord {
  if (attempt.response === undefined || answerHead === undefined) return attempt
  return { ...attempt, response: { ...attempt.response, ...showBytes(answerHead) } }
}

function showBytes(bytes: Uint8Array): { body: string } | { body_base64: string } {
  try {
    // As a stream, so that a character cut at the end of what was kept does not count against the rest.
    return { body: new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes, { stream: true }) }
  } catch {
    return { body_base64: Buffer.from(bytes).toString('base64') }
  }
}
