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
  leaf_index: Type.Integer({ description: 'Where in the log the statement of the attempt stands.' }),
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
