import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import type { Database } from '../ports/database.ts'
import type { Relay } from '../relay.ts'
import type { IngestUrl, Source } from '../tenant/records.ts'
import { listSources } from '../tenant/store.ts'
import { permitTenant } from './authenticate.ts'
import { type Paged, page } from './page.ts'
import { Page, pageOf } from './schemas.ts'
import { IngestUrlAnswer, IngestUrlMade, SourceAnswer, SourceChange, SourceWish } from './source-schemas.ts'

type AtTenant = { Params: { tenant: string } }
type AtSource = { Params: { tenant: string; source: string } }
type AtUrl = { Params: { tenant: string; source: string; url: string } }

/** Sources and their ingest URLs. `app` has authenticated and parsed the body. */
export function sourceRoutes(app: FastifyInstance, relay: Relay, database: Database): void {
  const { sources, administration } = relay
  const show = (source: Source) => showSource(relay.issuer, source)

  // Whatever stands below a tenant is for holders of its keys; who asks for another's is told that there is no such thing.
  app.addHook('preHandler', async ({ principal, params }) => {
    permitTenant(principal, (params as AtTenant['Params']).tenant, ['tenant'])
  })

  app.post<AtTenant & { Body: Static<typeof SourceWish> }>(
    '/v1/tenants/:tenant/sources',
    describe('Create a source', { body: SourceWish, response: { 201: SourceAnswer } }),
    async ({ principal, params, body }, reply) => {
      reply.code(201)
      return show(await sources.create(principal.actor, params.tenant, body))
    },
  )

  app.get<AtTenant & Paged>(
    '/v1/tenants/:tenant/sources',
    describe('List sources', { querystring: Page, response: { 200: pageOf(SourceAnswer) } }),
    async ({ params, query }) => {
      await administration.getTenant(params.tenant)
      return page(query, (after, limit) => listSources(database, params.tenant, after, limit), show)
    },
  )

  app.get<AtSource>(
    '/v1/tenants/:tenant/sources/:source',
    describe('Read a source', { response: { 200: SourceAnswer } }),
    async ({ params }) => show(await sources.get(params.tenant, params.source)),
  )

  app.patch<AtSource & { Body: Static<typeof SourceChange> }>(
    '/v1/tenants/:tenant/sources/:source',
    describe('Change a source; what is not named stays', { body: SourceChange, response: { 200: SourceAnswer } }),
    async ({ principal, params, body }) =>
      show(await sources.update(principal.actor, params.tenant, params.source, body)),
  )

  app.delete<AtSource>(
    '/v1/tenants/:tenant/sources/:source',
    describe('Delete a source, with its ingest keys and URLs', { response: { 204: { type: 'null' } } }),
    async ({ principal, params }, reply) => {
      await sources.delete(principal.actor, params.tenant, params.source)
      reply.code(204)
    },
  )

  app.post<AtSource>(
    '/v1/tenants/:tenant/sources/:source/urls',
    describe('Create an ingest URL, for a vendor that can be given nothing else', { response: { 201: IngestUrlMade } }),
    async ({ principal, params }, reply) => {
      const { ingestUrl, token } = await sources.createUrl(principal.actor, params.tenant, params.source)
      reply.code(201)
      return { ...showUrl(ingestUrl), url: `${relay.issuer}/in/${token}` }
    },
  )

  app.get<AtSource>(
    '/v1/tenants/:tenant/sources/:source/urls',
    describe('List ingest URLs, without their tokens', { response: { 200: pageOf(IngestUrlAnswer) } }),
    async ({ params }) => ({ data: (await sources.urlsOf(params.tenant, params.source)).map(showUrl) }),
  )

  app.delete<AtUrl>(
    '/v1/tenants/:tenant/sources/:source/urls/:url',
    describe('Revoke an ingest URL', { response: { 204: { type: 'null' } } }),
    async ({ principal, params }, reply) => {
      await sources.revokeUrl(principal.actor, params.tenant, params.source, params.url)
      reply.code(204)
    },
  )
}

const describe = (summary: string, schema: object) => ({ schema: { summary, tags: ['Tenants'], ...schema } })

const showSource = (issuer: string, { id, tenantId, name, settings, createdAt }: Source) => ({
  id,
  tenant: tenantId,
  name,
  messages_url: `${issuer}/v1/sources/${id}/messages`,
  ...settings,
  created_at: createdAt.toISOString(),
})

const showUrl = ({ id, createdAt }: IngestUrl) => ({ id, created_at: createdAt.toISOString() })
