import { Type } from 'typebox'
import { payloadDaysOffered, statementMonthsOffered } from '../log/retention.ts'

/** The shapes of requests and answers. Ajv checks requests against them and /openapi.json is made of them. */

/** PostgreSQL keeps no U+0000 in text. */
export const withoutNul = { pattern: '^[^\\u0000]*$' }
export const name = Type.String({
  ...{ minLength: 1, maxLength: 200, description: 'For people; need not be unique.' },
  ...withoutNul,
})
export const instant = Type.String({ format: 'date-time' })
export const id = (prefix: string, what: string) =>
  Type.String({
    description: `${what}, \`${prefix}_\` and 26 characters.`,
    examples: [`${prefix}_01m80h1aha8qpjns1baxnshj3d`],
  })

export const Problem = Type.Object(
  {
    type: Type.String({ description: 'A URN that ends in the code.' }),
    title: Type.String({ description: 'A sentence for people; the same for each code.' }),
    status: Type.Integer(),
    code: Type.String({ description: 'Stable: match on this.' }),
    detail: Type.Optional(Type.String()),
    offset: Type.Optional(Type.Integer({ description: 'Byte offset in the body as received, from 0.' })),
    pointer: Type.Optional(Type.String({ description: 'RFC 6901 pointer to the value refused.' })),
    request_id: Type.String({ description: 'As in `x-request-id`; the audit log has it as `sub` of the call.' }),
  },
  { description: 'RFC 9457 problem details.' },
)

export const TenantWish = Type.Object(
  { name, tier: Type.Union([Type.Literal('standard'), Type.Literal('operation')]) },
  { additionalProperties: false },
)
const oneOf = (values: readonly number[], description: string) =>
  Type.Union(
    values.map((value) => Type.Literal(value)),
    { description },
  )
const erasedLeaf = Type.Optional(
  Type.Integer({ description: 'Where the log says that the tenant was erased, if it was.' }),
)
export const TenantChange = Type.Object(
  {
    name: Type.Optional(name),
    tier: Type.Optional(TenantWish.properties.tier),
    retention: Type.Optional(
      Type.Object(
        {
          payload_days: Type.Optional(oneOf(payloadDaysOffered, 'How long payloads are kept from now on.')),
          statement_months: Type.Optional(oneOf(statementMonthsOffered, 'The same for statements and messages.')),
        },
        { additionalProperties: false, minProperties: 1 },
      ),
    ),
  },
  { additionalProperties: false, minProperties: 1 },
)
export const TenantAnswer = Type.Object({
  id: id('ten', 'The tenant'),
  name: Type.String(),
  tier: Type.String(),
  created_at: instant,
  retention: Type.Object({ payload_days: Type.Integer(), statement_months: Type.Integer() }),
  erased_at: Type.Optional(instant),
  erased_leaf: erasedLeaf,
})

const kept = Type.Object({
  days: Type.Optional(Type.Integer()),
  months: Type.Optional(Type.Integer()),
  offered: Type.Array(Type.Integer({ description: 'What a tenant may choose.' })),
  afterwards: Type.String({ description: 'What happens to it afterwards.' }),
})
export const RetentionAnswer = Type.Object({
  payloads: kept,
  statements: kept,
  deliveries: Type.String(),
  answers: Type.String(),
  idempotency_keys: Type.Object({ days: Type.Integer() }),
  for_ever: Type.Array(Type.String()),
  erasure: Type.String(),
})

export const ApiKeyWish = Type.Object(
  {
    name,
    role: Type.Union([Type.Literal('tenant'), Type.Literal('ingest'), Type.Literal('export')]),
    source: Type.Optional(Type.String({ description: 'For role `ingest`: the source it may post to.' })),
  },
  { additionalProperties: false },
)
const apiKeyFacts = {
  id: id('key', 'The API key'),
  name: Type.String(),
  role: Type.String(),
  source: Type.Optional(Type.String()),
  created_at: instant,
}
export const ApiKeyAnswer = Type.Object({ ...apiKeyFacts, revoked_at: Type.Optional(instant) })
export const ApiKeyMade = Type.Object({
  ...apiKeyFacts,
  key: Type.String({ description: 'Shown this once; only its hash is kept.' }),
})

