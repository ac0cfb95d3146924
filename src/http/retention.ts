import type { FastifyInstance } from 'fastify'
import { leastRetention, payloadDaysOffered, statementMonthsOffered } from '../log/retention.ts'
import { idempotencyDays } from '../message/store.ts'
import { RetentionAnswer } from './schemas.ts'

/** The retention policy, for anyone to read. It is what log/retention.ts does, not a text beside it. */
export function retentionRoutes(app: FastifyInstance): void {
  app.get(
    '/v1/retention',
    {
      schema: {
        summary: 'What is kept for how long, and what for ever',
        tags: ['Public'],
        security: [],
        response: { 200: RetentionAnswer },
      },
    },
    async (_request, reply) => reply.header('access-control-allow-origin', '*').send(policy),
  )
}

const policy = {
  payloads: {
    days: leastRetention.payloadDays,
    offered: [...payloadDaysOffered],
    afterwards: 'Not shown any more, and dropped with the month in which they expire.',
  },
  statements: {
    months: leastRetention.statementMonths,
    offered: [...statementMonthsOffered],
    afterwards:
      'Not shown any more, with the messages they accepted, and dropped with the month in which they expire; at most the ' +
      'months of the newest 256 leaves wait until their bundle of entries is full.',
  },
  deliveries: 'What became of the deliveries of a message, and each of their attempts, goes with its message.',
  answers: 'How a receiver answered an attempt that failed is kept as long as a payload, counted from the attempt.',
  idempotency_keys: { days: idempotencyDays },
  for_ever: [
    'entries: the SHA-256 of each statement, which its 16 random bytes make say nothing',
    'tiles and checkpoints',
    'public keys and their history',
    'what replays of ranges were asked for, and how many deliveries they made',
    'the identifiers of tenants, and the leaf that says that one was erased',
  ],
  erasure: 'The data key of the tenant is destroyed: what it sealed cannot be read from that moment on.',
}
