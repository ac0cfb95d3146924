import { RelayError } from '../errors.ts'
import type { Tx } from '../ports/database.ts'
import type { KeyWrapper, WrapContext, WrappedKey } from '../ports/key-wrapper.ts'
import { DataKey } from './vault.ts'

/** The data key of deployment-wide statements belongs to nobody. */
export const deploymentVault = ''

/**
 * The data keys at rest, one per tenant, unwrapped on first use and kept in memory. A lost or destroyed data key makes
 * everything of its tenant unreadable, and nothing of anybody else.
 */
export class DataKeys {
  readonly #wrapper: KeyWrapper
  readonly #issuer: string
  readonly #open = new Map<string, Promise<DataKey>>()
  /** Lookups under way. They are shared by who asks through the same connection, and by nobody else: a transaction that
   *  waited for another's lookup would wait for whatever that other transaction waits for. */
  readonly #opening = new Map<string, Map<Tx, Promise<DataKey>>>()

  constructor(wrapper: KeyWrapper, issuer: string) {
    this.#wrapper = wrapper
    this.#issuer = issuer
  }

  /**
   * Makes the data key of a tenant about to be created, whose first statement it must already seal. It is durable once
   * {@link recordDataKey} has written it, in the transaction of that statement.
   */
  async generate(tenantId: string): Promise<WrappedKey> {
    const { plain, wrapped } = await this.#wrapper.generateDataKey(this.#context(tenantId))
    try {
      this.#open.set(tenantId, Promise.resolve(new DataKey(plain)))
      return wrapped
    } finally {
      plain.fill(0)
    }
  }

  /** The data key of a tenant. Rejects with `tenant_erased` if it was destroyed, or if it does not unwrap. */
  get(tx: Tx, tenantId: string): Promise<DataKey> {
    const known = this.#open.get(tenantId) ?? this.#opening.get(tenantId)?.get(tx)
    if (known !== undefined) return known
    const lookups = this.#opening.get(tenantId) ?? new Map<Tx, Promise<DataKey>>()
    this.#opening.set(tenantId, lookups)
    const opening = this.#unwrap(tx, tenantId)
    lookups.set(tx, opening)
    const settle = (open: boolean) => {
      if (this.#opening.get(tenantId) !== lookups) return // forgotten meanwhile
      if (open) this.#open.set(tenantId, opening)
      lookups.delete(tx) // after a failure the next caller tries again
      if (lookups.size === 0) this.#opening.delete(tenantId)
    }
    opening.then(
      () => settle(true),
      () => settle(false),
    )
    return opening
  }

  async #unwrap(tx: Tx, tenantId: string): Promise<DataKey> {
    const [row] = await tx.query<{ wrapped: Uint8Array; wrappingKey: string }>(selectDataKey, [tenantId])
    if (row === undefined && tenantId === deploymentVault) throw new Error('the deployment has no data key')
    if (row === undefined) throw new RelayError('tenant_erased')
    const wrapped = { blob: row.wrapped, wrappingKey: row.wrappingKey }
    const plain = await this.#wrapper.unwrap(wrapped, this.#context(tenantId))
    try {
      return new DataKey(plain)
    } finally {
      plain.fill(0)
    }
  }

  /** What was sealed with it cannot be opened in this process any more, once its row is destroyed. */
  forget(tenantId: string): void {
    this.#open.delete(tenantId)
    this.#opening.delete(tenantId)
  }

  #context(tenantId: string): WrapContext {
    return dataKeyContext(this.#issuer, tenantId)
  }
}

/** What a data key is bound to while it is wrapped. */
export const dataKeyContext = (issuer: string, tenantId: string): WrapContext => ({
  app: 'countersign',
  deployment: issuer,
  purpose: 'data-key',
  // KMS refuses an empty value.
  tenant: tenantId || 'deployment',
})

const selectDataKey = `select wrapped, wrapping_key as "wrappingKey" from data_keys where tenant_id = $1`

const insertDataKey = `
  insert into data_keys (tenant_id, wrapped, wrapping_key, created_at) values ($1, $2, $3, $4)`

export const recordDataKey = (
  tx: Tx,
  tenantId: string,
  { blob, wrappingKey }: WrappedKey,
  now: Date,
): Promise<unknown> => tx.query(insertDataKey, [tenantId, blob, wrappingKey, now])

const deleteDataKey = `delete from data_keys where tenant_id = $1`

/** For good: nothing that it sealed can ever be read again. */
export const destroyDataKey = (tx: Tx, tenantId: string): Promise<unknown> => tx.query(deleteDataKey, [tenantId])

export const listDataKeys = (tx: Tx): Promise<{ tenantId: string; wrapped: Uint8Array; wrappingKey: string }[]> =>
  tx.query(`select tenant_id as "tenantId", wrapped, wrapping_key as "wrappingKey" from data_keys order by tenant_id`)

const moveDataKey = `update data_keys set wrapped = $2, wrapping_key = $3 where tenant_id = $1`

export const rewrapDataKey = (tx: Tx, tenantId: string, { blob, wrappingKey }: WrappedKey): Promise<unknown> =>
  tx.query(moveDataKey, [tenantId, blob, wrappingKey])
