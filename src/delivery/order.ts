import { canonicalJson } from '../message/canonical.ts'
import { sha256 } from '../message/digest.ts'
import type { JsonValue } from '../message/json.ts'
import { parseJsonPath, valueAt } from '../message/json-path.ts'
import type { Transaction } from '../ports/database.ts'
import type { Endpoint } from '../tenant/records.ts'
import { wakeBacklogs } from './claim-store.ts'
import { passTurns } from './store.ts'

/**
 * What deliveries of an endpoint that keeps an order must share to wait for each other; null if it keeps none. The value
 * at the key is hashed, with the endpoint: the queue shows which deliveries share one, and not what it says. (Whoever can
 * read the queue could still try out likely values.)
 */
export function orderKeyOf({ id, options: { ordering } }: Endpoint, value: JsonValue | undefined): string | null {
  if (ordering.kind === 'none') return null
  if (ordering.key === null) return 'all'
  const found = valueAt(value, parseJsonPath(ordering.key))
  if (found === undefined) return 'none'
  return sha256(Buffer.concat([Buffer.from(`${id}\0`), canonicalJson({ found })])).toString('base64url')
}

/** A delivery that has come to its end, and whose order, if it kept one, goes on without it. */
export interface Settled {
  readonly tenantId: string
  readonly endpointId: string
  readonly orderKey: string | null
}

/** What keeps an order is followed by the next of it, and only now: the other is settled in the same transaction. */
export function letNextFollow(tx: Transaction, settled: readonly Settled[], now: Date): void {
  const turns = settled.flatMap(({ endpointId, tenantId, orderKey }) =>
    orderKey === null ? [] : [{ endpointId, tenantId, orderKey }],
  )
  if (turns.length === 0) return
  passTurns(tx, turns)
  wakeBacklogs(tx, turns, now)
}
