import { RelayError } from '../errors.ts'
import type { Acts } from '../log/acts.ts'
import { sha256 } from '../message/digest.ts'
import type { IdMaker } from '../message/id.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Administration } from '../tenant/administration.ts'
import type { Endpoint } from '../tenant/records.ts'
import { deleteEndpoint, findEndpoint, insertEndpoint, touchTenant, updateEndpoint } from '../tenant/store.ts'
import type { EgressGuard } from './guard.ts'

/** Receivers' URLs. Each is vetted when it is written, and again at every attempt. */
export class Endpoints {
  readonly #database: Database
  readonly #acts: Acts
  readonly #administration: Administration
  readonly #guard: EgressGuard
  readonly #clock: Clock
  readonly #ids: IdMaker

  constructor(parts: {
    database: Database
    acts: Acts
    administration: Administration
    guard: EgressGuard
    clock: Clock
    ids: IdMaker
  }) {
    this.#database = parts.database
    this.#acts = parts.acts
    this.#administration = parts.administration
    this.#guard = parts.guard
    this.#clock = parts.clock
    this.#ids = parts.ids
  }

  /** Rejects with `endpoint_url_invalid` or `endpoint_address_forbidden` and the rule in `detail`. */
  async create(actor: string, tenantId: string, wish: { url: string; name: string }): Promise<Endpoint> {
    await this.#administration.getTenant(tenantId)
    const url = await this.#vet(wish.url)
    const now = this.#clock.now()
    const endpoint: Endpoint = { id: this.#ids.make('ep', now), tenantId, name: wish.name, url, createdAt: now }
    const event = { kind: 'endpoint.created', ...subjectOf(endpoint, actor), url_sha256: digestOf(url) } as const
    await this.#acts.perform(event, async (tx, configuration) => {
      await insertEndpoint(tx, endpoint)
      await touchTenant(tx, tenantId, configuration)
    })
    return endpoint
  }

  async update(actor: string, tenantId: string, id: string, wish: { url?: string; name?: string }): Promise<Endpoint> {
    const before = await this.get(tenantId, id)
    const url = wish.url === undefined ? before.url : await this.#vet(wish.url)
    const endpoint = { ...before, url, name: wish.name ?? before.name }
    const event = { kind: 'endpoint.updated', ...subjectOf(endpoint, actor), url_sha256: digestOf(url) } as const
    await this.#acts.perform(event, async (tx, configuration) => {
      await updateEndpoint(tx, endpoint)
      await touchTenant(tx, tenantId, configuration)
    })
    return endpoint
  }

  /** Nothing more is sent there: what is still owed is abandoned when it falls due. */
  async delete(actor: string, tenantId: string, id: string): Promise<void> {
    const endpoint = await this.get(tenantId, id)
    await this.#acts.perform({ kind: 'endpoint.deleted', ...subjectOf(endpoint, actor) }, async (tx, configuration) => {
      await deleteEndpoint(tx, tenantId, id, this.#clock.now())
      await touchTenant(tx, tenantId, configuration)
    })
  }

  async get(tenantId: string, id: string): Promise<Endpoint> {
    const endpoint = await findEndpoint(this.#database, tenantId, id)
    if (endpoint === undefined) throw new RelayError('not_found')
    return endpoint
  }

  async #vet(text: string): Promise<string> {
    const url = this.#guard.checkUrl(text)
    await this.#guard.vetHost(url.hostname)
    return url.href
  }
}

const subjectOf = (endpoint: Endpoint, actor: string) => ({ sub: endpoint.id, tenant: endpoint.tenantId, actor })

/** The log says which URL without showing it: URLs of receivers often hold secrets. */
const digestOf = (url: string): string => sha256(Buffer.from(url)).toString('base64url')
