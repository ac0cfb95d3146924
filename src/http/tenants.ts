import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import { RelayError } from '../errors.ts'
import type { Database } from '../ports/database.ts'
import type { Relay } from '../relay.ts'
import { actorOf } from '../tenant/administration.ts'
import type { ApiKey, Tenant } from '../tenant/records.ts'
import { findApiKey, listApiKeys, listTenants } from '../tenant/store.ts'
import { type Principal, permitAdmin, permitTenant } from './authenticate.ts'
import { type Paged, page } from './page.ts'
import {
  ApiKeyAnswer,
  ApiKeyMade,
  ApiKeyWish,
  Page,
  pageOf,
  TenantAnswer,
  TenantChange,
  TenantWish,
} from './schemas.ts'

type AtTenant = { Params: { tenant: string } }

/** Tenants and their API keys. `app` has authenticated and parsed the body. */
export function tenantRoutes(app: FastifyInstance, relay: Relay, database: Database): void {
  const { administration } = relay
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
      return showTenant(await administration.findTenant(params.tenant))
    },
  )

  app.patch<AtTenant & { Body: Static<typeof TenantChange> }>(
    '/v1/tenants/:tenant',
    describe('Rename a tenant, move it to another tier, keep longer what is written for it from now on', {
      body: TenantChange,
      response: { 200: TenantAnswer },
    }),
    async ({ principal, params, body: { retention, ...rest } }) => {
      permitAdmin(principal)
      const { payload_days: payloadDays, statement_months: statementMonths } = retention ?? {}
      const chosen = {
        ...(payloadDays !== undefined && { payloadDays }),
        ...(statementMonths !== undefined && { statementMonths }),
      }
      return showTenant(
        await administration.updateTenant(principal.actor, params.tenant, { ...rest, retention: chosen }),
      )
    },
  )

  app.delete<AtTenant>(
    '/v1/tenants/:tenant',
    describe('Erase a tenant: nothing of it can ever be read again', { response: { 200: TenantAnswer } }),
    async ({ principal, params }) => {
      permitAdmin(principal)
      return showTenant(await relay.eraseTenant(principal.actor, params.tenant))
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

const showTenant = ({ id, name, tier, createdAt, retention, erasure }: Tenant) => ({
  id,
  name,
  tier,
  created_at: createdAt.toISOString(),
  retention: { payload_days: retention.payloadDays, statement_months: retention.statementMonths },
  ...(erasure !== null && { erased_at: erasure.at.toISOString(), erased_leaf: erasure.leafIndex }),
})

const showApiKey = (apiKey: ApiKey) => ({
  id: actorOf(apiKey),
  name: apiKey.name,
  role: apiKey.role,
  ...(apiKey.sourceId !== null && { source: apiKey.sourceId }),
  created_at: apiKey.createdAt.toISOString(),
  ...(apiKey.revokedAt !== null && { revoked_at: apiKey.revokedAt.toISOString() }),
})
