import { isIP } from 'node:net'
import { Readable } from 'node:stream'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { RelayError } from '../errors.ts'
import type { CallFacts } from '../log/statement.ts'
import type { Id } from '../message/id.ts'
import type { Request } from '../message/message.ts'
import type { Relay } from '../relay.ts'
import { authenticate } from './authenticate.ts'
import { writeProblem } from './problem.ts'

/** What will be stated about a call, as far as its route knows more than the request shows. */
export interface CallSoFar {
  /** Who asks: the holder of a key, or a source whose scheme vouches for a post. */
  readonly actor: string
  /** Whose it is: the caller's tenant, or the one that an administrator's call turned out to be about. */
  tenant: string | undefined
  readonly facts: CallFacts
  /** Whether a statement names this request already: then it needs none of its own. */
  stated: boolean
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Set once it is known who asks; null before, and where nobody in particular does. */
    call: CallSoFar | null
  }
}

/**
 * Every call of somebody who is known is a statement, and its answer leaves once that is committed. The exceptions: an
 * accepted post, whose `message.accepted` names the request; and what is refused because it is too much (429, 503), which
 * holds nothing, and must not become more by being stated.
 */
export function recordCalls(app: FastifyInstance, relay: Relay): void {
  app.decorateRequest('call', null)
  app.addHook('onSend', (request, reply, payload, done) => {
    const { call } = request
    const { statusCode } = reply
    if (call === null || call.stated || statusCode === 503 || statusCode === 429) return done(null, payload)
    record(call, request, reply, relay).then(
      () => done(null, payload),
      (error: unknown) => {
        if (payload instanceof Readable) payload.destroy()
        done(
          null,
          writeProblem(reply, error instanceof RelayError ? error : new RelayError('internal', { cause: error })),
        )
      },
    )
  })
}

async function record(call: CallSoFar, request: FastifyRequest, reply: FastifyReply, relay: Relay): Promise<void> {
  const { statusCode: status } = reply
  const { tenant: named } = request.params as { tenant?: string }
  // What a path names is a tenant for certain only if the call succeeded.
  const tenant = call.tenant ?? (status < 400 ? named : undefined)
  const about = { ...requested(request), actor: call.actor, status, ...call.facts }
  await relay.calls.record({ ...about, ...(tenant !== undefined && { tenant }) })
}

export const callBy = (actor: string, tenant: string | undefined): CallSoFar => ({
  ...{ actor, tenant },
  facts: {},
  stated: false,
})

/** Authenticates the request, and states it if that is refused. */
export async function identify(request: FastifyRequest, relay: Relay): Promise<void> {
  try {
    request.principal = await authenticate(request, relay.directory)
    request.call = callBy(request.principal.actor, request.principal.tenantId ?? undefined)
  } catch (error) {
    if (error instanceof RelayError && error.code === 'unauthenticated') {
      await relay.calls.recordRefusal({ ...requested(request), code: error.code })
    }
    throw error
  }
}

const requested = (request: FastifyRequest) => {
  const { id: sub, address } = requestOf(request)
  const { url: route } = request.routeOptions
  return { sub, address, method: request.method, ...(route !== undefined && { route }) }
}

/** Who asked from where: the peer, or whoever a trusted proxy says it forwards for. */
export function requestOf(request: FastifyRequest): Request {
  const peer = request.socket.remoteAddress ?? ''
  // What a proxy passes on may be any text.
  const address = isIP(request.ip) > 0 ? request.ip : peer
  return { id: request.id as Id<'req'>, address: address.replace(/^::ffff:(?=\d+\.)/, '') }
}
