import { RelayError } from '../errors.ts'
import { parseJsonPath } from '../message/json-path.ts'
import type { EndpointOptions, Ordering } from '../tenant/records.ts'
import { formatSchedule } from './schedule.ts'
import { compileCondition, parseEventGlob } from './subscription.ts'

/** Throws `endpoint_option_invalid`, with a pointer to the option. Ranges and counts are the schema's to check. */
export function checkOptions({ events, filter, ordering }: EndpointOptions): void {
  for (const [i, pattern] of events.entries()) refusing(`/events/${i}`, () => parseEventGlob(pattern))
  for (const [i, condition] of filter.entries()) refusing(`/filter/${i}/path`, () => compileCondition(condition))
  if (ordering.kind === 'fifo' && ordering.key !== null) {
    const { key } = ordering
    refusing('/ordering/key', () => parseJsonPath(key))
  }
}

/** A parser's own sentence, with the option it is about. */
export function refusing<T>(pointer: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    const { message } = error
    throw new RelayError('endpoint_option_invalid', {
      detail: `${message[0]?.toUpperCase()}${message.slice(1)}.`,
      pointer,
    })
  }
}

/** Options as the API takes and shows them, and as statements keep them. */
export const describeOptions = (options: EndpointOptions) => ({
  events: options.events,
  filter: options.filter,
  timeout_ms: options.timeoutMs,
  retry_schedule: options.schedule && formatSchedule(options.schedule),
  rate_limit: options.rateLimit && { per_second: options.rateLimit.perSecond, burst: options.rateLimit.burst },
  concurrency: options.concurrency,
  ordering: describeOrdering(options.ordering),
  signatures: {
    rfc9421: options.signatures.rfc9421,
    hmac: options.signatures.hmac,
    retiring_key: options.signatures.retiringKey,
  },
})

const describeOrdering = (ordering: Ordering) =>
  ordering.kind === 'fifo' && ordering.key !== null ? { key: ordering.key } : ordering.kind
