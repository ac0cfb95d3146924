import type { DataKey } from '../keyring/vault.ts'
import { canonicalJson } from '../message/canonical.ts'
import { parseJson } from '../message/json.ts'
import type { Tx } from '../ports/database.ts'
import { defaultOptions, type Endpoint, type EndpointOptions, type EndpointSecrets } from './records.ts'

/** A row: the endpoint, with what is secret of it sealed under the data key of its tenant. */
type EndpointRow = Omit<Endpoint, 'url' | 'options' | 'secrets'> & {
  readonly sealed: Uint8Array
  readonly options: Partial<EndpointOptions>
}

const sealingContext = (tenantId: string, id: string): Uint8Array => Buffer.from(`endpoint\0${tenantId}\0${id}`)

const seal = ({ tenantId, id, url, secrets }: Endpoint, dataKey: DataKey): Uint8Array =>
  dataKey.seal(canonicalJson({ url, ...secrets }), sealingContext(tenantId, id))

/** What was sealed is what we wrote, so its shape is known. Options that were added since a row was written have their
 *  defaults. */
function open({ sealed, options, ...facts }: EndpointRow, dataKey: DataKey): Endpoint {
  const opened = parseJson(dataKey.open(sealed, sealingContext(facts.tenantId, facts.id)))
  const { url, ...secrets } = opened as unknown as EndpointSecrets & { url: string }
  return { ...facts, url, options: { ...defaultOptions, ...options }, secrets }
}

const insertRow = `
  insert into endpoints (id, tenant_id, name, sealed, options, created_at) values ($1, $2, $3, $4, $5::jsonb, $6)`

export const insertEndpoint = (tx: Tx, endpoint: Endpoint, dataKey: DataKey): Promise<unknown> => {
  const { id, tenantId, name, options, createdAt } = endpoint
  return tx.query(insertRow, [id, tenantId, name, seal(endpoint, dataKey), JSON.stringify(options), createdAt])
}

const countAll = `select count(*) as count from endpoints where tenant_id = $1 and deleted_at is null`

export async function countEndpoints(tx: Tx, tenantId: string): Promise<number> {
  const [row] = await tx.query<{ count: number }>(countAll, [tenantId])
  return row?.count ?? 0
}

const updateRow = `
  update endpoints set name = $4, sealed = $5, options = $6::jsonb, revision = revision + 1
   where tenant_id = $1 and id = $2 and revision = $3 and deleted_at is null
  returning revision`

/** Writes a change that was made to `endpoint` as it was read. False if it has been changed or deleted since. */
export async function updateEndpoint(tx: Tx, endpoint: Endpoint, dataKey: DataKey): Promise<boolean> {
  const { tenantId, id, revision, name, options } = endpoint
  const sealed = seal(endpoint, dataKey)
  const rows = await tx.query(updateRow, [tenantId, id, revision, name, sealed, JSON.stringify(options)])
  return rows.length === 1
}

const setPaused = `
  update endpoints set paused_at = $3, paused_reason = $4 where tenant_id = $1 and id = $2 and deleted_at is null`

/** Nulls resume it. */
export const pauseEndpoint = (
  tx: Tx,
  { tenantId, id, pausedAt, pausedReason }: Pick<Endpoint, 'tenantId' | 'id' | 'pausedAt' | 'pausedReason'>,
): Promise<unknown> => tx.query(setPaused, [tenantId, id, pausedAt, pausedReason])

// The row stays: deliveries name it, and its statements are for ever. What it kept secret goes.
const markDeleted = `
  update endpoints set deleted_at = $3, sealed = '' where tenant_id = $1 and id = $2 and deleted_at is null`

export const deleteEndpoint = (tx: Tx, tenantId: string, id: string, now: Date): Promise<unknown> =>
  tx.query(markDeleted, [tenantId, id, now])

const columns = `
  id, tenant_id as "tenantId", name, sealed, options, revision, created_at as "createdAt", paused_at as "pausedAt",
  paused_reason as "pausedReason"`

const selectOne = `select ${columns} from endpoints where tenant_id = $1 and id = $2 and deleted_at is null`

export async function findEndpoint(
  tx: Tx,
  tenantId: string,
  id: string,
  dataKey: DataKey,
): Promise<Endpoint | undefined> {
  const [row] = await tx.query<EndpointRow>(selectOne, [tenantId, id])
  return row && open(row, dataKey)
}

const selectAll = `select ${columns} from endpoints where tenant_id = $1 and deleted_at is null order by id`

/** All of them, in the order of their making: what a message of this tenant may be owed to. */
export async function endpointsOf(tx: Tx, tenantId: string, dataKey: DataKey): Promise<Endpoint[]> {
  const rows = await tx.query<EndpointRow>(selectAll, [tenantId])
  return rows.map((row) => open(row, dataKey))
}

const selectPage = `
  select ${columns} from endpoints
   where tenant_id = $1 and id > $2 and deleted_at is null
   order by id limit $3`

export async function listEndpoints(
  tx: Tx,
  tenantId: string,
  page: { after: string; limit: number },
  dataKey: DataKey,
): Promise<Endpoint[]> {
  const rows = await tx.query<EndpointRow>(selectPage, [tenantId, page.after, page.limit])
  return rows.map((row) => open(row, dataKey))
}
