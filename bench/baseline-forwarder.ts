/**
 * Baseline: the plain forwarder, a process of its own. Fastify parses, undici forwards, the receiver's answer decides
 * ours. No log, no signature, no database: what is left of a relay when it promises nothing.
 */
import type { AddressInfo } from 'node:net'
import fastify from 'fastify'
import { Pool } from 'undici'
import { offer } from './helper-process.ts'

const questions = {
  /** Resolves with the URL to post to. */
  async listen(options: { receiverUrl: string }): Promise<string> {
    const { origin, pathname } = new URL(options.receiverUrl)
    const receiver = new Pool(origin, { connections: 64, pipelining: 1 })
    const app = fastify({ logger: false })
    app.post('/messages', async function forward(request, reply) {
      const answer = await receiver.request({
        ...{ path: pathname, method: 'POST', headers: { 'content-type': 'application/json' } },
        body: JSON.stringify(request.body),
      })
      await answer.body.dump()
      return reply.code(answer.statusCode === 204 ? 202 : 502).send({ forwarded: true })
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}/messages`
  },
}

export type ForwarderQuestions = typeof questions
offer(questions)
