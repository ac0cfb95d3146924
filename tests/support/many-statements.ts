import type { Sequencer } from '../../src/log/sequencer.ts'
import { state } from '../../src/log/statement.ts'

/** Statements appended at once: as many as make a few batches. */
const underWay = 2048

/**
 * Appends statements that say nothing true, for logs that must be long: sealed, sequenced and committed as all others are.
 * `tenantOf` says whose the next one is.
 */
export async function appendStatements(
  { sequencer, issuer, now }: { sequencer: Sequencer; issuer: string; now: () => Date },
  count: number,
  tenantOf: (number: number) => string,
): Promise<void> {
  for (let first = 0; first < count; first += underWay) {
    const batch = Array.from({ length: Math.min(underWay, count - first) }, (_, i) => {
      const number = first + i
      const text = String(number).padStart(26, '0')
      const event = {
        ...{
          kind: 'delivery.attempted' as const,
          sub: `dlv_${text}`,
          tenant: tenantOf(number),
          message: `msg_${text}`,
        },
        ...{
          endpoint: `ep_${'0'.repeat(26)}`,
          attempt: 1,
          outcome: 'delivered' as const,
          status: 200,
          duration_ms: 12,
        },
      }
      return sequencer.append({ stated: state(issuer, event, now()), effects: [] })
    })
    await Promise.all(batch)
  }
}
