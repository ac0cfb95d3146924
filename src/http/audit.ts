import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import { RelayError } from '../errors.ts'
import type { AuditFilter } from '../log/audit.ts'
import type { Relay } from '../relay.ts'
import { permitAdmin, permitTenant } from './authenticate.ts'
import { AuditItem, AuditQuery, DeploymentAuditQuery, pageOf } from './schemas.ts'

/** The audit log, read: what was stated, with its place in the log. `app` has authenticated. */
export function auditRoutes(app: FastifyInstance, relay: Relay): void {
  app.get<{ Params: { tenant: string }; Querystring: Static<typeof AuditQuery> }>(
    '/v1/tenants/:tenant/audit',
    describe('Read the audit log of a tenant, oldest first', AuditQuery),
    async ({ principal, params, query }, reply) => {
      permitTenant(principal, params.tenant, ['tenant', 'export'])
      await relay.administration.getTenant(params.tenant)
      const leaves = query.message === undefined ? undefined : await relay.leavesOf(params.tenant, query.message)
      return reply.type('application/json; charset=utf-8').send(await read(params.tenant, query, leaves))
    },
  )

  app.get<{ Querystring: Static<typeof DeploymentAuditQuery> }>(
    '/v1/audit',
    describe('Read what was stated about the deployment and no tenant', DeploymentAuditQuery),
    async ({ principal, query }, reply) => {
      permitAdmin(principal)
      return reply.type('application/json; charset=utf-8').send(await read(null, query, undefined))
    },
  )

  async function read(
    tenantId: string | null,
    query: Static<typeof DeploymentAuditQuery>,
    leaves: readonly number[] | undefined,
  ): Promise<string> {
    const { kind, actor } = query
    const filter: AuditFilter = { kind, actor, from: instant(query, 'from'), to: instant(query, 'to'), leaves }
    const after = query.after === undefined ? -1 : Number(query.after)
    const { items, next } = await relay.audit.page(tenantId, filter, after, Number(query.limit ?? 100))
    // The statement goes out as the bytes that were hashed, not as JSON written again.
    const data = items.map(({ leafIndex, entry, statement }) => {
      const place = `"index":${leafIndex},"entry":"${Buffer.from(entry).toString('base64url')}"`
      return `{${place},"statement":${Buffer.from(statement).toString()}}`
    })
    return `{"data":[${data.join(',')}]${next === undefined ? '' : `,"next":"${next}"`}}`
  }
}

const describe = (summary: string, querystring: object) => ({
  schema: { summary, tags: ['Audit'], querystring, response: { 200: pageOf(AuditItem) } },
})

function instant(query: Static<typeof DeploymentAuditQuery>, name: 'from' | 'to'): Date | undefined {
  const text = query[name]
  if (text === undefined) return undefined
  const at = new Date(text)
  if (Number.isNaN(at.getTime()))
    throw new RelayError('request_invalid', { detail: `"${name}" is not a time (RFC 3339).` })
  return at
}
