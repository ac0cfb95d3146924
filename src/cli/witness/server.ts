import { hash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server } from 'node:http'
import type { CosignAnswer } from '../../log/witness.ts'
import type { WitnessMemory } from './memory.ts'

/** A checkpoint with the signatures of a hundred keys, and 63 hashes, are less. */
const maxRequestBytes = 64 * 1024

/**
 * A witness over HTTP (c2sp.org/tlog-witness@v1.0.0): `POST /add-checkpoint` for the log, and
 * `GET /<hex SHA-256 of the origin>/checkpoint` for whoever watches it. Bounded in bytes, in time and in connections;
 * plain HTTP, since every answer carries its own signature.
 */
export function buildWitnessServer(memory: WitnessMemory, origin: string, tell: (line: string) => void): Server {
  const monitored = `/${hash('sha256', origin)}/checkpoint`
  const server = createServer(async (request, response) => {
    const { status, body, headers } = await reply(request).catch((error: unknown): Reply => {
      tell(`failed: ${error instanceof Error ? error.message : String(error)}`)
      return { status: 500, body: 'nothing was cosigned\n' }
    })
    response.writeHead(status, { ...commonHeaders, 'content-length': Buffer.byteLength(body), ...headers })
    response.end(body)
  })
  // A second for each is plenty; what takes longer holds a connection that somebody else may need.
  Object.assign(server, { requestTimeout: 10_000, headersTimeout: 5_000, maxConnections: 100 })
  return server

  async function reply(request: IncomingMessage): Promise<Reply> {
    switch (request.url) {
      case '/add-checkpoint': {
        if (request.method !== 'POST') return { ...methodNotAllowed, headers: { allow: 'POST' } }
        const body = await readBody(request)
        if (body === undefined) return { status: 413, body: 'request too large\n', headers: { connection: 'close' } }
        const answer = await memory.add(body)
        tell(lineOf(answer))
        return replyOf(answer)
      }
      case monitored:
        if (request.method !== 'GET') return { ...methodNotAllowed, headers: { allow: 'GET' } }
        return memory.checkpoint === undefined ? notFound : { status: 200, body: memory.checkpoint }
      default:
        return notFound
    }
  }
}

interface Reply {
  readonly status: number
  readonly body: string
  readonly headers?: Readonly<Record<string, string>>
}

const commonHeaders = { 'content-type': 'text/plain; charset=utf-8', 'x-content-type-options': 'nosniff' }
const notFound: Reply = { status: 404, body: 'not found\n' }
const methodNotAllowed: Reply = { status: 405, body: 'method not allowed\n' }

function replyOf(answer: CosignAnswer): Reply {
  switch (answer.status) {
    case 200:
      return { status: 200, body: answer.cosignature }
    case 409:
      return { status: 409, body: `${answer.treeSize}\n`, headers: { 'content-type': 'text/x.tlog.size' } }
    default:
      return { status: answer.status, body: `${answer.reason}\n` }
  }
}

function lineOf(answer: CosignAnswer): string {
  switch (answer.status) {
    case 200:
      return `cosigned at ${answer.next.treeSize} leaves`
    case 409:
      return `409 told the log that the last was at ${answer.treeSize} leaves`
    default:
      return `${answer.status} refused: ${answer.reason}`
  }
}

/** The body, or undefined if it is larger than any request need be. Rejects if it does not come whole. */
async function readBody(request: IncomingMessage): Promise<Uint8Array | undefined> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  // Not destroyed when we have read enough: there is an answer to be sent on the same socket.
  for await (const chunk of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
    bytes += chunk.length
    if (bytes > maxRequestBytes) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}
