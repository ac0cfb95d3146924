import type { FastifyReply, FastifyRequest } from 'fastify'

/** Which of the media types offered a request wants (RFC 9110 §12.5.1); the first if it does not say, or wants another. */
export function preferred<T extends string>(
  request: FastifyRequest,
  reply: FastifyReply,
  offered: readonly [T, ...T[]],
): T {
  reply.header('vary', 'accept')
  const wishes = (request.headers.accept ?? '').split(',', mostWishes).map((wish) => {
    const [type = '', ...params] = wish.split(';').map((part) => part.trim().toLowerCase())
    const q = params.find((param) => param.startsWith('q='))?.slice(2)
    return { type, weight: q === undefined ? 1 : Number(q) || 0 }
  })
  const weightOf = (type: T) => wishes.find((wish) => wish.type === type)?.weight ?? 0
  return offered.reduce((best, type) => (weightOf(type) > weightOf(best) ? type : best))
}

/** Ranges looked at. */
const mostWishes = 20
