import type { FastifyInstance } from 'fastify'
import { type Static, Type } from 'typebox'
import type { Replay } from '../delivery/replay-store.ts'
import { RelayError } from '../errors.ts'
import type { Relay } from '../relay.ts'
import { permitTenant, readableTenant } from './authenticate.ts'
import { RedeliveryAnswer, ReplayAnswer, ReplayCount, ReplayWish } from './delivery-schemas.ts'

type AtReplay = { Params: { tenant: string; replay: string } }

/** Deliveries made again. `app` has authenticated and parsed the body. */
export function replayRoutes(app: FastifyInstance, { deliveries, replays }: Relay): void {
  app.post<{ Params: { delivery: string } }>(
    '/v1/deliveries/:delivery/redeliver',
    describe('Make one delivery again', { response: { 202: RedeliveryAnswer } }),
    async ({ principal, params, call }, reply) => {
      const delivery = await deliveries.get(readableTenant(principal), params.delivery)
      if (call !== null) call.tenant = delivery.tenantId
      reply.code(202)
      return { id: await replays.redeliver(principal.actor, delivery) }
    },
  )

  app.post<{ Params: { tenant: string }; Body: Static<typeof ReplayWish> }>(
    '/v1/tenants/:tenant/replays',
    describe('Make the deliveries of an endpoint in a range of time again', {
      body: ReplayWish,
      response: { 200: Type.Union([ReplayAnswer, ReplayCount]) },
    }),
    async ({ principal, params: { tenant }, body }) => {
      permitTenant(principal, tenant, ['tenant'])
      const range = {
        ...{ tenantId: tenant, endpointId: body.endpoint, sourceId: body.source ?? null },
        ...{ from: parseTime('from', body.from), to: parseTime('to', body.to), outcome: body.outcome ?? 'abandoned' },
      } as const
      if (body.dry_run === true) return replays.count(range)
      return showReplay(await replays.request(principal.actor, range, body.rate ?? 50))
    },
  )

  app.get<AtReplay>(
    '/v1/tenants/:tenant/replays/:replay',
    describe('How far a replay has come', { response: { 200: ReplayAnswer } }),
    async ({ principal, params: { tenant, replay } }) => {
      permitTenant(principal, tenant, ['tenant'])
      return showReplay(await replays.get(tenant, replay))
    },
  )

  app.delete<AtReplay>(
    '/v1/tenants/:tenant/replays/:replay',
    describe('Cancel a replay; what was replayed so far stays owed', { response: { 200: ReplayAnswer } }),
    async ({ principal, params: { tenant, replay } }) => {
      permitTenant(principal, tenant, ['tenant'])
      return showReplay(await replays.cancel(principal.actor, tenant, replay))
    },
  )
}

const describe = (summary: string, schema: object) => ({ schema: { summary, tags: ['Deliveries'], ...schema } })

const rfc3339 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/i

function parseTime(name: string, text: string): Date {
  const at = new Date(text)
  if (rfc3339.test(text) && !Number.isNaN(at.getTime()) && at.getTime() >= 0) return at
  throw new RelayError('request_invalid', { detail: `"${name}" is not a time (RFC 3339).` })
}

const showReplay = ({ id, endpointId, sourceId, from, to, outcome, rate, state, ...replay }: Replay) => ({
  id,
  endpoint: endpointId,
  ...(sourceId !== null && { source: sourceId }),
  from: from.toISOString(),
  to: to.toISOString(),
  outcome,
  rate,
  state,
  found: replay.found,
  replayed: replay.replayed,
  skipped: replay.skipped,
  requested_at: replay.requestedAt.toISOString(),
  ...(replay.finishedAt !== null && { finished_at: replay.finishedAt.toISOString() }),
})
