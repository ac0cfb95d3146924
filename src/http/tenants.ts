import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import { RelayError } from '../errors.ts'
import type { Database } from '../ports/database.ts'
import type { Relay } from '../relay.ts'
import { actorOf } from '../tenant/administration.ts'
import type { ApiKey, Endpoint, Tenant } from '../tenant/records.ts'
import { endpointsOf, findApiKey, listApiKeys, listTenants } from '../tenant/store.ts'
import { type Principal, permitAdmin, permitTenant } from './authenticate.ts'
import { type Paged, page } from './page.ts'
import {
  ApiKeyAnswer,
  ApiKeyMade,
  ApiKeyWish,
  EndpointAnswer,
  EndpointChange,
  EndpointWish,
  Page,
  pageOf,
  TenantAnswer,
  TenantWish,
} from './schemas.ts'

type AtTenant = { Params: { tenant: string } }
type AtEndpoint = { Params: { tenant: string; endpoint: string } }

/** Tenants, and of what belongs to them endpoints and API keys. `app` has authenticated and parsed the body. */
export function tenantRoutes(app: FastifyInstance, relay: Relay, database: Database): void {
  const { administration, endpoints } = relay
  const permit = (principal: Principal, tenantId: string): void => permitTenant(principal, tenantId, ['tenant'])

  app.post<{ Body: Static<typeof TenantWish> }>(
    '/v1/tenants',
    describe('Create a tenant', { body: TenantWish, response: { 201: TenantAnswer } }),
    async ({ principal, body }, reply) => {
      permitAdmin(principal)
      reply.code(201)
      return showTenant(await administration.createTenant(principal.actor, body))
    },
  )

  app.get<Paged>(
    '/v1/tenants',
    describe('List tenants', { querystring: Page, response: { 200: pageOf(TenantAnswer) } }),
    async ({ principal, query }) => {
      permitAdmin(principal)
      return page(query, (after, limit) => listTenants(database, after, limit), showTenant)
    },
  )

  app.get<AtTenant>(
    '/v1/tenants/:tenant',
    describe('Read a tenant', { response: { 200: TenantAnswer } }),
    async ({ principal, params }) => {
      permit(principal, params.tenant)
      return showTenant(await administration.getTenant(params.tenant))
    },
  )

  app.post<AtTenant & { Body: Static<typeof EndpointWish> }>(
    '/v1/tenants/:tenant/endpoints',
    describe('Create an endpoint', { body: EndpointWish, response: { 201: EndpointAnswer } }),
    async ({ principal, params, body }, reply) => {
      permit(principal, params.tenant)
      reply.code(201)
      const wish = { url: body.url, name: body.name ?? '' }
      return showEndpoint(await endpoints.create(principal.actor, params.tenant, wish))
    },
  )

  app.get<AtTenant>(
    '/v1/tenants/:tenant/endpoints',
    describe('List endpoints', { response: { 200: pageOf(EndpointAnswer) } }),
    async ({ principal, params }) => {
      permit(principal, params.tenant)
      await administration.getTenant(params.tenant)
      return { data: (await endpointsOf(database, params.tenant)).map(showEndpoint) }
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

  app.patch<AtEndpoint & { Body: Static<typeof EndpointChange> }>(
    '/v1/tenants/:tenant/endpoints/:endpoint',
    describe('Change an endpoint', { body: EndpointChange, response: { 200: EndpointAnswer } }),
    async ({ principal, params, body }) => {
      permit(principal, params.tenant)
      return showEndpoint(await endpoints.update(principal.actor, params.tenant, params.endpoint, body))
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

  app.post<AtTenant & { Body: Static<typeof ApiKeyWish> }>(
    '/v1/tenants/:tenant/api-keys',
    describe('Create an API key', { body: ApiKeyWish, response: { 201: ApiKeyMade } }),
    async ({ principal, params: { tenant }, body }, reply) => {
      permit(principal, tenant)
      const { name, role, source } = body
      if ((role === 'ingest') !== (source !== undefined)) {
        throw new RelayError('request_invalid', { detail: 'A key of role ingest names its source, and no other does.' })
      }
      if (source !== undefined && (await relay.directory.findSource(source))?.tenantId !== tenant) {
        throw new RelayError('not_found', { detail: 'This tenant has no such source.' })
      }
      const wish = { name, role, sourceId: source ?? null }
      const { apiKey, key } = await administration.createApiKey(principal.actor, tenant, wish)
      reply.code(201)
      return { ...showApiKey(apiKey), key }
    },
  )

  app.get<AtTenant & Paged>(
    '/v1/tenants/:tenant/api-keys',
    describe('List API keys, without their secrets', { querystring: Page, response: { 200: pageOf(ApiKeyAnswer) } }),
    async ({ principal, params, query }) => {
      permit(principal, params.tenant)
      await administration.getTenant(params.tenant)
      const bare = { ...query, ...(query.after && { after: query.after.replace(/^key_/, '') }) }
      return page(bare, (after, limit) => listApiKeys(database, params.tenant, after, limit), showApiKey)
    },
  )

  app.delete<{ Params: { tenant: string; key: string } }>(
    '/v1/tenants/:tenant/api-keys/:key',
    describe('Revoke an API key', { response: { 204: { type: 'null' } } }),
    async ({ principal, params }, reply) => {
      permit(principal, params.tenant)
      const apiKey = await findApiKey(database, params.key.replace(/^key_/, ''))
      if (apiKey?.tenantId !== params.tenant || apiKey.revokedAt !== null) throw new RelayError('not_found')
      await administration.revokeApiKey(principal.actor, apiKey)
      reply.code(204)
    },
  )
}

const describe = (summary: string, schema: object) => ({ schema: { summary, tags: ['Tenants'], ...schema } })

const showTenant = ({ id, name, tier, createdAt }: Tenant) => ({ id, name, tier, created_at: createdAt.toISOString() })

const showEndpoint = ({ id, tenantId, name, url, createdAt }: Endpoint) => ({
  id,
  tenant: tenantId,
  name,
  url,
  created_at: createdAt.toISOString(),
})

const showApiKey = (apiKey: ApiKey) => ({
  id: actorOf(apiKey),
  name: apiKey.name,
  role: apiKey.role,
  ...(apiKey.sourceId !== null && { source: apiKey.sourceId }),
  created_at: apiKey.createdAt.toISOString(),
  ...(apiKey.revokedAt !== null && { revoked_at: apiKey.revokedAt.toISOString() }),
})
