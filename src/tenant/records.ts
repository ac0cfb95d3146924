import type { Canonicalization } from '../message/message.ts'

/** What exists of tenants, as rows and as answers: the shapes are the same on purpose. */

export type Tier = 'standard' | 'operation'

export interface Tenant {
  readonly id: string
  readonly name: string
  readonly tier: Tier
  readonly createdAt: Date
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

/** A receiver's URL. */
export interface Endpoint {
  readonly id: string
  readonly tenantId: string
  readonly name: string
  readonly url: string
  readonly createdAt: Date
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
