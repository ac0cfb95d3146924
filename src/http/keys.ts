import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Static } from 'typebox'
import { RelayError } from '../errors.ts'
import { sha256 } from '../message/digest.ts'
import type { Relay } from '../relay.ts'
import { permitAdmin } from './authenticate.ts'
import {
  JwksAnswer,
  KeysAnswer,
  PlanAnswer,
  RevocationAnswer,
  RevocationWish,
  RotationAnswer,
  RotationWish,
} from './schemas.ts'

/** The published keys. Public, cacheable, and answered from memory: receivers depend on them more than on us, so a
 *  database that is down, or a thousand receivers that ask at once, must not matter. */
export function keyRoutes(app: FastifyInstance, relay: Relay): void {
  const jwks = remembered(relay.second, () => JSON.stringify(relay.jwks()))
  const history = remembered(relay.second, () => JSON.stringify(relay.signedKeys()))

  const routes = [
    ['/.well-known/jwks.json', 'application/jwk-set+json', 'The JWKS: next, active and retiring keys'],
    [
      '/.well-known/http-message-signatures-directory',
      'application/http-message-signatures-directory+json',
      'The same set, where RFC 9421 clients look for it',
    ],
  ] as const
  for (const [path, mediaType, summary] of routes) {
    app.get(path, { schema: { summary, ...open, response: { 200: JwksAnswer } } }, async ({ headers }, reply) =>
      answer(reply, headers['if-none-match'], jwks(), mediaType),
    )
  }

  app.get(
    '/v1/keys',
    {
      schema: { summary: 'Every key ever, with its states and times, signed', ...open, response: { 200: KeysAnswer } },
    },
    async ({ headers }, reply) => answer(reply, headers['if-none-match'], history(), 'application/json; charset=utf-8'),
  )
}

const open = { tags: ['Public'], security: [] }

/** Rotation by hand. `app` has authenticated and parsed the body. */
export function keyAdministrationRoutes(app: FastifyInstance, relay: Relay): void {
  app.get(
    '/v1/keys/plan',
    {
      schema: {
        summary: 'What is due now, and when each purpose rotates next',
        tags: ['Operation'],
        response: { 200: PlanAnswer },
      },
    },
    async ({ principal }) => {
      permitAdmin(principal)
      return relay.keyPlan()
    },
  )

  app.post<{ Body: Static<typeof RotationWish> }>(
    '/v1/keys/rotate',
    {
      schema: {
        summary: 'Rotate out of turn, at once',
        tags: ['Operation'],
        body: RotationWish,
        response: { 200: RotationAnswer },
      },
    },
    async ({ principal, body }) => {
      permitAdmin(principal)
      return relay.rotation.rotateNow(body.purpose)
    },
  )

  app.post<{ Params: { kid: string }; Body: Static<typeof RevocationWish> }>(
    '/v1/keys/:kid/revoke',
    {
      schema: {
        summary: 'Revoke a key, for good',
        tags: ['Operation'],
        body: RevocationWish,
        response: { 200: RevocationAnswer },
      },
    },
    async ({ principal, params, body }) => {
      permitAdmin(principal)
      const from = new Date(body.from)
      if (Number.isNaN(from.getTime()))
        throw new RelayError('request_invalid', { detail: '"from" is not a time (RFC 3339).' })
      return relay.rotation.revoke(params.kid, { from, reason: body.reason })
    },
  )
}

interface Document {
  readonly text: string
  readonly etag: string
}

/** Makes the document anew at most once a second, however often it is asked for. */
function remembered(second: () => number, make: () => string): () => Document {
  let latest: { at: number; document: Document } | undefined
  return () => {
    const at = second()
    if (latest?.at !== at) {
      const text = make()
      latest = { at, document: { text, etag: `"${sha256(Buffer.from(text)).toString('base64url')}"` } }
    }
    return latest.document
  }
}

function answer(reply: FastifyReply, known: string | undefined, { text, etag }: Document, mediaType: string) {
  reply
    .header('etag', etag)
    .header('cache-control', 'public, max-age=300, stale-while-revalidate=60, stale-if-error=86400')
    .header('access-control-allow-origin', '*')
  const same = known?.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag)
  return same ? reply.code(304).send() : reply.type(mediaType).send(text)
}
