import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import type { Sequencer } from '../log/sequencer.ts'
import { type AuditEvent, state } from '../log/statement.ts'
import { canonicalJson } from '../message/canonical.ts'
import type { IdMaker } from '../message/id.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database, Transaction } from '../ports/database.ts'
import { bind, type Effect } from '../ports/effect.ts'
import type { ByteRange, ObjectStore } from '../ports/object-store.ts'
import type { Tenant } from '../tenant/records.ts'
import {
  countExports,
  deleteExport,
  type ExportRow,
  type ExportWish,
  findExport,
  insertExport,
  listExports,
} from './export-store.ts'

/** Exports a tenant may have at once, finished ones included: they take room in the object store until deleted. */
const mostExports = 50

interface ExportsParts {
  readonly database: Database
  readonly sequencer: Sequencer
  readonly dataKeys: DataKeys
  readonly objectStore: ObjectStore
  readonly clock: Clock
  readonly ids: IdMaker
  readonly issuer: string
  /** There is a new one: whoever writes exports need not wait to find it. */
  readonly onRequested: () => void
}

/** What a tenant can ask about exports: each is requested, looked at, read and deleted here, and written by an
 *  ExportWorker. Whatever is done about them is a statement of the tenant first. */
export class Exports {
  readonly #parts: ExportsParts

  constructor(parts: ExportsParts) {
    this.#parts = parts
  }

  /** Rejects with `tier_required`, or `export_limit_reached`. */
  async request(actor: string, tenant: Tenant, wish: ExportWish): Promise<ExportRow> {
    const { database, clock, ids } = this.#parts
    if (tenant.tier !== 'operation') throw new RelayError('tier_required')
    if ((await countExports(database, tenant.id)) >= mostExports) throw new RelayError('export_limit_reached')
    const requestedAt = clock.now()
    const row = { id: ids.make('exp', requestedAt), tenantId: tenant.id, wish, requestedAt }
    const event = { kind: 'export.requested' as const, sub: row.id, tenant: tenant.id, actor, ...wish }
    await this.#state(event, (tx) => insertExport(tx, row))
    this.#parts.onRequested()
    return this.get(tenant.id, row.id)
  }

  list(tenantId: string, after: string, limit: number): Promise<ExportRow[]> {
    return listExports(this.#parts.database, tenantId, after, limit)
  }

  /** Rejects with `not_found`. */
  async get(tenantId: string, id: string): Promise<ExportRow> {
    const row = await findExport(this.#parts.database, tenantId, id)
    if (row === undefined) throw new RelayError('not_found')
    return row
  }

  /** The bytes of a finished file, or some of them, once it is stated that they were sent for. */
  async download(actor: string, row: ExportRow, { from, to }: Required<ByteRange>): Promise<AsyncIterable<Uint8Array>> {
    const event = { kind: 'export.downloaded' as const, sub: row.id, tenant: row.tenantId, actor }
    await this.#state({ ...event, first_byte: from, last_byte: to })
    return readParts(this.#parts, row, from, to)
  }

  /** Also while it is being written: that ends at its next part. */
  async delete(actor: string, row: ExportRow): Promise<void> {
    const event = { kind: 'export.deleted' as const, sub: row.id, tenant: row.tenantId, actor }
    await this.#state(event, (tx) => deleteExport(tx, row.id))
    // Sealed, and named by nothing any more: what a crash leaves of them here is rubbish, not a leak.
    for (const { key } of row.parts) await this.#parts.objectStore.delete(key)
  }

  async #state(event: AuditEvent, change?: (tx: Transaction) => void): Promise<void> {
    const { sequencer, issuer, clock } = this.#parts
    const effects = change === undefined ? [] : [bind(changes, change)]
    await sequencer.append({ stated: state(issuer, event, clock.now()), effects })
  }
}

const changes: Effect<(tx: Transaction) => void> = {
  async write(tx, rows) {
    for (const { row: change } of rows) change(tx)
    return undefined
  },
}

/** Reads the file of an export from its parts, from byte `from` to byte `to`, both included. One part is held at once. */
export async function* readParts(
  {
    database,
    dataKeys,
    objectStore,
  }: { readonly database: Database; readonly dataKeys: DataKeys; readonly objectStore: ObjectStore },
  { id, tenantId, parts }: Pick<ExportRow, 'id' | 'tenantId' | 'parts'>,
  from = 0,
  to = Number.POSITIVE_INFINITY,
): AsyncGenerator<Uint8Array> {
  const dataKey = await dataKeys.get(database, tenantId)
  let start = 0
  for (const { key, bytes } of parts) {
    const end = start + bytes
    if (end > from && start <= to) {
      const sealed = await objectStore.find(key)
      if (sealed === undefined) throw new Error(`part ${key} of ${id} is gone`)
      yield dataKey.open(sealed, partContext(tenantId, key)).subarray(Math.max(0, from - start), to - start + 1)
    }
    start = end
  }
}

/** What a sealed part is bound to. */
export const partContext = (tenantId: string, key: string): Uint8Array =>
  Buffer.from(canonicalJson(['export', tenantId, key]))

/** The length of the file so far. */
export const bytesOf = ({ parts }: Pick<ExportRow, 'parts'>): number => parts.reduce((sum, { bytes }) => sum + bytes, 0)
