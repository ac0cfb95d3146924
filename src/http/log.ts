import type { FastifyInstance, FastifyReply } from 'fastify'
import { RelayError } from '../errors.ts'
import { encodeBundle, parseTilePath } from '../log/tile.ts'
import type { Relay } from '../relay.ts'
import { Octets, PlainText } from './schemas.ts'

/** The log as C2SP tlog-tiles serves it: any tile-based log client can read, check and mirror it. Public. */
export function logRoutes(app: FastifyInstance, relay: Relay): void {
  const describe = (summary: string, answer: object, mediaType: string) => ({
    schema: { summary, tags: ['Log'], security: [], produces: [mediaType], response: { 200: answer } },
  })
  const plain = (reply: FastifyReply, cache: string) =>
    reply.type('text/plain; charset=utf-8').header('cache-control', cache).header('access-control-allow-origin', '*')

  app.get(
    '/log/checkpoint',
    describe('The newest signed checkpoint, cosigned where the deployment has witnesses', PlainText, 'text/plain'),
    async (_request, reply) => plain(reply, 'no-cache').send(await relay.publishedCheckpoint()),
  )

  app.get(
    '/log/vkey',
    describe('The verifier keys of the log, one a line', PlainText, 'text/plain'),
    async (_request, reply) => plain(reply, 'public, max-age=300').send(`${relay.vkeys.join('\n')}\n`),
  )

  app.get<{ Params: { '*': string } }>(
    '/log/tile/*',
    describe('A tile of hashes, or a bundle of entries', Octets, 'application/octet-stream'),
    async ({ params }, reply) => {
      const address = parseTilePath(`tile/${params['*']}`)
      const bytes = address && (await find(address))
      // Clients fall back from a partial tile to the full one on 404 and on nothing else (c2sp.org/tlog-tiles).
      if (bytes === undefined) throw new RelayError('not_found')
      return reply
        .type('application/octet-stream')
        .header('cache-control', 'public, max-age=31536000, immutable')
        .header('access-control-allow-origin', '*')
        .send(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    },
  )

  async function find({
    level,
    index,
    width,
  }: NonNullable<ReturnType<typeof parseTilePath>>): Promise<Uint8Array | undefined> {
    if (level !== 'entries') return relay.tile(level, index, width)
    const entries = await relay.entries(index, width)
    return entries && encodeBundle(entries)
  }
}
