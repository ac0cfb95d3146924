import type { Retention } from '../log/retention.ts'
import type { Tx } from '../ports/database.ts'
import type { ApiKey, IngestUrl, Source, Tenant } from './records.ts'

const tenantColumns = `
  id, name, tier, created_at as "createdAt", payload_days as "payloadDays", statement_months as "statementMonths",
  erased_at as "erasedAt", erased_leaf as "erasedLeaf"`
const sourceColumns = `
  s.id, s.tenant_id as "tenantId", s.name, s.settings, s.secrets as "sealedSecrets", s.created_at as "createdAt"`
const ingestUrlColumns = `
  id, tenant_id as "tenantId", source_id as "sourceId", token_hash as "tokenHash", created_at as "createdAt"`
const apiKeyColumns = `
  id, tenant_id as "tenantId", source_id as "sourceId", role, name, secret_hash as "secretHash",
  created_at as "createdAt", revoked_at as "revokedAt"`

export async function configurationNow(tx: Tx): Promise<number> {
  const [row] = await tx.query<{ configuration: number }>(`select configuration from log`)
  return row?.configuration ?? 0
}

const selectChanged = `select id, erased_at is not null as erased from tenants where configuration > $1`

/** The tenants that changed after `configuration`. */
export const changedTenants = (tx: Tx, configuration: number): Promise<{ id: string; erased: boolean }[]> =>
  tx.query(selectChanged, [configuration])

const touch = `update tenants set configuration = $2 where id = $1`

export const touchTenant = (tx: Tx, tenantId: string, configuration: number): Promise<unknown> =>
  tx.query(touch, [tenantId, configuration])

const insertTenantRow = `
  insert into tenants (id, name, tier, created_at, payload_days, statement_months, configuration)
  values ($1, $2, $3, $4, $5, $6, $7)`

export const insertTenant = (tx: Tx, tenant: Tenant, configuration: number): Promise<unknown> => {
  const { payloadDays, statementMonths } = tenant.retention
  const { id, name, tier, createdAt } = tenant
  return tx.query(insertTenantRow, [id, name, tier, createdAt, payloadDays, statementMonths, configuration])
}

const updateTenantRow = `
  update tenants set name = $2, tier = $3, payload_days = $4, statement_months = $5, configuration = $6
   where id = $1 and erased_at is null`

export const updateTenant = (tx: Tx, tenant: Tenant, configuration: number): Promise<unknown> => {
  const { payloadDays, statementMonths } = tenant.retention
  return tx.query(updateTenantRow, [tenant.id, tenant.name, tenant.tier, payloadDays, statementMonths, configuration])
}

interface TenantRow extends Omit<Tenant, 'retention' | 'erasure'> {
  readonly payloadDays: number
  readonly statementMonths: number
  readonly erasedAt: Date | null
  readonly erasedLeaf: number | null
}

const tenantOf = ({ payloadDays, statementMonths, erasedAt, erasedLeaf, ...facts }: TenantRow): Tenant => ({
  ...facts,
  retention: { payloadDays, statementMonths },
  erasure: erasedAt === null || erasedLeaf === null ? null : { at: erasedAt, leafIndex: erasedLeaf },
})

export async function findTenant(tx: Tx, id: string): Promise<Tenant | undefined> {
  const [row] = await tx.query<TenantRow>(`select ${tenantColumns} from tenants where id = $1`, [id])
  return row && tenantOf(row)
}

const selectTenants = `select ${tenantColumns} from tenants where id > $1 order by id limit $2`

/** Pages are by id, which is by age: `after` is the last id of the page before. */
export async function listTenants(tx: Tx, after: string, limit: number): Promise<Tenant[]> {
  return (await tx.query<TenantRow>(selectTenants, [after, limit])).map(tenantOf)
}

const selectRetentions = `
  select distinct payload_days as "payloadDays", statement_months as "statementMonths"
    from tenants where erased_at is null`

/** What tenants chose, each once. */
export const retentionsChosen = (tx: Tx): Promise<Retention[]> => tx.query(selectRetentions)

const eraseTenantRow = `
  update tenants set name = '', erased_at = $2, erased_leaf = $3, configuration = $4 where id = $1 and erased_at is null
  returning id`

/** What belonged to it and says something: names, URLs, secrets. The row of the tenant says only that there was one. */
const eraseBelongings = ['api_keys', 'ingest_urls', 'endpoints', 'sources'].map(
  (table) => `delete from ${table} where tenant_id = $1`,
)

/** Resolves with whether there was anything to erase. */
export async function eraseTenant(
  tx: Tx,
  { id, at, leafIndex, configuration }: { id: string; at: Date; leafIndex: number; configuration: number },
): Promise<boolean> {
  const erased = await tx.query(eraseTenantRow, [id, at, leafIndex, configuration])
  for (const erase of eraseBelongings) await tx.query(erase, [id])
  return erased.length > 0
}

