import { Type } from 'typebox'
import { id, instant, name, withoutNul } from './schemas.ts'

/** The shapes of an endpoint, as it is asked for and as it is shown. */

const url = Type.String({ minLength: 1, maxLength: 2048, description: 'https; a public address unless allowed.' })
const path = Type.String({
  maxLength: 512,
  description: 'A singular JSONPath (RFC 9535) into the payload.',
  examples: ["$.data.object['id']"],
})
const scalar = Type.Union([Type.String({ maxLength: 1000, ...withoutNul }), Type.Number(), Type.Boolean(), Type.Null()])
const orNull = <T extends Parameters<typeof Type.Union>[0][number]>(type: T, absent: string) =>
  Type.Union([type, Type.Null()], { description: `null: ${absent}.` })

const Condition = Type.Object(
  {
    path,
    equals: Type.Optional(scalar),
    in: Type.Optional(Type.Array(scalar, { minItems: 1, maxItems: 100 })),
    not: Type.Optional(scalar),
    exists: Type.Optional(Type.Boolean()),
    gt: Type.Optional(Type.Number()),
    lt: Type.Optional(Type.Number()),
  },
  {
    additionalProperties: false,
    minProperties: 2,
    maxProperties: 2,
    description: 'A path and one thing to hold of the value there. `not` also holds where there is none.',
  },
)

const options = {
  events: Type.Array(Type.String({ maxLength: 200 }), {
    maxItems: 100,
    description:
      'Event types, from the payload’s top-level `type`: `*` is one segment between dots, at the end one or more. Empty: every message.',
    examples: [['invoice.*', 'customer.created']],
  }),
  filter: Type.Array(Condition, { maxItems: 20, description: 'All must hold.' }),
  timeout_ms: Type.Integer({ minimum: 1000, maximum: 60_000, description: 'For a whole attempt. Default 15000.' }),
  retry_schedule: orNull(
    Type.String({
      maxLength: 300,
      description: 'Delays between attempts, such as `5s,5m,2h`: 1 to 30, 1 s to 7 d each.',
    }),
    'that of the deployment',
  ),
  rate_limit: orNull(
    Type.Object(
      {
        per_second: Type.Number({ minimum: 0.01, maximum: 10_000 }),
        burst: Type.Integer({ minimum: 1, maximum: 10_000 }),
      },
      { additionalProperties: false },
    ),
    'unlimited',
  ),
  concurrency: orNull(Type.Integer({ minimum: 1, maximum: 1000 }), 'that of the deployment'),
  ordering: Type.Union(
    [Type.Literal('none'), Type.Literal('fifo'), Type.Object({ key: path }, { additionalProperties: false })],
    {
      description: 'fifo: each message waits for those accepted before it; with a key, only for those of equal value.',
    },
  ),
}

const signature = (what: string) => Type.Boolean({ description: `${what} Off by default.` })
const signatures = {
  rfc9421: signature('`signature-input` and `signature`, RFC 9421, by the active key.'),
  hmac: signature('`v1` (Standard Webhooks) by a `whsec_` secret of this endpoint, which is made and shown once.'),
  retiring_key: signature('A second `v1a` by the key before, while it is retiring.'),
}

const pem = (what: string) => Type.String({ minLength: 1, maxLength: 32_768, description: `PEM: ${what}` })
const TlsWish = Type.Object(
  {
    certificate: Type.Optional(pem('the client certificate, with its chain.')),
    key: Type.Optional(pem('its key, without passphrase. Never shown.')),
    ca: Type.Optional(pem('trusted instead of the system’s roots.')),
  },
  { additionalProperties: false, minProperties: 1 },
)

const settings = {
  ...Type.Partial(Type.Object(options)).properties,
  signatures: Type.Optional(Type.Partial(Type.Object(signatures), { additionalProperties: false })),
  headers: Type.Optional(
    Type.Record(Type.String(), Type.Union([Type.String({ maxLength: 4096 }), Type.Null()]), {
      maxProperties: 40,
      description:
        'Custom headers: authorization, api-key, user-agent and x-…; null removes one, and what is not named stays. Sealed; shown as `***`.',
    }),
  ),
  tls: Type.Optional(orNull(TlsWish, 'no client certificate, and the system’s roots')),
}
export const EndpointWish = Type.Object(
  { url, name: Type.Optional(name), ...settings },
  { additionalProperties: false },
)
export const EndpointChange = Type.Object(
  { url: Type.Optional(url), name: Type.Optional(name), ...settings },
  { additionalProperties: false, minProperties: 1 },
)

const shown = {
  id: id('ep', 'The endpoint'),
  tenant: Type.String(),
  name: Type.String(),
  url: Type.String(),
  created_at: instant,
  state: Type.String({ description: 'active or paused.' }),
  paused_at: Type.Optional(instant),
  paused_reason: Type.Optional(Type.String()),
  ...options,
  // As it was written; the serializer needs no more of its shape.
  filter: Type.Array(Type.Any()),
  ordering: Type.Any({ description: '"none", "fifo" or {key}.' }),
  signatures: Type.Object(signatures),
  headers: Type.Record(Type.String(), Type.String(), { description: 'Their values are not shown.' }),
  tls: Type.Union([
    Type.Object({
      certificate: Type.Union([Type.String(), Type.Null()]),
      ca: Type.Union([Type.String(), Type.Null()]),
    }),
    Type.Null(),
  ]),
}
export const EndpointAnswer = Type.Object(shown)
export const EndpointWritten = Type.Object({
  ...shown,
  secret: Type.Optional(Type.String({ description: 'The HMAC secret, if one was made. Shown this once.' })),
})

export const PauseWish = Type.Object(
  { reason: Type.String({ minLength: 1, maxLength: 500, ...withoutNul }) },
  { additionalProperties: false },
)
export const TestAnswer = Type.Object({ message: id('msg', 'The test message') })
export const SecretAnswer = Type.Object({
  secret: Type.String({ description: 'Shown this once.' }),
  previous_until: Type.String({ format: 'date-time', description: 'Until then the secret before signs beside it.' }),
})
