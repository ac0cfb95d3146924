import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import { describeOptions, refusing } from '../delivery/endpoint-options.ts'
import type { EndpointWish, WrittenEndpoint } from '../delivery/endpoints.ts'
import { parseSchedule } from '../delivery/schedule.ts'
import type { Relay } from '../relay.ts'
import type { Condition, Endpoint, EndpointOptions } from '../tenant/records.ts'
import { type Principal, permitTenant } from './authenticate.ts'
import {
  EndpointAnswer,
  EndpointChange as EndpointChangeBody,
  EndpointWish as EndpointWishBody,
  EndpointWritten,
  PauseWish,
  SecretAnswer,
  TestAnswer,
} from './endpoint-schemas.ts'
import { type Paged, page } from './page.ts'
import { Page, pageOf } from './schemas.ts'

type AtTenant = { Params: { tenant: string } }
type AtEndpoint = { Params: { tenant: string; endpoint: string } }

/** Receivers' URLs. `app` has authenticated and parsed the body. */
export function endpointRoutes(app: FastifyInstance, relay: Relay): void {
  const { endpoints, notices } = relay
  const permit = (principal: Principal, tenantId: string): void => permitTenant(principal, tenantId, ['tenant'])

  app.post<AtTenant & { Body: Static<typeof EndpointWishBody> }>(
    '/v1/tenants/:tenant/endpoints',
    describe('Create an endpoint', { body: EndpointWishBody, response: { 201: EndpointWritten } }),
    async ({ principal, params, body }, reply) => {
      permit(principal, params.tenant)
      reply.code(201)
      const wish = { ...wishOf(body), url: body.url }
      return showWritten(await endpoints.create(principal.actor, params.tenant, wish))
    },
  )

  app.get<AtTenant & Paged>(
    '/v1/tenants/:tenant/endpoints',
    describe('List endpoints', { querystring: Page, response: { 200: pageOf(EndpointAnswer) } }),
    async ({ principal, params, query }) => {
      permit(principal, params.tenant)
      return page(query, (after, limit) => endpoints.list(params.tenant, after, limit), showEndpoint)
    },
  )

  app.get<AtEndpoint>(
    '/v1/tenants/:tenant/endpoints/:endpoint',
    describe('Read an endpoint', { response: { 200: EndpointAnswer } }),
    async ({ principal, params }) => {
      permit(principal, params.tenant)
      return showEndpoint(await endpoints.get(params.tenant, params.endpoint))
    },
  )

  app.patch<AtEndpoint & { Body: Static<typeof EndpointChangeBody> }>(
    '/v1/tenants/:tenant/endpoints/:endpoint',
    describe('Change an endpoint; what is not named stays', {
      body: EndpointChangeBody,
      response: { 200: EndpointWritten },
    }),
    async ({ principal, params: { tenant, endpoint }, body }) => {
      permit(principal, tenant)
      return showWritten(await endpoints.update(principal.actor, tenant, endpoint, wishOf(body)))
    },
  )

  app.delete<AtEndpoint>(
    '/v1/tenants/:tenant/endpoints/:endpoint',
    describe('Delete an endpoint; what it is still owed is abandoned', { response: { 204: { type: 'null' } } }),
    async ({ principal, params }, reply) => {
      permit(principal, params.tenant)
      await endpoints.delete(principal.actor, params.tenant, params.endpoint)
      reply.code(204)
    },
  )

  app.post<AtEndpoint & { Body: Static<typeof PauseWish> }>(
    '/v1/tenants/:tenant/endpoints/:endpoint/pause',
    describe('Send nothing until it is resumed; what is owed waits', {
      body: PauseWish,
      response: { 200: EndpointAnswer },
    }),
    async ({ principal, params: { tenant, endpoint }, body }) => {
      permit(principal, tenant)
      return showEndpoint(await endpoints.pause(principal.actor, tenant, endpoint, body.reason))
    },
  )

  app.post<AtEndpoint>(
    '/v1/tenants/:tenant/endpoints/:endpoint/resume',
    describe('Send again, what has waited first', { response: { 200: EndpointAnswer } }),
    async ({ principal, params: { tenant, endpoint } }) => {
      permit(principal, tenant)
      return showEndpoint(await endpoints.resume(principal.actor, tenant, endpoint))
    },
  )

  app.post<AtEndpoint>(
    '/v1/tenants/:tenant/endpoints/:endpoint/test',
    describe('Send `endpoint.test` to this endpoint alone', { response: { 202: TestAnswer } }),
    async ({ principal, params: { tenant, endpoint } }, reply) => {
      permit(principal, tenant)
      reply.code(202)
      return { message: await notices.test(principal.actor, await endpoints.get(tenant, endpoint)) }
    },
  )

  app.post<AtEndpoint>(
    '/v1/tenants/:tenant/endpoints/:endpoint/secret/rotate',
    describe('Make a new HMAC secret; both sign for a day', { response: { 200: SecretAnswer } }),
    async ({ principal, params: { tenant, endpoint } }) => {
      permit(principal, tenant)
      const { secret, previousUntil } = await endpoints.rotateSecret(principal.actor, tenant, endpoint)
      return { secret, previous_until: previousUntil.toISOString() }
    },
  )
}

