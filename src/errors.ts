/**
 * The one table of refusals. Each code is stable: vendors match on it, metrics are labelled with it, README lists it,
 * and a test asserts that README and this table agree. `status` is the HTTP status; `title` is the sentence the caller
 * reads. What went wrong inside (the `cause`) goes to the logger only.
 */
export const errorTable = {
  // Payload refusals (DESIGN.md section 2). They carry `offset` (bytes from 0) and, where there is one, `pointer`.
  payload_empty: [400, 'The request has no body. Post a JSON object or array, or whatever this source takes.'],
  payload_invalid_utf8: [400, 'The payload is not valid UTF-8.'],
  payload_byte_order_mark: [400, 'The payload starts with a byte-order mark. Send UTF-8 without one.'],
  payload_invalid_json: [400, 'The payload is not JSON as RFC 8259 defines it.'],
  payload_not_container: [422, 'The payload must be a JSON object or array at its top level.'],
  payload_duplicate_name: [422, 'An object in the payload has two members of the same name.'],
  payload_lone_surrogate: [422, 'A string in the payload holds half of a surrogate pair, which is no character.'],
  payload_unsafe_integer: [
    422,
    'An integer in the payload lies beyond ±(2^53−1) and would change value. Send it as a string.',
  ],
  payload_number_overflow: [422, 'A number in the payload is too large for an IEEE 754 double.'],
  payload_number_underflow: [422, 'A number in the payload is not zero, yet too small for an IEEE 754 double.'],
  payload_too_deep: [422, 'The payload nests deeper than the limit.'],
  payload_too_large: [413, 'The request body is larger than the limit.'],

  // Requests
  request_invalid: [400, 'The request does not match what this route takes.'],
  request_timeout: [408, 'The request did not arrive in time.'],
  headers_too_large: [431, 'The request headers are larger than the limit.'],
  media_type_unsupported: [
    415,
    'This takes application/json, or what the source is set to take, without content encoding.',
  ],
  unauthenticated: [401, 'Send a valid API key as "Authorization: Bearer cs_…", or what this source is set to take.'],
  forbidden: [403, 'This API key may not do that.'],
  not_found: [404, 'There is no such thing here, or this API key may not see it.'],
  tenant_erased: [410, 'This tenant was erased, and nothing of it can be read. Receipts issued before still verify.'],
  statement_expired: [410, 'This is older than what is kept. Receipts issued before still verify.'],
  method_not_allowed: [405, 'This route does not take that method.'],
  tier_required: [403, 'Audit-log export needs the Operation tier.'],
  idempotency_key_invalid: [400, 'An Idempotency-Key is 1 to 255 visible ASCII characters.'],
  idempotency_key_reused: [422, 'This Idempotency-Key was used before with another payload.'],
  source_unconfigured: [403, 'This source has no secret yet to check posts by, so it takes none.'],
  rate_limited: [429, 'This source takes no more for now. Try again after the time in Retry-After.'],
  key_revoked: [409, 'This key is revoked already. A revocation cannot be changed.'],
  endpoint_url_invalid: [422, 'The endpoint URL cannot be used.'],
  endpoint_address_forbidden: [422, 'The endpoint URL leads to an address this relay does not deliver to.'],
  endpoint_option_invalid: [422, 'An option of the endpoint cannot be used.'],
  endpoint_limit_reached: [409, 'This tenant has as many endpoints as it may. Delete one first.'],
  export_limit_reached: [409, 'This tenant has as many exports as it may. Delete one first.'],
  export_unfinished: [409, 'The export is not finished, or has failed. Its state says which.'],
  range_unsatisfiable: [416, 'The file has no bytes in the range asked for.'],
  endpoint_changed: [409, 'The endpoint was changed at the same time. Read it again and repeat the change.'],
  delivery_not_replayable: [409, 'This delivery cannot be made again.'],

  // The relay itself
  overloaded: [503, 'The relay has more work than it can hold. Try again after the time in Retry-After.'],
  shutting_down: [503, 'The relay is shutting down. Try again after the time in Retry-After.'],
  storage_unavailable: [503, 'The relay cannot reach its database. Nothing was acknowledged; try again.'],
  outcome_unknown: [
    503,
    'The database was lost while the message was being committed. Try again with the same Idempotency-Key.',
  ],
  internal: [500, 'Something failed inside the relay. Nothing was acknowledged.'],
} as const satisfies Record<string, readonly [status: number, title: string]>

export type ErrorCode = keyof typeof errorTable

/** What a caller may read beside the code: where in the payload, how long to wait. No internals. */
export interface ErrorDetails {
  /** One sentence more, safe for the caller to read. */
  detail?: string
  /** Byte offset into the body as received, from 0. */
  offset?: number
  /** RFC 6901 pointer to the value that was refused. */
  pointer?: string
  /** Seconds, for Retry-After. */
  retryAfterS?: number
}

/** What an operator can mend, at start or by command: the message is the whole story, so it is shown without a trace. */
export class OperatorError extends Error {
  override readonly name: string = 'OperatorError'
}

/** A refusal from the table. Thrown where the reason is known, turned into problem+json once, at the edge. */
export class RelayError extends Error {
  readonly code: ErrorCode
  readonly details: ErrorDetails

  constructor(code: ErrorCode, details: ErrorDetails & { cause?: unknown } = {}) {
    const { cause, ...visible } = details
    super(`${code}: ${visible.detail ?? errorTable[code][1]}`, { cause })
    this.name = 'RelayError'
    this.code = code
    this.details = visible
  }

  get status(): number {
    return errorTable[this.code][0]
  }

  get title(): string {
    return errorTable[this.code][1]
  }
}
