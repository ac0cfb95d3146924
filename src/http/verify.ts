import type { FastifyInstance } from 'fastify'
import type { Static } from 'typebox'
import { RelayError } from '../errors.ts'
import type { CallFacts } from '../log/statement.ts'
import { canonicalizePayload } from '../message/canonical.ts'
import type { JsonValue } from '../message/json.ts'
import { DatabaseUnavailable } from '../ports/database.ts'
import { describeLog, type Evidence, type Verdict } from '../receipt/verify.ts'
import type { Relay } from '../relay.ts'
import { erasedLeaf } from './messages.ts'
import { VerdictAnswer, VerifyWish } from './schemas.ts'

/** Public: anyone may ask whether a receipt or a webhook signature holds. Answers 200 whatever the verdict is. */
export function verifyRoutes(app: FastifyInstance, relay: Relay): void {
  app.post<{ Body: Static<typeof VerifyWish> }>(
    '/v1/verify',
    {
      schema: {
        summary: 'Verify a receipt, a payload against it, or a webhook signature',
        tags: ['Public'],
        security: [],
        body: VerifyWish,
        response: { 200: VerdictAnswer },
      },
    },
    async ({ body, call }) => {
      const { receipt, webhook } = body as { receipt?: JsonValue; webhook?: Evidence['webhook'] }
      if (receipt === undefined && webhook === undefined) {
        throw new RelayError('request_invalid', { detail: 'Send a receipt, a webhook, or both.' })
      }
      const evidence: Evidence = {
        ...(receipt !== undefined && { receipt }),
        ...payloadOf(body as { payload?: JsonValue; payload_base64?: string }),
        ...(webhook !== undefined && { webhook }),
      }
      const { log, ...verdict } = await relay.verify(evidence)
      if (call !== null) Object.assign(call.facts, factsOf(verdict))
      const answer = { ...verdict, ...(await contentOf(verdict)) }
      return log === undefined ? answer : { ...answer, log: describeLog(log) }
    },
  )

  /** What became of the payload that a valid receipt is about. Unsaid where the database cannot be asked: the verdict
   *  does not hang on it. */
  async function contentOf({ verdict, statement }: Pick<Verdict, 'verdict' | 'statement'>): Promise<object> {
    if (verdict !== 'valid' || statement?.kind !== 'message.accepted') return {}
    const fate = await relay.archive.fateOf(String(statement.tenant), String(statement.sub)).catch((error: unknown) => {
      if (error instanceof DatabaseUnavailable) return undefined
      throw error
    })
    return fate === undefined ? {} : { content: fate.state, ...erasedLeaf(fate) }
  }
}

/** What the audit log keeps of a verification that a holder of a key asked for. */
const factsOf = ({ verdict, statement }: Pick<Verdict, 'verdict' | 'statement'>): CallFacts =>
  typeof statement?.sub === 'string' ? { verdict, about: statement.sub } : { verdict }

function payloadOf(body: { payload?: JsonValue; payload_base64?: string }): Pick<Evidence, 'payload'> {
  if (body.payload !== undefined && body.payload_base64 !== undefined) {
    throw new RelayError('request_invalid', { detail: 'Send the payload once.' })
  }
  if (body.payload_base64 !== undefined) return { payload: Buffer.from(body.payload_base64, 'base64') }
  return body.payload === undefined ? {} : { payload: payloadBytes(body.payload) }
}

/** A string is the exact text of the payload; anything else is the payload itself, in whatever spelling it came. */
const payloadBytes = (payload: JsonValue): Uint8Array =>
  typeof payload === 'string' ? Buffer.from(payload) : canonicalizePayload(payload)