const describe = (summary: string, schema: object) => ({ schema: { summary, tags: ['Endpoints'], ...schema } })

/** From the names of the API to ours. */
function wishOf(body: Static<typeof EndpointChangeBody>): EndpointWish {
  const { url, name, headers, tls, signatures } = body
  return {
    ...(url !== undefined && { url }),
    ...(name !== undefined && { name }),
    ...(headers !== undefined && { headers }),
    ...(tls !== undefined && { tls: tls && { certificate: null, key: null, ca: null, ...tls } }),
    ...(signatures !== undefined && { signatures: signaturesOf(signatures) }),
    options: optionsOf(body),
  }
}

const signaturesOf = ({ retiring_key, ...rest }: NonNullable<Static<typeof EndpointChangeBody>['signatures']>) => ({
  ...rest,
  ...(retiring_key !== undefined && { retiringKey: retiring_key }),
})

function optionsOf(body: Static<typeof EndpointChangeBody>): NonNullable<EndpointWish['options']> {
  const { events, filter, timeout_ms, retry_schedule, rate_limit, concurrency, ordering } = body
  return {
    ...(events !== undefined && { events }),
    ...(filter !== undefined && { filter: filter as Condition[] }), // the schema lets pass one operator each
    ...(timeout_ms !== undefined && { timeoutMs: timeout_ms }),
    ...(retry_schedule !== undefined && {
      schedule: retry_schedule === null ? null : refusing('/retry_schedule', () => parseSchedule(retry_schedule)),
    }),
    ...(rate_limit !== undefined && {
      rateLimit: rate_limit && { perSecond: rate_limit.per_second, burst: rate_limit.burst },
    }),
    ...(concurrency !== undefined && { concurrency }),
    ...(ordering !== undefined && { ordering: orderingOf(ordering) }),
  }
}

function orderingOf(ordering: NonNullable<Static<typeof EndpointChangeBody>['ordering']>): EndpointOptions['ordering'] {
  if (typeof ordering === 'object') return { kind: 'fifo', key: ordering.key }
  return ordering === 'fifo' ? { kind: 'fifo', key: null } : { kind: 'none' }
}

const showEndpoint = ({ options, secrets, ...endpoint }: Endpoint) => ({
  id: endpoint.id,
  tenant: endpoint.tenantId,
  name: endpoint.name,
  url: endpoint.url,
  created_at: endpoint.createdAt.toISOString(),
  state: endpoint.pausedAt === null ? 'active' : 'paused',
  ...(endpoint.pausedAt !== null && { paused_at: endpoint.pausedAt.toISOString() }),
  ...(endpoint.pausedReason !== null && { paused_reason: endpoint.pausedReason }),
  ...describeOptions(options),
  headers: Object.fromEntries(Object.keys(secrets.headers).map((name) => [name, '***'])),
  tls: secrets.tls && { certificate: secrets.tls.certificate, ca: secrets.tls.ca },
})

const showWritten = ({ endpoint, secret }: WrittenEndpoint) => ({
  ...showEndpoint(endpoint),
  ...(secret !== undefined && { secret }),
})
