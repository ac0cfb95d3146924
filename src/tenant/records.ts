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
