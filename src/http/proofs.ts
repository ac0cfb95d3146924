import type { FastifyInstance, FastifyReply } from 'fastify'
import type { Static } from 'typebox'
import { RelayError } from '../errors.ts'
import { encodeBase64 } from '../log/note.ts'
import { formatProof } from '../log/tlog-proof.ts'
import { decodeBase64url } from '../message/digest.ts'
import type { Relay } from '../relay.ts'
import { preferred } from './accept.ts'
import { ConsistencyAnswer, ConsistencyQuery, InclusionAnswer, InclusionQuery, PlainText } from './schemas.ts'

/** Proofs about the log, for anyone. As text, in the forms of C2SP, they carry the signed checkpoint. */
export function proofRoutes(app: FastifyInstance, relay: Relay): void {
  app.get<{ Querystring: Static<typeof InclusionQuery> }>(
    '/v1/log/inclusion',
    describe('Prove that a leaf is in the log', InclusionQuery, InclusionAnswer),
    async (request, reply) => {
      const { query } = request
      const entry = query.entry === undefined ? undefined : parseEntry(query.entry)
      const leafIndex = query.index === undefined ? await indexOf(entry) : Number(query.index)
      const found = await relay.findInclusion(leafIndex, sizeOf(query.size))
      if (found === undefined) throw new RelayError('not_found', { detail: 'The log has not got so far.' })
      if (entry !== undefined && Buffer.compare(entry, found.entry) !== 0) {
        throw new RelayError('not_found', { detail: 'Another entry stands there.' })
      }
      const { treeSize, rootHash, proof, checkpoint } = found
      if (preferred(request, reply, types) === 'text/plain') {
        return text(reply, formatProof({ leafIndex, proof, checkpoint: signed(checkpoint) }))
      }
      return {
        leaf_index: leafIndex,
        tree_size: treeSize,
        entry: Buffer.from(found.entry).toString('base64url'),
        root_hash: encodeBase64(rootHash),
        proof: proof.map(encodeBase64),
        ...(checkpoint !== undefined && { checkpoint }),
      }
    },
  )

  app.get<{ Querystring: Static<typeof ConsistencyQuery> }>(
    '/v1/log/consistency',
    describe('Prove that the log only grew', ConsistencyQuery, ConsistencyAnswer),
    async (request, reply) => {
      const { query } = request
      const found = await relay.findConsistency(Number(query.from), sizeOf(query.to))
      if (found === undefined) throw new RelayError('not_found', { detail: 'The log has not got so far.' })
      const { fromSize, toSize, fromRoot, toRoot, proof, checkpoint } = found
      const hashes = proof.map(encodeBase64)
      if (preferred(request, reply, types) === 'text/plain') {
        // What a witness is sent to have a checkpoint cosigned (c2sp.org/tlog-witness, add-checkpoint).
        return text(reply, `${[`old ${fromSize}`, ...hashes].join('\n')}\n\n${signed(checkpoint)}`)
      }
      return {
        from: fromSize,
        to: toSize,
        from_root_hash: encodeBase64(fromRoot),
        to_root_hash: encodeBase64(toRoot),
        proof: hashes,
        ...(checkpoint !== undefined && { checkpoint }),
      }
    },
  )

  async function indexOf(entry: Uint8Array | undefined): Promise<number> {
    if (entry === undefined) throw new RelayError('request_invalid', { detail: 'Name an entry, an index, or both.' })
    const leafIndex = await relay.findLeaf(entry)
    if (leafIndex !== undefined) return leafIndex
    throw new RelayError('not_found', {
      detail: 'Not among the newest 65,536 leaves. For an older one, name its index.',
    })
  }
}

const types = ['application/json', 'text/plain'] as const

const describe = (summary: string, querystring: object, answer: object) => ({
  schema: {
    summary,
    tags: ['Log'],
    security: [],
    querystring,
    response: {
      200: {
        description: 'As the Accept header prefers.',
        content: { 'application/json': { schema: answer }, 'text/plain': { schema: PlainText } },
      },
    },
  },
})

const text = (reply: FastifyReply, body: string) => reply.type('text/plain; charset=utf-8').send(body)

function parseEntry(text: string): Uint8Array {
  const entry = decodeBase64url(text)
  if (entry?.length !== 32) throw new RelayError('request_invalid', { detail: 'An entry is 32 bytes in base64url.' })
  return entry
}

const sizeOf = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text))

function signed(checkpoint: string | undefined): string {
  if (checkpoint !== undefined) return checkpoint
  const detail = 'As text, a proof carries a checkpoint, and only that of the newest size is kept. Leave the size out.'
  throw new RelayError('request_invalid', { detail })
}