export const Page = Type.Object(
  {
    after: Type.Optional(Type.String({ maxLength: 64, description: '`next` of the page before.' })),
    limit: Type.Optional(Type.String({ pattern: '^([1-9][0-9]{0,2}|1000)$', description: '1 to 1000, default 100.' })),
  },
  { additionalProperties: false },
)
export const pageOf = (item: ReturnType<typeof Type.Object>) =>
  Type.Object({
    data: Type.Array(item),
    next: Type.Optional(Type.String({ description: 'Pass as `after` for the next page; absent on the last.' })),
  })

const instantQuery = (what: string) => Type.Optional(Type.String({ maxLength: 40, description: `RFC 3339. ${what}` }))
const auditQuery = {
  kind: Type.Optional(Type.String({ maxLength: 64, description: 'e.g. `delivery.attempted`' })),
  actor: Type.Optional(Type.String({ maxLength: 64, description: 'The API key, `key_…`.' })),
  from: instantQuery('Stated at or after.'),
  to: instantQuery('Stated before.'),
  after: Type.Optional(Type.String({ pattern: '^(0|[1-9][0-9]{0,14})$', description: 'The index to go on behind.' })),
  limit: Page.properties.limit,
}
export const DeploymentAuditQuery = Type.Object(auditQuery, { additionalProperties: false })
export const AuditQuery = Type.Object(
  {
    ...auditQuery,
    message: Type.Optional(
      Type.String({ maxLength: 64, description: 'What was stated about this message and its deliveries.' }),
    ),
  },
  { additionalProperties: false },
)
export const AuditItem = Type.Object({
  index: Type.Integer({ description: 'Its place in the log.' }),
  entry: Type.String({ description: 'base64url SHA-256 of the statement as it stands here, byte for byte.' }),
  statement: Type.Any(),
})

export const ReceiptAnswer = Type.Object(
  {
    message: Type.Optional(id('msg', 'The message, if that is what it is about')),
    subject: Type.Optional(Type.String({ description: 'What it is about otherwise.' })),
    protected: Type.String(),
    payload: Type.String({ description: 'base64url of the statement.' }),
    signature: Type.String(),
    header: Type.Object({ 'tlog-proof': Type.String({ description: 'c2sp.org/tlog-proof@v1' }) }),
  },
  { description: 'Flattened JWS JSON. `protected.payload.signature` is a JWT.' },
)

export const MessageAnswer = Type.Object({
  id: id('msg', 'The message'),
  source: Type.String(),
  accepted_at: instant,
  leaf_index: Type.Integer({ description: 'Where in the log its statement stands.' }),
  payload: Type.Optional(Type.Any({ description: 'The canonical payload; null where it is kept no more.' })),
  payload_base64: Type.Optional(Type.String({ description: 'Instead, where the source takes exact bytes: those.' })),
  content_type: Type.Optional(Type.String({ description: 'Their media type, as the sender stated it.' })),
  payload_state: Type.String({ description: 'available, expired or erased.' }),
  erased_leaf: erasedLeaf,
})

export const VerifyWish = Type.Object(
  {
    receipt: Type.Optional(Type.Any({ description: 'A receipt as it was answered.' })),
    payload: Type.Optional(
      Type.Any({ description: 'The payload as JSON; or, as a string, the exact text that was posted or received.' }),
    ),
    payload_base64: Type.Optional(
      Type.String({ pattern: '^[A-Za-z0-9+/]*={0,2}$', description: 'Instead of `payload`: its exact bytes.' }),
    ),
    webhook: Type.Optional(
      Type.Object(
        {
          id: Type.String({ maxLength: 256, description: 'webhook-id' }),
          timestamp: Type.String({ maxLength: 32, description: 'webhook-timestamp' }),
          signature: Type.String({ maxLength: 4096, description: 'webhook-signature' }),
        },
        { additionalProperties: false },
      ),
    ),
  },
  { additionalProperties: false },
)
export const VerdictAnswer = Type.Object({
  verdict: Type.String({ description: 'valid or invalid' }),
  checks: Type.Array(Type.Object({ name: Type.String(), ok: Type.Boolean(), detail: Type.String() })),
  key: Type.Optional(Type.Object({ kid: Type.String(), state: Type.Optional(Type.String()) })),
  log: Type.Optional(
    Type.Object({
      origin: Type.String(),
      leaf_index: Type.Integer(),
      tree_size: Type.Integer(),
      root_hash: Type.String(),
      cosignatures: Type.Array(Type.Object({ witness: Type.String(), cosigned_at: instant }), {
        description: 'By the witnesses of this deployment, under the checkpoint of the receipt.',
      }),
    }),
  ),
  statement: Type.Optional(Type.Any()),
  content: Type.Optional(
    Type.String({ description: 'What became of the payload of a valid receipt: available, expired or erased.' }),
  ),
  erased_leaf: erasedLeaf,
})

