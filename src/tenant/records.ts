import type { Canonicalization } from '../message/message.ts'

/** What exists of tenants, as rows and as answers: the shapes are the same on purpose. */

import type { Retention } from '../log/retention.ts'

export type Tier = 'standard' | 'operation'

export interface Tenant {
  readonly id: string
  readonly name: string
  readonly tier: Tier
  readonly createdAt: Date
  /** How long what is written for it is kept. */
  readonly retention: Retention
  /** When everything of it was made unreadable, and the leaf that says so. */
  readonly erasure: { readonly at: Date; readonly leafIndex: number } | null
}

/** A tenant's inbound address that one vendor posts to. */
export interface Source {
  readonly id: string
  readonly tenantId: string
  readonly name: string
  readonly settings: SourceSettings
  /** The secrets of its scheme, sealed with the tenant's data key; null without any. */
  readonly sealedSecrets: Uint8Array | null
  readonly createdAt: Date
}

/** What a source takes and from whom: kept, stated and shown in the very form the tenant writes. */
export interface SourceSettings {
  readonly authentication: Authentication
  /** CIDRs; none means any address. */
  readonly allow: readonly string[]
  /** How far, in seconds, a signed timestamp may be from now. */
  readonly replay_window_s: number
  readonly rate_limit?: { readonly per_second: number; readonly burst: number }
  readonly canonicalization: Canonicalization
  /** Where the vendor names what it posts, if not in Idempotency-Key. Lower case. */
  readonly idempotency_header?: string
}

/** Who vouches for a post. A scheme with secrets takes nothing until it has one; hints are the ends of them. */
export type Authentication =
  /** An ingest key of the source, or an ingest URL that is secret by itself. */
  | { readonly scheme: 'api_key' | 'url' }
  | { readonly scheme: 'basic'; readonly user: string; readonly secret_hints: readonly string[] }
  | { readonly scheme: ProviderScheme; readonly secret_hints: readonly string[] }
  | HmacAuthentication

/** Signatures whose form the provider has fixed. */
export type ProviderScheme = 'standard-webhooks' | 'github' | 'stripe' | 'shopify' | 'slack'

/** An HMAC in a header of the vendor's own: `prefix` and then the MAC of `template`. */
export interface HmacAuthentication {
  readonly scheme: 'hmac'
  readonly header: string
  readonly algorithm: 'sha256' | 'sha512'
  /** base64url is without padding. */
  readonly encoding: 'hex' | 'base64' | 'base64url'
  readonly prefix: string
  /** Where unix seconds stand, or milliseconds. */
  readonly timestamp_header?: string
  /** What is signed, with `{body}` for the bytes posted and `{timestamp}` for the header's text. */
  readonly template: string
  readonly secret_hints: readonly string[]
}

/** A URL that a source can be posted to without naming it. Its token is kept as its SHA-256. */
export interface IngestUrl {
  readonly id: string
  readonly tenantId: string
  readonly sourceId: string
  readonly tokenHash: Uint8Array
  readonly createdAt: Date
}

/** A receiver's URL, what it is sent, and how. */
export interface Endpoint {
  readonly id: string
  readonly tenantId: string
  readonly name: string
  readonly url: string
  readonly createdAt: Date
  /** While set, nothing is sent; what is owed stays pending. */
  readonly pausedAt: Date | null
  readonly pausedReason: string | null
  readonly options: EndpointOptions
  readonly secrets: EndpointSecrets
  /** Counts its changes: a change that was made to an older one than stands in the database is refused. */
  readonly revision: number
}

/** What a tenant may choose for an endpoint and anyone who reads the endpoint may see. */
export interface EndpointOptions {
  /** Globs over the event type, of which one must match; none: every message. See delivery/subscription.ts. */
  readonly events: readonly string[]
  /** What must hold of the payload, all of it. */
  readonly filter: readonly Condition[]
  /** For a whole attempt. */
  readonly timeoutMs: number
  /** Milliseconds before each attempt after the first; null: the deployment's. */
  readonly schedule: readonly number[] | null
  /** Attempts begun per second, and how many may begin at once after a quiet time; null: unlimited. */
  readonly rateLimit: { readonly perSecond: number; readonly burst: number } | null
  /** Attempts in flight from one process; null: the deployment's. */
  readonly concurrency: number | null
  readonly ordering: Ordering
  /** What is signed beside `v1a` by the active key. */
  readonly signatures: {
    /** `signature-input` and `signature` (RFC 9421). */
    readonly rfc9421: boolean
    /** `v1` with the endpoint's own secret (Standard Webhooks). */
    readonly hmac: boolean
    /** A second `v1a`, by the key that is retiring. */
    readonly retiringKey: boolean
  }
}

export const defaultOptions: EndpointOptions = {
  events: [],
  filter: [],
  timeoutMs: 15_000,
  schedule: null,
  rateLimit: null,
  concurrency: null,
  ordering: { kind: 'none' },
  signatures: { rfc9421: false, hmac: false, retiringKey: false },
}

/** fifo: a message is not sent before those accepted earlier are delivered or abandoned; with `key`, a singular JSONPath
 *  (message/json-path.ts), only those whose value there is equal wait for each other. */
export type Ordering = { readonly kind: 'none' } | { readonly kind: 'fifo'; readonly key: string | null }

/** One thing to hold of the value at `path`, a singular JSONPath (RFC 9535). */
export type Condition = { readonly path: string } & (
  | { readonly equals: Scalar }
  | { readonly in: readonly Scalar[] }
  /** Absent, or another value. */
  | { readonly not: Scalar }
  | { readonly exists: boolean }
  | { readonly gt: number }
  | { readonly lt: number }
)
export type Scalar = string | number | boolean | null

/** What is sealed at rest, and masked when the endpoint is read. The URL is sealed with it: it often holds a token. */
export interface EndpointSecrets {
  /** Sent with each attempt; names in lower case. */
  readonly headers: Readonly<Record<string, string>>
  /** Newest first. All that are not over sign. */
  readonly hmac: readonly HmacSecret[]
  readonly tls: TlsIdentity | null
}

export interface HmacSecret {
  /** `whsec_` and base64 of 32 bytes. */
  readonly secret: string
  /** RFC 3339: signs until then; null: the newest. */
  readonly until: string | null
}

/** PEM. Who the relay is to the receiver, and whom it trusts there. */
export interface TlsIdentity {
  readonly certificate: string | null
  readonly key: string | null
  /** Trusted instead of the system's roots. */
  readonly ca: string | null
}

/** admin: the whole deployment · tenant: one tenant · ingest: posting to one source · export: audit-log export. */
export type Role = 'admin' | 'tenant' | 'ingest' | 'export'

export interface ApiKey {
  /** The middle part of `cs_<id>_<secret>`. */
  readonly id: string
  readonly tenantId: string | null
  readonly sourceId: string | null
  readonly role: Role
  readonly name: string
  /** SHA-256 of the secret. */
  readonly secretHash: Uint8Array
  readonly createdAt: Date
  readonly revokedAt: Date | null
}
