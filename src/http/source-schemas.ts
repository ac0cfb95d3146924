import { Type } from 'typebox'
import { id, instant, name } from './schemas.ts'

/** The shapes of sources: what they take and from whom. Which members go together, `settle` decides. */

const oneOf = <const Names extends readonly string[]>(...names: Names) =>
  Type.Unsafe<Names[number]>({ type: 'string', enum: names })
const nullable = <T>(schema: object) => Type.Unsafe<T | null>({ anyOf: [schema, { type: 'null' }] })

const headerName = Type.String({ pattern: "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$", description: 'The name of a header.' })
/** Printable, so that what was meant is what is compared; long enough that its hint gives nothing away. */
const secret = Type.String({
  minLength: 16,
  maxLength: 256,
  pattern: '^[^\\u0000-\\u001f\\u007f]*$',
  description: 'Kept sealed, shown never again.',
})

const scheme = oneOf(
  ...(['api_key', 'url', 'basic', 'standard-webhooks', 'github', 'stripe', 'shopify', 'slack', 'hmac'] as const),
)
const form = {
  user: Type.Optional(
    Type.String({
      pattern: '^[^:\\u0000-\\u001f\\u007f]{1,128}$',
      description: 'For `basic`; the secrets are its passwords.',
    }),
  ),
  header: Type.Optional(headerName),
  algorithm: Type.Optional(oneOf('sha256', 'sha512')),
  encoding: Type.Optional(oneOf('hex', 'base64', 'base64url')),
  prefix: Type.Optional(
    Type.String({ maxLength: 64, pattern: '^[ -~]*$', description: 'Stands before the MAC, e.g. `sha256=`.' }),
  ),
  timestamp_header: Type.Optional(headerName),
  template: Type.Optional(
    Type.String({
      minLength: 6,
      maxLength: 256,
      pattern: '^[ -~]*$',
      description: 'What is signed: `{body}`, and `{timestamp}` for the text of `timestamp_header`.',
    }),
  ),
}

const settings = {
  allow: Type.Array(Type.String({ maxLength: 64 }), {
    maxItems: 100,
    description: 'CIDRs that posts may come from; empty: from anywhere.',
  }),
  replay_window_s: Type.Integer({
    minimum: 1,
    maximum: 86_400,
    description: 'How far a signed timestamp may be from now, default 300.',
  }),
  canonicalization: Type.Unsafe<'jcs' | 'none'>({
    type: 'string',
    enum: ['jcs', 'none'],
    description: '`jcs`: JSON, canonical (RFC 8785). `none`: any media type, signed and forwarded byte for byte.',
  }),
}
const rateLimit = Type.Object(
  {
    per_second: Type.Number({ minimum: 0.001, maximum: 100_000 }),
    burst: Type.Integer({ minimum: 1, maximum: 100_000 }),
  },
  { additionalProperties: false, description: 'For each process of the relay; 429 beyond.' },
)

const wishes = {
  authentication: Type.Optional(
    Type.Object(
      {
        scheme,
        secrets: Type.Optional(
          Type.Array(secret, { maxItems: 2, description: 'Newest first. Replace all there were.' }),
        ),
        add_secret: Type.Optional({ ...secret, description: 'The newest; the one before it counts on.' }),
        ...form,
      },
      { additionalProperties: false },
    ),
  ),
  allow: Type.Optional(settings.allow),
  replay_window_s: Type.Optional(settings.replay_window_s),
  canonicalization: Type.Optional(settings.canonicalization),
  rate_limit: Type.Optional(nullable<{ per_second: number; burst: number }>(rateLimit)),
  idempotency_header: Type.Optional(nullable<string>(headerName)),
}

export const SourceWish = Type.Object({ name, ...wishes }, { additionalProperties: false })
export const SourceChange = Type.Object(
  { name: Type.Optional(name), ...wishes },
  { additionalProperties: false, minProperties: 1 },
)

export const SourceAnswer = Type.Object({
  id: id('src', 'The source'),
  tenant: Type.String(),
  name,
  messages_url: Type.String({ description: 'Where the vendor posts.' }),
  authentication: Type.Object({
    scheme,
    secret_hints: Type.Optional(Type.Array(Type.String(), { description: 'The ends of its secrets, newest first.' })),
    ...form,
  }),
  ...settings,
  rate_limit: Type.Optional(rateLimit),
  idempotency_header: Type.Optional(headerName),
  created_at: instant,
})

export const IngestUrlAnswer = Type.Object({ id: id('url', 'The ingest URL'), created_at: instant })
export const IngestUrlMade = Type.Object({
  id: id('url', 'The ingest URL'),
  url: Type.String({ description: 'Shown this once; only the hash of its token is kept.' }),
  created_at: instant,
})
