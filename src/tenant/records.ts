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
