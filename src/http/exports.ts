import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Static } from 'typebox'
import { RelayError } from '../errors.ts'
import type { ExportRow } from '../receipt/export-store.ts'
import { bytesOf } from '../receipt/exports.ts'
import type { Relay } from '../relay.ts'
import { type Principal, permitTenant } from './authenticate.ts'
import { ExportAnswer, ExportWish } from './export-schemas.ts'
import { type Paged, page } from './page.ts'
import { Octets, Page, pageOf } from './schemas.ts'

type AtExport = { Params: { tenant: string; export: string } }
type AtTenant = { Params: { tenant: string } }

/** The audit log as a file. `app` has authenticated and parsed the body. */
export function exportRoutes(app: FastifyInstance, relay: Relay): void {
  const { exports, administration } = relay
  const permit = (principal: Principal, tenantId: string): void =>
    permitTenant(principal, tenantId, ['tenant', 'export'])

  app.post<AtTenant & { Body: Static<typeof ExportWish> }>(
    '/v1/tenants/:tenant/exports',
    describe('Export the audit log', { body: ExportWish, response: { 202: ExportAnswer } }),
    async ({ principal, params, body }, reply) => {
      permit(principal, params.tenant)
      const tenant = await administration.getTenant(params.tenant)
      reply.code(202)
      return showExport(await exports.request(principal.actor, tenant, readWish(body)))
    },
  )

  app.get<AtTenant & Paged>(
    '/v1/tenants/:tenant/exports',
    describe('List exports', { querystring: Page, response: { 200: pageOf(ExportAnswer) } }),
    async ({ principal, params, query }) => {
      permit(principal, params.tenant)
      await administration.getTenant(params.tenant)
      return page(query, (after, limit) => exports.list(params.tenant, after, limit), showExport)
    },
  )

  app.get<AtExport>(
    '/v1/tenants/:tenant/exports/:export',
    describe('Read an export: how far it is', { response: { 200: ExportAnswer } }),
    async ({ principal, params }) => {
      permit(principal, params.tenant)
      return showExport(await exports.get(params.tenant, params.export))
    },
  )

  app.delete<AtExport>(
    '/v1/tenants/:tenant/exports/:export',
    describe('Delete an export', { response: { 204: { type: 'null' } } }),
    async ({ principal, params }, reply) => {
      permit(principal, params.tenant)
      await exports.delete(principal.actor, await exports.get(params.tenant, params.export))
      reply.code(204)
    },
  )

  app.get<AtExport>(
    '/v1/tenants/:tenant/exports/:export/file',
    describe('Download the file of an export; Range is honoured', {
      produces: ['application/octet-stream'],
      response: { 200: Octets },
    }),
    async ({ principal, params, headers, method }, reply) => {
      permit(principal, params.tenant)
      const row = await exports.get(params.tenant, params.export)
      if (row.state !== 'done') throw new RelayError('export_unfinished', { detail: `It is ${row.state}.` })
      const etag = `"${Buffer.from(row.sha256 ?? []).toString('base64url')}"`
      const name = `${row.id}.ndjson.${row.wish.compression === 'zstd' ? 'zst' : 'gz'}`
      reply.headers({
        ...{ etag, 'accept-ranges': 'bytes', 'cache-control': 'private, no-transform' },
        'content-disposition': `attachment; filename="${name}"`,
      })
      if (namesTag(headers['if-none-match'], etag)) return reply.code(304).send()
      const bytes = bytesOf(row)
      // A range of another file must not be sent for this one (RFC 9110 §13.1.5).
      const applies = headers['if-range'] === undefined || headers['if-range'] === etag
      const range = readRange(applies ? headers.range : undefined, bytes, reply)
      const { from, to } = range ?? { from: 0, to: bytes - 1 }
      if (range !== undefined) reply.code(206).header('content-range', `bytes ${from}-${to}/${bytes}`)
      reply.type(row.wish.compression === 'zstd' ? 'application/zstd' : 'application/gzip')
      reply.header('content-length', to - from + 1)
      if (method === 'HEAD') return reply.send(Readable.from([]))
      return reply.send(Readable.from(await exports.download(principal.actor, row, { from, to })))
    },
  )
}

const describe = (summary: string, schema: object) => ({ schema: { summary, tags: ['Exports'], ...schema } })

function readWish({ from, to, kinds, compression = 'zstd' }: Static<typeof ExportWish>) {
  for (const time of [from, to]) {
    if (time !== undefined && !(rfc3339.test(time) && !Number.isNaN(Date.parse(time))))
      throw new RelayError('request_invalid', { detail: '"from" and "to" are times as RFC 3339 has them.' })
  }
  return {
    ...(from !== undefined && { from }),
    ...(to !== undefined && { to }),
    ...(kinds !== undefined && { kinds }),
    compression,
  }
}

const rfc3339 = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})$/i

const namesTag = (header: string | undefined, etag: string): boolean =>
  header?.split(',').some((tag) => tag.trim() === '*' || tag.trim().replace(/^W\//, '') === etag) ?? false

/** One range of bytes (RFC 9110 §14.1.2), as offsets of the first and the last. Undefined where there is none, or more
 *  than one, or none that we understand: then the whole file is the answer. */
function readRange(header: string | undefined, bytes: number, reply: FastifyReply) {
  const [, first = '', last = ''] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '') ?? []
  if (first === '' && last === '') return undefined
  if (first !== '' && last !== '' && Number(first) > Number(last)) return undefined
  const from = first === '' ? Math.max(0, bytes - Number(last)) : Number(first)
  const to = first === '' || last === '' ? bytes - 1 : Math.min(bytes - 1, Number(last))
  if (from <= to) return { from, to }
  reply.header('content-range', `bytes */${bytes}`)
  throw new RelayError('range_unsatisfiable')
}

const showExport = (row: ExportRow) => {
  const { id, state, reason, wish, requestedAt, finishedAt, plan, progress, sha256 } = row
  return {
    ...{ id, state, ...(reason !== null && { reason }), ...wish, requested_at: requestedAt.toISOString() },
    ...(finishedAt !== null && { finished_at: finishedAt.toISOString() }),
    ...(plan !== null &&
      progress !== null && { statements: { done: progress.shown + progress.withheld, total: plan.leaves } }),
    bytes: bytesOf(row),
    ...(sha256 !== null && { sha256: Buffer.from(sha256).toString('base64url') }),
  }
}
