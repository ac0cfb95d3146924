import type { DataKeys } from '../keyring/data-keys.ts'
import { leastRetention, type Retention } from '../log/retention.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database, Tx } from '../ports/database.ts'
import { endpointsOf } from './endpoint-store.ts'
import type { ApiKey, Endpoint, Source, Tenant } from './records.ts'
import { changedTenants, configurationNow, findApiKey, findSource, findSourceByToken, findTenant } from './store.ts'

/** How long an answer may be given from memory without asking whether the configuration moved on. */
const freshMs = 1000

/** Entries of one kind held in memory. */
const mostRemembered = 100_000

/**
 * What the hot path needs to know about tenants, from memory. `log.configuration` counts every administrative change in
 * the transaction of the change; whoever sees a higher count reads again what changed. So an API key revoked by any
 * process stops working there at once and everywhere within {@link freshMs}; and a batch, which sees the count under the
 * lock of the head, owes each message to exactly the endpoints that exist at that moment.
 */
export class Directory {
  readonly #database: Database
  readonly #clock: Clock
  readonly #dataKeys: DataKeys
  #configuration = 0
  #checkedAtMs = 0
  #checking: Promise<void> | undefined
  #expiries = 0
  readonly #tenants = new Map<string, Tenant>()
  readonly #erased = new Set<string>()
  readonly #apiKeys = new Map<string, ApiKey>()
  readonly #sources = new Map<string, Source>()
  readonly #sourcesByToken = new Map<string, Source>()
  readonly #endpoints = new Map<string, readonly Endpoint[]>()

  constructor(database: Database, clock: Clock, dataKeys: DataKeys) {
    this.#database = database
    this.#clock = clock
    this.#dataKeys = dataKeys
  }

  /** This process changed the configuration: the next question asks again, and a check under way counts for nothing. */
  expire(): void {
    this.#expiries++
    this.#checkedAtMs = 0
    this.#checking = undefined
  }

  /** An API key that is not revoked. */
  async findApiKey(id: string): Promise<ApiKey | undefined> {
    const key = await this.#find(this.#apiKeys, id, findApiKey)
    return key?.revokedAt === null ? key : undefined
  }

  /** A tenant that exists, or existed. */
  findTenant(id: string): Promise<Tenant | undefined> {
    return this.#find(this.#tenants, id, findTenant)
  }

  /** Whether a tenant was erased, as far as this process has heard. */
  isErased(tenantId: string): boolean {
    return this.#erased.has(tenantId)
  }

  /** How long what is written for a tenant is kept; null asks for the deployment. */
  async retentionOf(tenantId: string | null): Promise<Retention> {
    if (tenantId === null) return leastRetention
    return (this.#tenants.get(tenantId) ?? (await this.findTenant(tenantId)))?.retention ?? leastRetention
  }

  findSource(id: string): Promise<Source | undefined> {
    return this.#find(this.#sources, id, findSource)
  }

  /** The source of an ingest URL, by the SHA-256 of its token. */
  findSourceByToken(tokenHash: Uint8Array): Promise<Source | undefined> {
    const name = Buffer.from(tokenHash).toString('base64url')
    return this.#find(this.#sourcesByToken, name, (tx) => findSourceByToken(tx, tokenHash))
  }

  /** The endpoints of a tenant as of `configuration`, which the caller read in `tx` under the lock of the head. */
  async endpointsAt(tx: Tx, tenantId: string, configuration: number): Promise<readonly Endpoint[]> {
    if (configuration > this.#configuration) await this.#catchUp(tx, configuration)
    const known = this.#endpoints.get(tenantId)
    if (known !== undefined) return known
    const endpoints = await this.#readEndpoints(tx, tenantId)
    remember(this.#endpoints, tenantId, endpoints)
    return endpoints
  }

  /** An endpoint that is not deleted, as it was at most {@link freshMs} ago. */
  async findEndpoint(tenantId: string, id: string): Promise<Endpoint | undefined> {
    const endpoints = await this.#find(this.#endpoints, tenantId, this.#readEndpoints)
    return endpoints?.find((endpoint) => endpoint.id === id)
  }

  readonly #readEndpoints = async (tx: Tx, tenantId: string): Promise<Endpoint[]> =>
    endpointsOf(tx, tenantId, await this.#dataKeys.get(tx, tenantId))

  /** From memory, if the configuration has not moved on. */
  async #find<T>(
    cache: Map<string, T>,
    id: string,
    find: (tx: Tx, id: string) => Promise<T | undefined>,
  ): Promise<T | undefined> {
    if (!this.#isFresh()) await this.refresh()
    const known = cache.get(id)
    if (known !== undefined) return known
    const configuration = this.#configuration
    const found = await find(this.#database, id)
    // If the configuration moved on meanwhile, what was read may be what has just been forgotten.
    if (found !== undefined && configuration === this.#configuration) remember(cache, id, found)
    return found
  }

  /** Asks whether the configuration moved on, unless that was asked a moment ago. */
  async refresh(): Promise<void> {
    if (this.#isFresh()) return
    this.#checking ??= this.#check().finally(() => {
      this.#checking = undefined
    })
    await this.#checking
  }

  #isFresh(): boolean {
    const age = this.#clock.now().getTime() - this.#checkedAtMs
    return age >= 0 && age < freshMs
  }

  async #check(): Promise<void> {
    const startedAtMs = this.#clock.now().getTime()
    const expiries = this.#expiries
    await this.#catchUp(this.#database, await configurationNow(this.#database))
    if (expiries === this.#expiries) this.#checkedAtMs = startedAtMs
  }

  async #catchUp(tx: Tx, configuration: number): Promise<void> {
    if (configuration <= this.#configuration) return
    const tenants = await changedTenants(tx, this.#configuration)
    const changed = new Set(tenants.map(({ id }) => id))
    for (const { id, erased } of tenants) {
      if (!erased || this.#erased.has(id)) continue
      this.#erased.add(id)
      this.#dataKeys.forget(id) // it is destroyed; what it sealed must not be readable from memory either
    }
    forget(this.#apiKeys, (key) => key.tenantId === null || changed.has(key.tenantId))
    for (const sources of [this.#sources, this.#sourcesByToken])
      forget(sources, ({ tenantId }) => changed.has(tenantId))
    for (const tenantId of changed) {
      this.#tenants.delete(tenantId)
      this.#endpoints.delete(tenantId)
    }
    this.#configuration = Math.max(this.#configuration, configuration)
  }
}

function remember<T>(cache: Map<string, T>, id: string, value: T): void {
  if (cache.size >= mostRemembered) cache.clear()
  cache.set(id, value)
}

function forget<T>(cache: Map<string, T>, stale: (value: T) => boolean): void {
  for (const [id, value] of cache) if (stale(value)) cache.delete(id)
}
