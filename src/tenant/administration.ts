import { RelayError } from '../errors.ts'
import { type DataKeys, destroyDataKey, recordDataKey } from '../keyring/data-keys.ts'
import type { Acts } from '../log/acts.ts'
import { leastRetention, type Retention } from '../log/retention.ts'
import type { AuditEvent } from '../log/statement.ts'
import type { IdMaker } from '../message/id.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import { hashSecret, makeSecret, type PresentedKey } from './api-key.ts'
import type { ApiKey, Role, Tenant, Tier } from './records.ts'
import {
  eraseTenant,
  findTenant,
  insertApiKey,
  insertTenant,
  revokeApiKey,
  touchTenant,
  updateTenant,
} from './store.ts'

/** Tenants and API keys: who may do what is decided at the edge, before these are called. */
export class Administration {
  readonly #database: Database
  readonly #acts: Acts
  readonly #dataKeys: DataKeys
  readonly #clock: Clock
  readonly #ids: IdMaker

  constructor(parts: { database: Database; acts: Acts; dataKeys: DataKeys; clock: Clock; ids: IdMaker }) {
    this.#database = parts.database
    this.#acts = parts.acts
    this.#dataKeys = parts.dataKeys
    this.#clock = parts.clock
    this.#ids = parts.ids
  }

  async createTenant(actor: string, wish: { name: string; tier: Tier }): Promise<Tenant> {
    const now = this.#clock.now()
    const { name, tier } = wish
    const id = this.#ids.make('ten', now)
    const tenant: Tenant = { id, name, tier, createdAt: now, retention: leastRetention, erasure: null }
    const dataKey = await this.#dataKeys.generate(tenant.id)
    const event = { kind: 'tenant.created', sub: tenant.id, tenant: tenant.id, actor, tier: tenant.tier } as const
    await this.#acts.perform(event, async (tx, configuration) => {
      await insertTenant(tx, tenant, configuration)
      await recordDataKey(tx, tenant.id, dataKey, now)
    })
    return tenant
  }

  /** What is written from now on is kept as long as `retention` says; what was written before, as long as it was said then. */
  async updateTenant(
    actor: string,
    id: string,
    wish: { name?: string; tier?: Tier; retention?: Partial<Retention> },
  ): Promise<Tenant> {
    const before = await this.getTenant(id)
    const retention = { ...before.retention, ...wish.retention }
    const tenant: Tenant = { ...before, name: wish.name ?? before.name, tier: wish.tier ?? before.tier, retention }
    const { payloadDays: payload_days, statementMonths: statement_months } = retention
    const facts = { tier: tenant.tier, payload_days, statement_months }
    await this.#acts.perform({ kind: 'tenant.updated', sub: id, tenant: id, actor, ...facts }, (tx, configuration) =>
      updateTenant(tx, tenant, configuration),
    )
    return tenant
  }

  /**
   * Makes everything of a tenant unreadable, for good: its data key is destroyed in the transaction that says so, and with
   * it every payload and statement of it, in backups as soon as those are older. Its API keys, sources and endpoints are
   * gone. Entries stay, and so does what they prove.
   */
  async eraseTenant(actor: string, id: string): Promise<Tenant> {
    await this.getTenant(id)
    await this.#acts.perform({ kind: 'tenant.erased', sub: id, actor }, async (tx, configuration, leafIndex) => {
      const erased = await eraseTenant(tx, { id, at: this.#clock.now(), leafIndex, configuration })
      if (!erased) throw new RelayError('tenant_erased') // by somebody else, since we looked
      await destroyDataKey(tx, id)
    })
    return this.findTenant(id)
  }

  /**
   * Makes an API key. `tenantId` null makes an admin key. The secret is in the answer and nowhere else: what is kept
   * is its hash. `given` is a key the operator chose (`COUNTERSIGN_ADMIN_KEY`).
   */
  async createApiKey(
    actor: string,
    tenantId: string | null,
    wish: { name: string; role: Role; sourceId: string | null },
    given?: PresentedKey,
  ): Promise<{ apiKey: ApiKey; key: string }> {
    if (tenantId !== null) await this.getTenant(tenantId)
    const now = this.#clock.now()
    const { id, secret } = given ?? { id: this.#ids.make('key', now).slice('key_'.length), secret: makeSecret() }
    const { name, role, sourceId } = wish
    const rest = { name, role, sourceId, secretHash: hashSecret(secret), createdAt: now, revokedAt: null }
    const apiKey: ApiKey = { id, tenantId, ...rest }
    const event: AuditEvent = {
      kind: 'api_key.created',
      sub: actorOf(apiKey),
      ...(tenantId !== null && { tenant: tenantId }),
      actor,
      role,
      ...(sourceId !== null && { source: sourceId }),
    }
    await this.#acts.perform(event, async (tx, configuration) => {
      await insertApiKey(tx, apiKey)
      if (tenantId !== null) await touchTenant(tx, tenantId, configuration)
    })
    return { apiKey, key: `cs_${id}_${secret}` }
  }

  async revokeApiKey(actor: string, apiKey: ApiKey): Promise<void> {
    const { tenantId } = apiKey
    const sub = actorOf(apiKey)
    const event: AuditEvent = { kind: 'api_key.revoked', sub, ...(tenantId !== null && { tenant: tenantId }), actor }
    await this.#acts.perform(event, async (tx, configuration) => {
      await revokeApiKey(tx, apiKey.id, this.#clock.now())
      if (tenantId !== null) await touchTenant(tx, tenantId, configuration)
    })
  }

  /** Rejects with `not_found` if there never was such a tenant, and with `tenant_erased` if it is no more. */
  async getTenant(id: string): Promise<Tenant> {
    const tenant = await this.findTenant(id)
    if (tenant.erasure !== null) throw new RelayError('tenant_erased')
    return tenant
  }

  /** The same, for whoever may see that it was erased. */
  async findTenant(id: string): Promise<Tenant> {
    const tenant = await findTenant(this.#database, id)
    if (tenant === undefined) throw new RelayError('not_found')
    return tenant
  }
}

/** How statements name the holder of an API key. */
export const actorOf = (apiKey: Pick<ApiKey, 'id'>): string => `key_${apiKey.id}`
