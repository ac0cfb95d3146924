import swagger from '@fastify/swagger'
import fastify, { type FastifyInstance, type FastifyPluginAsync, type FastifyRequest } from 'fastify'
import { Type } from 'typebox'
import { RelayError } from '../errors.ts'
import { parseJson } from '../message/json.ts'
import { jsonMediaType } from '../message/message.ts'
import type { Database } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { Observer } from '../ports/observer.ts'
import type { Relay } from '../relay.ts'
import { auditRoutes } from './audit.ts'
import { type Principal, permitAdmin } from './authenticate.ts'
import { identify, recordCalls } from './calls.ts'
import { deliveryRoutes } from './deliveries.ts'
import { endpointRoutes } from './endpoints.ts'
import { exportRoutes } from './exports.ts'
import { ingestRoutes } from './ingest.ts'
import { keyAdministrationRoutes, keyRoutes } from './keys.ts'
import { logRoutes } from './log.ts'
import { messageRoutes } from './messages.ts'
import { openApiDocument } from './openapi.ts'
import { connectionRefuser, problemHandler } from './problem.ts'
import { proofRoutes } from './proofs.ts'
import { receiptRoutes } from './receipts.ts'
import { replayRoutes } from './replays.ts'
import { retentionRoutes } from './retention.ts'
import { PlainText, StatusAnswer } from './schemas.ts'
import { sourceRoutes } from './sources.ts'
import { tenantRoutes } from './tenants.ts'
import { verifyRoutes } from './verify.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** Set before the body is read, on routes that ask for an API key. */
    principal: Principal
  }
}

export interface ServerParts {
  readonly relay: Relay
  readonly database: Database
  readonly logger: Logger
  readonly observer: Observer
  /** Prometheus text. */
  readonly metrics: () => Promise<string>
  readonly maxPayloadBytes: number
  /** CIDRs of proxies whose X-Forwarded-For is believed. */
  readonly trustedProxies: readonly string[]
}

/** The edge: HTTP in, problems out. Each route group is a file; who may call it is decided here or at its top. */
export async function buildServer(parts: ServerParts): Promise<FastifyInstance> {
  const { relay, database, logger, observer } = parts
  const refuse = problemHandler(logger, observer)
  const app = fastify({
    logger: false, // one line per fact, by us; never URLs with queries
    bodyLimit: parts.maxPayloadBytes,
    genReqId: () => relay.calls.newId(),
    trustProxy: parts.trustedProxies.length > 0 && [...parts.trustedProxies],
    // Fastify waits for ever by default. A client that needs longer than this to send 1 MiB is not a client.
    requestTimeout: 30_000,
    http: { headersTimeout: 10_000, connectionsCheckingInterval: 5_000 },
    connectionTimeout: 60_000,
    keepAliveTimeout: 72_000, // longer than a load balancer's 60 s, so that it closes first
    forceCloseConnections: 'idle',
    return503OnClosing: false, // our own hook answers with a problem
    exposeHeadRoutes: true,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false } },
    frameworkErrors: (error, request, reply) => refuse(error, request, reply.headers(headersOf(request))), // before any hook
    clientErrorHandler: connectionRefuser(observer, () => relay.calls.newId()),
  })
  app.setErrorHandler(refuse)
  const methods = collectMethods(app)
  app.setNotFoundHandler(async (request, reply) => {
    if (request.headers.authorization !== undefined) await identify(request, relay)
    const allowed = methods(request.url)
    if (allowed.length === 0) throw new RelayError('not_found')
    reply.header('allow', allowed.join(', '))
    throw new RelayError('method_not_allowed')
  })

  // While draining, whatever still comes on an open connection is answered, and that answer is the connection's last:
  // a vendor that keeps posting goes elsewhere, and none of its posts was refused for our sake.
  let closing = false
  app.addHook('preClose', async () => {
    closing = true
  })
  app.addHook('onSend', (_request, reply, _payload, done) => {
    if (closing) reply.header('connection', 'close')
    done()
  })
  app.addHook('onRequest', async (request, reply) => {
    reply.headers(headersOf(request))
    const encoding = request.headers['content-encoding']
    if (encoding !== undefined && encoding !== 'identity') throw new RelayError('media_type_unsupported')
  })
  recordCalls(app, relay)

  // One parser for every body, which does not parse: the strict parser is the only door (DESIGN.md section 2).
  app.removeAllContentTypeParsers()
  app.addContentTypeParser(jsonMediaType, { parseAs: 'buffer' }, (_request, body, done) => done(null, body))

  await app.register(swagger, openApiDocument(relay.issuer))
  const withKey = (scope: FastifyInstance): void => {
    scope.addHook('onRequest', (request) => identify(request, relay))
  }
  /** For whom a key is no condition: but one that is presented must hold, and the call is recorded. */
  const withAnyKey = (scope: FastifyInstance): void => {
    scope.addHook('onRequest', async (request) => {
      if (request.headers.authorization !== undefined) await identify(request, relay)
    })
  }
  const withJson = (scope: FastifyInstance): void => {
    scope.addHook('preValidation', async (request) => {
      if (request.body instanceof Uint8Array) request.body = parseJson(request.body)
    })
  }

  const ingest: FastifyPluginAsync = async (scope) => {
    ingestRoutes(scope, relay)
  }
  const management: FastifyPluginAsync = async (scope) => {
    withKey(scope)
    withJson(scope)
    tenantRoutes(scope, relay, database)
    await scope.register(async (below) => sourceRoutes(below, relay, database))
    endpointRoutes(scope, relay)
    messageRoutes(scope, relay)
    deliveryRoutes(scope, relay)
    replayRoutes(scope, relay)
    receiptRoutes(scope, relay)
    auditRoutes(scope, relay)
    exportRoutes(scope, relay)
    keyAdministrationRoutes(scope, relay)
  }
  const open: FastifyPluginAsync = async (scope) => {
    withAnyKey(scope)
    withJson(scope)
    verifyRoutes(scope, relay)
    proofRoutes(scope, relay)
  }
  // What anyone may copy and serve. No key is looked at: these must be there when the database is not.
  const published: FastifyPluginAsync = async (scope) => {
    keyRoutes(scope, relay)
    retentionRoutes(scope)
    logRoutes(scope, relay)
  }
  const operation: FastifyPluginAsync = async (scope) => {
    operationRoutes(scope, database)
    await scope.register(async (below) => {
      withKey(below)
      metricsRoute(below, parts.metrics)
    })
  }
  const everything = [ingest, management, open, published, operation, documentation]
  for (const group of relay.role === 'delivery' ? [operation] : everything) await app.register(group)
  return app
}