const insertSourceRow = `
  insert into sources (id, tenant_id, name, settings, secrets, created_at) values ($1, $2, $3, $4, $5, $6)`

export const insertSource = (tx: Tx, { id, tenantId, name, settings, sealedSecrets, createdAt }: Source) =>
  tx.query(insertSourceRow, [id, tenantId, name, JSON.stringify(settings), sealedSecrets, createdAt])

const updateSourceRow = `
  update sources set name = $3, settings = $4, secrets = $5
   where tenant_id = $1 and id = $2 and deleted_at is null`

export const updateSource = (tx: Tx, { id, tenantId, name, settings, sealedSecrets }: Source) =>
  tx.query(updateSourceRow, [tenantId, id, name, JSON.stringify(settings), sealedSecrets])

// The row stays, since messages and statements name it. What could still open its door does not.
const markSourceDeleted = `
  with closed as (update ingest_urls set revoked_at = $3 where source_id = $2 and revoked_at is null),
       revoked as (update api_keys set revoked_at = $3 where source_id = $2 and revoked_at is null)
  update sources set deleted_at = $3, secrets = null
   where tenant_id = $1 and id = $2 and deleted_at is null`

export const deleteSource = (tx: Tx, tenantId: string, id: string, now: Date): Promise<unknown> =>
  tx.query(markSourceDeleted, [tenantId, id, now])

const selectSource = `select ${sourceColumns} from sources s where id = $1 and deleted_at is null`

export async function findSource(tx: Tx, id: string): Promise<Source | undefined> {
  const [row] = await tx.query<Source>(selectSource, [id])
  return row
}

const selectSourceByToken = `
  select ${sourceColumns} from ingest_urls u join sources s on s.id = u.source_id
   where u.token_hash = $1 and u.revoked_at is null`

export async function findSourceByToken(tx: Tx, tokenHash: Uint8Array): Promise<Source | undefined> {
  const [row] = await tx.query<Source>(selectSourceByToken, [tokenHash])
  return row
}

const selectSources = `
  select ${sourceColumns} from sources s
   where tenant_id = $1 and id > $2 and deleted_at is null
   order by id limit $3`

export const listSources = (tx: Tx, tenantId: string, after: string, limit: number): Promise<Source[]> =>
  tx.query(selectSources, [tenantId, after, limit])

const insertIngestUrlRow = `
  insert into ingest_urls (id, tenant_id, source_id, token_hash, created_at) values ($1, $2, $3, $4, $5)`

export const insertIngestUrl = (tx: Tx, { id, tenantId, sourceId, tokenHash, createdAt }: IngestUrl) =>
  tx.query(insertIngestUrlRow, [id, tenantId, sourceId, tokenHash, createdAt])

const selectIngestUrls = `
  select ${ingestUrlColumns} from ingest_urls
   where tenant_id = $1 and source_id = $2 and revoked_at is null
   order by id`

/** Those that work. */
export const ingestUrlsOf = (tx: Tx, tenantId: string, sourceId: string): Promise<IngestUrl[]> =>
  tx.query(selectIngestUrls, [tenantId, sourceId])

const markIngestUrlRevoked = `update ingest_urls set revoked_at = $2 where id = $1 and revoked_at is null`

export const revokeIngestUrl = (tx: Tx, id: string, now: Date): Promise<unknown> =>
  tx.query(markIngestUrlRevoked, [id, now])

const insertApiKeyRow = `
  insert into api_keys (id, tenant_id, source_id, role, name, secret_hash, created_at)
  values ($1, $2, $3, $4, $5, $6, $7)`

export const insertApiKey = (tx: Tx, key: ApiKey): Promise<unknown> =>
  tx.query(insertApiKeyRow, [key.id, key.tenantId, key.sourceId, key.role, key.name, key.secretHash, key.createdAt])

export async function findApiKey(tx: Tx, id: string): Promise<ApiKey | undefined> {
  const [row] = await tx.query<ApiKey>(`select ${apiKeyColumns} from api_keys where id = $1`, [id])
  return row
}

const selectApiKeys = `
  select ${apiKeyColumns} from api_keys
   where tenant_id is not distinct from $1 and id > $2
   order by id limit $3`

export const listApiKeys = (tx: Tx, tenantId: string | null, after: string, limit: number): Promise<ApiKey[]> =>
  tx.query(selectApiKeys, [tenantId, after, limit])

const markRevoked = `update api_keys set revoked_at = $2 where id = $1 and revoked_at is null`

export const revokeApiKey = (tx: Tx, id: string, now: Date): Promise<unknown> => tx.query(markRevoked, [id, now])
