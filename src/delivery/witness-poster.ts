import type { PostToWitness } from '../log/witnesses.ts'
import type { Clock } from '../ports/clock.ts'
import { OutboundClient } from './client.ts'
import { EgressGuard } from './guard.ts'

/** For one request to a witness, the answer included. A checkpoint waits for two of them at most. */
const timeoutMs = 2000

/** Signature lines of a hundred keys are less. */
const maxResponseBytes = 16 * 1024

/**
 * Posts to witnesses by the one outbound client (DESIGN.md rule 7), whose deadline, cap and refusal of redirects hold
 * here as well. Its guard does not forbid any range: these URLs are written by the operator, like that of the database,
 * and by nobody else; and a witness in a private network must not take an EGRESS_ALLOW that opens it to every tenant.
 */
export function openWitnessPoster(clock: Clock): { post: PostToWitness; close: () => Promise<void> } {
  const guard = new EgressGuard({ allow: ['0.0.0.0/0', '::/0'], allowHttp: true, ownAddresses: [] })
  const client = new OutboundClient({ guard, clock, timeoutMs, connectTimeoutMs: timeoutMs, maxResponseBytes })
  return {
    async post(url, request) {
      const chunks: Uint8Array[] = []
      const onData = (chunk: Uint8Array) => void chunks.push(Buffer.from(chunk))
      const outcome = await client.post(url, { 'content-type': 'text/plain; charset=utf-8' }, request, { onData })
      return outcome.kind === 'unreachable'
        ? { kind: 'unreachable', reason: outcome.reason }
        : { kind: 'answered', status: outcome.status, body: Buffer.concat(chunks) }
    },
    close: () => client.close(0),
  }
}
