/**
 * The receiver, a process of its own: takes webhooks, notes when each post arrived and how often, answers 204. It keeps
 * an even sample of whole requests, which are verified once the load is over so that verifying distorts nothing.
 */
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { offer } from './helper-process.ts'
import { Column, clockMs, Sample } from './ledger.ts'
import { postOf } from './payloads.ts'

/** One webhook as it arrived. */
export interface Webhook {
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

const sampled = 64

let delayMs = 0
let deliveries = 0
const counts = new Column()
const lastMs = new Column()
let sample = new Sample<Webhook>(sampled)

const server = createServer({ keepAliveTimeout: 600_000 }, function receive(request, response) {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', function arrived() {
    const post = postOf(chunks[0] ?? Buffer.alloc(0))
    counts.set(post, counts.get(post) + 1)
    lastMs.set(post, clockMs())
    deliveries++
    if (sample.wants(post)) sample.keep(post, { headers: request.headers, body: Buffer.concat(chunks) })
    if (delayMs === 0) response.writeHead(204).end()
    else setTimeout(() => response.writeHead(204).end(), delayMs)
  })
})

const questions = {
  /** Resolves with the port. Answers wait for `delayMs`. */
  async listen(options: { delayMs: number }): Promise<number> {
    delayMs = options.delayMs
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', 4096, resolve))
    return (server.address() as AddressInfo).port
  },
  /** Requests so far, all posts together. */
  deliveries: () => deliveries,
  /** By post, from `from` on: how often it arrived, and when it did last (clockMs). */
  arrivals: (from: number) => ({ counts: counts.slice(from), lastMs: lastMs.slice(from) }),
  /** The sample since the last call. */
  sample(): [post: number, webhook: Webhook][] {
    const items = sample.items()
    sample = new Sample(sampled)
    return items
  },
}

export type ReceiverQuestions = typeof questions
offer(questions)