const documentation: FastifyPluginAsync = async (app) => {
  app.get(
    '/openapi.json',
    { schema: { ...describe('This document'), security: [], response: { 200: Type.Any() } } },
    async (_request, reply) => reply.header('access-control-allow-origin', '*').send(app.swagger()),
  )
}

const describe = (summary: string) => ({ summary, tags: ['Operation'] })

function metricsRoute(app: FastifyInstance, metrics: () => Promise<string>): void {
  const answer = { produces: ['text/plain'], response: { 200: PlainText } }
  app.get(
    '/metrics',
    { schema: { ...describe('What Prometheus scrapes'), ...answer } },
    async ({ principal }, reply) => {
      permitAdmin(principal)
      return reply.type('text/plain; version=0.0.4; charset=utf-8').send(await metrics())
    },
  )
}

function operationRoutes(app: FastifyInstance, database: Database): void {
  const open = (summary: string) => ({
    schema: { ...describe(summary), security: [], response: { 200: StatusAnswer } },
  })
  app.get('/healthz', open('The process is alive'), async () => ({ status: 'ok' }))
  app.get('/readyz', open('The database answers, so messages can be accepted'), async () => {
    await database.query('select tree_size from log').catch((cause: unknown) => {
      throw new RelayError('storage_unavailable', { cause, retryAfterS: 1 })
    })
    return { status: 'ready' }
  })
}

const headersOf = (request: FastifyRequest) => ({ 'x-request-id': request.id, ...securityHeaders })

/** Answers are JSON or bytes: nothing here may ever run or frame. */
const securityHeaders = {
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
}

/** Which methods a path takes, to tell a wrong method (405) from a wrong path (404). */
function collectMethods(app: FastifyInstance): (url: string) => string[] {
  const routes: { method: string; pattern: RegExp }[] = []
  app.addHook('onRoute', ({ method, url }) => {
    const pattern = new RegExp(
      `^${url
        .replace(/[.]/g, '\\.')
        .replace(/:[^/]+/g, '[^/]+')
        .replace(/\*$/, '.+')}$`,
    )
    for (const one of [method].flat()) routes.push({ method: one, pattern })
  })
  return (url) => {
    const [path = ''] = url.split('?')
    return [...new Set(routes.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method))]
  }
}
