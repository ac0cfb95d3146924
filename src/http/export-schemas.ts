import { Type } from 'typebox'
import { id, instant } from './schemas.ts'

const time = (description: string) => Type.Optional(Type.String({ maxLength: 40, description }))

export const ExportWish = Type.Object(
  {
    from: time('RFC 3339, to the second: statements made then or later. Absent: from the first that is kept.'),
    to: time('RFC 3339, to the second: statements made before then. Absent: up to the request.'),
    kinds: Type.Optional(
      Type.Array(Type.String({ pattern: '^[a-z_]+\\.[a-z_]+$', maxLength: 64 }), {
        ...{ minItems: 1, maxItems: 50, uniqueItems: true },
        description: 'Kinds of statements to show. Of the others the entries are there, so that none can be left out.',
      }),
    ),
    compression: Type.Optional(
      Type.Union([Type.Literal('zstd'), Type.Literal('gzip')], { description: 'zstd by default.' }),
    ),
  },
  { additionalProperties: false },
)

export const ExportAnswer = Type.Object({
  id: id('exp', 'The export'),
  state: Type.String({ description: 'pending, running, done or failed.' }),
  reason: Type.Optional(Type.String({ description: 'Why it failed: `leaves_expired` or `internal`.' })),
  from: Type.Optional(Type.String()),
  to: Type.Optional(Type.String()),
  kinds: Type.Optional(Type.Array(Type.String())),
  compression: Type.String(),
  requested_at: instant,
  finished_at: Type.Optional(instant),
  statements: Type.Optional(
    Type.Object(
      { done: Type.Integer(), total: Type.Integer() },
      { description: 'Leaves of the tenant that are written, and that will be; absent before it begins.' },
    ),
  ),
  bytes: Type.Integer({ description: 'The length of the file so far.' }),
  sha256: Type.Optional(
    Type.String({ description: 'Of the file, base64url; also its ETag, and in `export.finished`.' }),
  ),
})
