import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { RelayError } from '../errors.ts'
import { type JsonObject, parsePayload } from '../message/json.ts'
import { aboutOf, receiptMediaType } from '../receipt/receipt.ts'
import type { Relay } from '../relay.ts'
import { hashSecret } from '../tenant/api-key.ts'
import type { Source } from '../tenant/records.ts'
import { deliveryHeaders } from '../tenant/scheme.ts'
import type { Credential } from '../tenant/source-gate.ts'
import { callBy, identify, requestOf } from './calls.ts'
import { ReceiptAnswer } from './schemas.ts'

declare module 'fastify' {
  interface FastifyRequest {
    /** On routes that take posts, set before the body is read. */
    approach: Approach
  }
}

/** A post on its way to a source: the holder of an API key vouches for it, or its bytes must. */
type Approach = { readonly source: Source; readonly credential: Credential } | Unproven

interface Unproven {
  readonly source: Source
  readonly credential: undefined
  /** To be called when the bytes were judged. */
  readonly decided: () => void
}

/**
 * Where vendors post: to a source by its id, or by an ingest URL, which names it by a token. In this order: the address
 * and the rate, an API key if the source goes by those, then the body, then its scheme on the raw bytes. Only then does
 * anything look into them.
 */
export function ingestRoutes(app: FastifyInstance, relay: Relay): void {
  // Which media types a source takes is its own affair, and not known before the post is authenticated.
  app.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))

  app.addHook('onRequest', async (request, reply) => {
    const found = await findSource(relay, request)
    if (found === undefined || found.settings.authentication.scheme === 'api_key') {
      const { source, actor } = await checkKey(relay, request, found)
      relay.gate.approach(source, requestOf(request).address)
      relay.gate.pass(source)
      request.approach = { source, credential: { actor, authentication: undefined, signedIdentity: undefined } }
    } else {
      await asIfUnknown(relay, request, found, () => relay.gate.approach(found, requestOf(request).address))
      const decided = relay.gate.expectBody(found)
      reply.raw.once('close', decided)
      request.approach = { source: found, credential: undefined, decided }
    }
  })

  const accept = async (request: FastifyRequest, reply: FastifyReply) => {
    const { approach } = request
    const { source } = approach
    const raw = request.body instanceof Uint8Array ? request.body : new Uint8Array(0)
    const credential = approach.credential ?? (await judge(relay, request, approach, raw))
    request.call ??= callBy(credential.actor, source.tenantId)
    const { call } = request
    const challenge = credential.authentication === 'slack' ? readSlackChallenge(raw) : undefined
    if (challenge !== undefined) return reply.type('text/plain').send(challenge)
    const { receipt, repeated } = await relay.accept({
      ...credential,
      tenantId: source.tenantId,
      sourceId: source.id,
      request: requestOf(request),
      canonicalization: source.settings.canonicalization,
      raw,
      contentType: request.headers['content-type'],
      idempotencyKey: idempotencyKeyOf(request, source),
    })
    if (repeated) reply.header('idempotency-replayed', 'true')
    if (repeated) call.facts.message = aboutOf(receipt)
    else call.stated = true
    reply.code(202).type(receiptMediaType)
    return JSON.stringify(receipt)
  }

  app.post('/v1/sources/:source/messages', describe('Post a payload, get a receipt'), accept)
  app.post('/in/:token', describe('Post a payload to the source of an ingest URL'), accept)
}

const describe = (summary: string) => ({
  schema: {
    summary,
    description: 'A source with a scheme takes what the scheme asks for in place of an API key.',
    tags: ['Messages'],
    headers: {
      type: 'object',
      properties: { 'idempotency-key': { type: 'string', description: '1 to 255 visible ASCII characters.' } },
    },
    body: {
      description: 'The payload: a JSON object or array, or whatever a source without canonicalization is sent.',
      type: ['object', 'array'],
    },
    produces: [receiptMediaType],
    response: { 202: ReceiptAnswer },
  },
  // The strict parser judges the bytes. Nothing else looks at them first.
  validatorCompiler: () => () => true,
})

type Named = { source?: string; token?: string }

const findSource = (relay: Relay, { params }: FastifyRequest): Promise<Source | undefined> => {
  const { source, token } = params as Named
  return token === undefined
    ? relay.directory.findSource(source ?? '')
    : relay.directory.findSourceByToken(hashSecret(token)) // found by its hash: no comparison, no timing
}

/** Lets pass who holds an ingest key of this source. Another tenant's source and one that never was answer alike. */
async function checkKey(relay: Relay, request: FastifyRequest, source: Source | undefined) {
  await identify(request, relay)
  const { principal } = request
  if (source === undefined || (principal.role !== 'admin' && principal.tenantId !== source.tenantId)) {
    throw new RelayError('not_found')
  }
  if (principal.role !== 'ingest' || principal.sourceId !== source.id) {
    throw new RelayError('forbidden', { detail: 'Posting takes an ingest key of this source.' })
  }
  return { source, actor: principal.actor }
}

async function judge(
  relay: Relay,
  request: FastifyRequest,
  { source, decided }: Unproven,
  raw: Uint8Array,
): Promise<Credential> {
  const byUrl = (request.params as Named).token !== undefined
  const presented = { headers: request.raw.headersDistinct, raw }
  const credential = await asIfUnknown(relay, request, source, () => relay.gate.authenticate(source, presented, byUrl))
  decided()
  relay.gate.pass(source)
  return credential
}

/** A stranger who is refused must not learn that there is a source: they are answered as if there were none. */
async function asIfUnknown<T>(
  relay: Relay,
  request: FastifyRequest,
  source: Source,
  work: () => T | Promise<T>,
): Promise<T> {
  try {
    return await work()
  } catch (error) {
    if (!(error instanceof RelayError) || error.code !== 'unauthenticated') throw error
    await checkKey(relay, request, source)
    throw error
  }
}

/** Slack sends no event to a URL that did not once answer this with 200 and the challenge. It is a question about us,
 *  signed like everything else, and nothing that anybody is to have a receipt for or to be forwarded. */
function readSlackChallenge(raw: Uint8Array): string | undefined {
  if (raw.length > mostChallengeBytes || !Buffer.from(raw).includes('url_verification')) return undefined
  try {
    const { type, challenge } = parsePayload(raw) as JsonObject
    return type === 'url_verification' && typeof challenge === 'string' ? challenge : undefined
  } catch (error) {
    if (error instanceof RelayError) return undefined // not JSON, and perhaps the source wants no JSON
    throw error
  }
}

const mostChallengeBytes = 4096

/** What names the post: the header the tenant chose, or the provider's own, or else Idempotency-Key. One given twice is
 *  joined by a comma, which is visible ASCII: so it is another key, and that is fine. */
function idempotencyKeyOf({ headers }: FastifyRequest, { settings }: Source): string | undefined {
  const { idempotency_header: chosen, authentication } = settings
  const value = headers[chosen ?? deliveryHeaders[authentication.scheme] ?? 'idempotency-key']
  return Array.isArray(value) ? value.join(', ') : value
}
