import { STATUS_CODES } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import { type ErrorCode, RelayError } from '../errors.ts'
import { DatabaseUnavailable } from '../ports/database.ts'
import type { Logger } from '../ports/logger.ts'
import type { Observer } from '../ports/observer.ts'

/** Answers an error as application/problem+json (RFC 9457). The one place where errors become answers. */
export function problemHandler(logger: Logger, observer: Observer) {
  return (error: FastifyError | Error, request: FastifyRequest, reply: FastifyReply): void => {
    const refusal = error instanceof RelayError ? error : translate(error)
    if (refusal.status >= 500 && refusal.code !== 'overloaded' && refusal.code !== 'shutting_down') {
      const { method, routeOptions } = request
      logger.error({ err: error, method, route: routeOptions.url, code: refusal.code }, 'request.failed')
    }
    observer.refused(refusal.code)
    if (request.call) request.call.facts.code = refusal.code
    reply.send(writeProblem(reply, refusal))
  }
}

/** Makes the reply a problem, but for its body, which is returned. */
export function writeProblem(reply: FastifyReply, refusal: RelayError): string {
  const { retryAfterS, ...where } = refusal.details
  if (retryAfterS !== undefined) reply.header('retry-after', String(retryAfterS))
  if (refusal.status === 401) reply.header('www-authenticate', 'Bearer realm="countersign"')
  // A body we did not read to its end would be taken for the next request.
  if (refusal.status === 413) reply.header('connection', 'close')
  reply.code(refusal.status).type(problemMediaType)
  return JSON.stringify(problemOf(refusal, { ...where, request_id: reply.request.id }))
}

/**
 * Answers what llhttp refuses: bytes that are no request, or whose end is in doubt (RFC 9112 §6.3), headers too large,
 * a request too slow. There is no request to answer through, and whatever follows on this connection is not to be read.
 */
export function connectionRefuser(observer: Observer, newId: () => string) {
  return (error: Error & { code?: string }, socket: Socket): void => {
    const refusal = new RelayError(connectionRefusals[error.code ?? ''] ?? 'request_invalid', { cause: error })
    if (socket.writable && error.code !== 'ECONNRESET') {
      observer.refused(refusal.code)
      const id = newId()
      const body = JSON.stringify(problemOf(refusal, { request_id: id }))
      const head = [
        `HTTP/1.1 ${refusal.status} ${STATUS_CODES[refusal.status]}`,
        `content-type: ${problemMediaType}`,
        `content-length: ${Buffer.byteLength(body)}`,
        `x-request-id: ${id}`,
        'connection: close',
      ]
      socket.write(`${head.join('\r\n')}\r\n\r\n${body}`)
    }
    socket.destroySoon()
  }
}

const connectionRefusals: Record<string, ErrorCode> = {
  HPE_HEADER_OVERFLOW: 'headers_too_large',
  ERR_HTTP_REQUEST_TIMEOUT: 'request_timeout',
}

export const problemMediaType = 'application/problem+json'

const problemOf = ({ code, title, status }: RelayError, where: object) => ({
  ...{ type: `urn:countersign:problem:${code}`, title, status, code },
  ...where,
})

/** What Fastify refuses by itself, in our words. Whatever else arrives here is a fault of ours. */
function translate(error: FastifyError | Error): RelayError {
  if ('validation' in error && error.validation !== undefined) {
    const [first] = error.validation
    const where = error.validationContext === 'body' ? 'body' : `${error.validationContext}`
    const pointer = first?.instancePath ?? ''
    const params = first?.params as { additionalProperty?: string; allowedValues?: unknown[] } | undefined
    const named = params?.additionalProperty === undefined ? '' : `: "${params.additionalProperty.slice(0, 64)}"`
    const allowed = params?.allowedValues === undefined ? '' : `: ${params.allowedValues.join(', ')}`
    const detail = `${where}${pointer} ${first?.message ?? 'is not of the form expected'}${named}${allowed}`
    return new RelayError('request_invalid', where === 'body' ? { detail, pointer } : { detail })
  }
  if (error instanceof DatabaseUnavailable)
    return new RelayError('storage_unavailable', { cause: error, retryAfterS: 1 })
  const code = 'code' in error && typeof error.code === 'string' ? translations[error.code] : undefined
  if (code !== undefined) return new RelayError(code, { cause: error })
  const status = 'statusCode' in error ? error.statusCode : undefined
  if (status !== undefined && status >= 400 && status < 500) return new RelayError('request_invalid', { cause: error })
  return new RelayError('internal', { cause: error })
}

const translations: Record<string, ErrorCode> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'payload_too_large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'media_type_unsupported',
  FST_ERR_CTP_EMPTY_TYPE: 'media_type_unsupported',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'request_invalid',
  FST_ERR_BAD_URL: 'not_found',
  FST_ERR_MAX_PARAM_LENGTH: 'not_found',
}
