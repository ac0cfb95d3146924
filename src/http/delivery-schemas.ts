import { Type } from 'typebox'
import { id, instant, Page } from './schemas.ts'

const ms = (what: string) => Type.Optional(Type.Integer({ minimum: 0, description: `${what}, milliseconds.` }))

const Attempt = Type.Object({
  number: Type.Integer({ description: 'From 1.' }),
  at: instant,
  outcome: Type.String({ description: 'delivered, refused or unreachable.' }),
  status: Type.Optional(Type.Integer()),
  reason: Type.Optional(
    Type.String({
      description:
        'Why it is unreachable: dns, connect, tls, timeout, reset, protocol, too_large, forbidden_address or forbidden_url.',
    }),
  ),
  duration_ms: Type.Integer(),
  phases: Type.Optional(
    Type.Object(
      {
        dns_ms: ms('Looking up the name'),
        connect_ms: ms('The TCP connection'),
        tls_ms: ms('The TLS handshake'),
        first_byte_ms: ms('From the request to the headers of the answer'),
        body_ms: ms('From there to the end of its body'),
      },
      { description: 'What it came to; the first three only where no connection was open already.' },
    ),
  ),
  response: Type.Optional(
    Type.Object(
      {
        status: Type.Optional(Type.Integer({ description: 'Where the answer began and did not end as one.' })),
        bytes: Type.Integer({ description: 'How much of its body was read. Nothing is unpacked.' }),
        sha256: Type.String({ description: 'Of that, base64url.' }),
        incomplete: Type.Optional(Type.Boolean({ description: 'It was cut off.' })),
        body: Type.Optional(Type.String({ description: 'The first 4 KiB, if the attempt failed.' })),
        body_base64: Type.Optional(Type.String({ description: 'Instead, where they are not UTF-8.' })),
      },
      { description: 'Absent where the answer had no body.' },
    ),
  ),
  leaf_index: Type.Integer({
    description: 'Where in the log its statement stands; `/v1/statements/{leaf_index}/receipt` is its receipt.',
  }),
})

export const DeliveryAnswer = Type.Object({
  id: id('dlv', 'The delivery'),
  message: id('msg', 'What is delivered'),
  endpoint: id('ep', 'Where to'),
  state: Type.String({ description: 'pending, delivered or abandoned.' }),
  next_attempt_at: Type.Optional(instant),
  replay: Type.Optional(
    Type.String({ description: 'The replay that it belongs to, or the delivery that it repeats.' }),
  ),
  attempts: Type.Array(Attempt),
})

export const DeliveryQuery = Type.Object(
  {
    ...Page.properties,
    state: Type.Union([Type.Literal('pending'), Type.Literal('delivered'), Type.Literal('abandoned')]),
    endpoint: Type.Optional(Type.String({ maxLength: 64 })),
    tenant: Type.Optional(Type.String({ maxLength: 64, description: 'For administrators: whose.' })),
  },
  { additionalProperties: false },
)

export const RedeliveryAnswer = Type.Object({ id: id('dlv', 'The new delivery') })

const time = (what: string) => Type.String({ maxLength: 40, description: `RFC 3339: messages accepted ${what}.` })

export const ReplayWish = Type.Object(
  {
    endpoint: Type.String({ maxLength: 64, description: 'Whose deliveries are made again.' }),
    source: Type.Optional(Type.String({ maxLength: 64, description: 'Only what was posted there.' })),
    from: time('from then on'),
    to: time('before'),
    outcome: Type.Optional(
      Type.Union([Type.Literal('abandoned'), Type.Literal('delivered'), Type.Literal('any')], {
        description: 'What became of them; default `abandoned`. Pending ones are never replayed.',
      }),
    ),
    rate: Type.Optional(
      Type.Integer({ minimum: 1, maximum: 1000, description: 'Deliveries a second at most; default 50.' }),
    ),
    dry_run: Type.Optional(Type.Boolean({ description: 'Only count.' })),
  },
  { additionalProperties: false },
)
/** What a dry run answers. */
export const ReplayCount = Type.Object({
  deliveries: Type.Integer({ description: 'That would be made again.' }),
  skipped: Type.Integer({ description: 'That would not, because their payload is kept no longer.' }),
})
export const ReplayAnswer = Type.Object({
  id: id('rpl', 'The replay'),
  endpoint: Type.String(),
  source: Type.Optional(Type.String()),
  from: instant,
  to: instant,
  outcome: Type.String(),
  rate: Type.Integer(),
  state: Type.String({ description: 'running, finished or cancelled.' }),
  found: Type.Integer({ description: 'When it was asked for.' }),
  replayed: Type.Integer(),
  skipped: Type.Integer({ description: 'Of which the payload is kept no longer.' }),
  requested_at: instant,
  finished_at: Type.Optional(instant),
})