export const JwksAnswer = Type.Object({
  keys: Type.Array(
    Type.Object({
      kty: Type.String(),
      crv: Type.String(),
      x: Type.String(),
      kid: Type.String(),
      use: Type.String(),
      iat: Type.Integer(),
      nbf: Type.Optional(Type.Integer()),
      exp: Type.Optional(Type.Integer()),
    }),
  ),
})

export const KeysAnswer = Type.Object({
  keys: Type.Array(
    Type.Object({
      kid: Type.String(),
      purpose: Type.String(),
      state: Type.String({ description: 'next, active, retiring, retired or revoked.' }),
      x: Type.String({ description: 'The public key, 32 bytes, base64url.' }),
      wrapping_key: Type.String(),
      generated_at: instant,
      activated_at: Type.Optional(instant),
      retiring_at: Type.Optional(instant),
      retired_at: Type.Optional(instant),
      revoked_at: Type.Optional(instant),
      revoked_reason: Type.Optional(Type.String()),
      revoked_leaf: Type.Optional(Type.Integer()),
    }),
  ),
  signed: Type.String({ description: 'A JWT of type `keys+jwt` over `{iss, iat, keys}`, by the active key.' }),
})

const purpose = Type.Union([Type.Literal('payload'), Type.Literal('log')])
export const PlanAnswer = Type.Object({
  steps: Type.Array(Type.Object({ step: Type.String(), purpose: Type.String(), kid: Type.Optional(Type.String()) })),
  next_rotation: Type.Object({ payload: instant, log: instant }),
})
export const RotationWish = Type.Object({ purpose }, { additionalProperties: false })
export const RotationAnswer = Type.Object({
  kid: Type.String({ description: 'The key that signs now.' }),
  published: Type.Boolean({
    description: 'Whether it was published before. If not, receivers must fetch the JWKS first.',
  }),
})
export const RevocationWish = Type.Object(
  {
    reason: Type.String({ minLength: 1, maxLength: 500, description: 'Published with the key.' }),
    from: Type.String({ maxLength: 40, description: 'RFC 3339. What the key signed from then on does not count.' }),
  },
  { additionalProperties: false },
)
export const RevocationAnswer = Type.Object({
  successor: Type.Optional(Type.String({ description: 'The key that signs instead, if the revoked one did.' })),
})

const decimal = (least: '0' | '1', description: string) =>
  Type.String({ pattern: least === '0' ? '^(0|[1-9][0-9]{0,14})$' : '^[1-9][0-9]{0,14}$', description })
const hashes = Type.Array(Type.String(), { description: 'base64 SHA-256 each.' })
const checkpointOfIt = Type.Optional(Type.String({ description: 'The signed note, if this is the newest size.' }))
export const InclusionQuery = Type.Object(
  {
    index: Type.Optional(decimal('0', 'The leaf.')),
    entry: Type.Optional(
      Type.String({ maxLength: 64, description: 'base64url. Alone, it is looked for among the newest 65,536 leaves.' }),
    ),
    size: Type.Optional(decimal('1', 'Leaves of the tree to prove it in; the newest if absent.')),
  },
  { additionalProperties: false },
)
export const InclusionAnswer = Type.Object({
  leaf_index: Type.Integer(),
  tree_size: Type.Integer(),
  entry: Type.String(),
  root_hash: Type.String({ description: 'base64.' }),
  proof: hashes,
  checkpoint: checkpointOfIt,
})
export const ConsistencyQuery = Type.Object(
  { from: decimal('1', 'The smaller size.'), to: Type.Optional(decimal('1', 'The newest if absent.')) },
  { additionalProperties: false },
)
export const ConsistencyAnswer = Type.Object({
  from: Type.Integer(),
  to: Type.Integer(),
  from_root_hash: Type.String(),
  to_root_hash: Type.String(),
  proof: hashes,
  checkpoint: checkpointOfIt,
})

export const StatusAnswer = Type.Object({ status: Type.String() })

export const PlainText = Type.String()
export const Octets = Type.Unsafe<Uint8Array>({ description: 'Bytes.', contentMediaType: 'application/octet-stream' })
