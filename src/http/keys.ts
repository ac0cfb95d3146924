import type { FastifyInstance } from 'fastify'
import { publicJwk } from '../keyring/jwk.ts'
import { type KeyRecord, keyState } from '../keyring/keyring.ts'
import { sha256 } from '../message/digest.ts'
import type { Relay } from '../relay.ts'
import { JwksAnswer, KeysAnswer } from './schemas.ts'

/** The published keys. Public, cacheable, and answered from memory: receivers depend on them more than on us. */
export function keyRoutes(app: FastifyInstance, relay: Relay): void {
  app.get(
    '/.well-known/jwks.json',
    {
      schema: {
        summary: 'The JWKS: next, active and retiring keys',
        tags: ['Public'],
        security: [],
        response: { 200: JwksAnswer },
      },
    },
    async ({ headers }, reply) => {
      const text = JSON.stringify(relay.keyring.jwks())
      const etag = `"${sha256(Buffer.from(text)).toString('base64url')}"`
      reply
        .header('etag', etag)
        .header('cache-control', 'public, max-age=300, stale-while-revalidate=60, stale-if-error=86400')
        .header('access-control-allow-origin', '*')
      const known = headers['if-none-match']?.split(',').some((tag) => tag.trim().replace(/^W\//, '') === etag)
      if (known) return reply.status(304 as number as 200).send()
      return reply.type('application/jwk-set+json').send(text)
    },
  )

  app.get(
    '/v1/keys',
    {
      schema: {
        summary: 'Every key ever, with its states and times',
        tags: ['Public'],
        security: [],
        response: { 200: KeysAnswer },
      },
    },
    async (_request, reply) => {
      reply.header('cache-control', 'public, max-age=300').header('access-control-allow-origin', '*')
      return { keys: relay.keys().map(showKey) }
    },
  )
}

function showKey(key: KeyRecord) {
  const times = Object.entries({
    generated_at: key.generatedAt,
    activated_at: key.activatedAt,
    retiring_at: key.retiringAt,
    retired_at: key.retiredAt,
    revoked_at: key.revokedAt,
  }).flatMap(([name, at]) => (at === null ? [] : [[name, at.toISOString()]]))
  const { x } = publicJwk(key.publicKey)
  return { kid: key.kid, purpose: key.purpose, state: keyState(key), x, ...Object.fromEntries(times) }
}
