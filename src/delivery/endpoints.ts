import { randomBytes } from 'node:crypto'
import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import type { DataKey } from '../keyring/vault.ts'
import type { Acts } from '../log/acts.ts'
import { canonicalJson } from '../message/canonical.ts'
import { sha256 } from '../message/digest.ts'
import type { IdMaker } from '../message/id.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database } from '../ports/database.ts'
import type { Administration } from '../tenant/administration.ts'
import {
  countEndpoints,
  deleteEndpoint,
  findEndpoint,
  insertEndpoint,
  listEndpoints,
  pauseEndpoint,
  updateEndpoint,
} from '../tenant/endpoint-store.ts'
import {
  defaultOptions,
  type Endpoint,
  type EndpointOptions,
  type HmacSecret,
  type TlsIdentity,
} from '../tenant/records.ts'
import { touchTenant } from '../tenant/store.ts'
import { wakeBacklog } from './claim-store.ts'
import { changeHeaders } from './custom-headers.ts'
import { checkOptions, describeOptions, refusing } from './endpoint-options.ts'
import type { EgressGuard } from './guard.ts'
import { checkTlsIdentity } from './tls-identity.ts'

/** What a tenant asks of an endpoint. What is absent stays as it is, or is the default. */
export interface EndpointWish {
  readonly url?: string
  readonly name?: string
  readonly options?: Partial<Omit<EndpointOptions, 'signatures'>>
  readonly signatures?: Partial<EndpointOptions['signatures']>
  /** By name; null removes one. */
  readonly headers?: Readonly<Record<string, string | null>>
  readonly tls?: TlsIdentity | null
}

/** An endpoint, and its new HMAC secret if one was made: it is shown this once. */
export interface WrittenEndpoint {
  readonly endpoint: Endpoint
  readonly secret: string | undefined
}

/** Of one tenant. A message may be owed to all of them, in the batch that accepts it and everyone else's. */
const mostEndpoints = 1000

/** Both secrets sign for so long after a rotation. */
const secretOverlapMs = 24 * 60 * 60 * 1000

/** Secrets that may be in use at once: who rotates more often than daily cuts the oldest overlap short. */
const mostSecrets = 3

/** Receivers' URLs and what is sent there. Each URL is vetted when it is written, and again at every attempt. */
export class Endpoints {
  readonly #database: Database
  readonly #acts: Acts
  readonly #administration: Administration
  readonly #dataKeys: DataKeys
  readonly #guard: EgressGuard
  readonly #clock: Clock
  readonly #ids: IdMaker

  constructor(parts: {
    database: Database
    acts: Acts
    administration: Administration
    dataKeys: DataKeys
    guard: EgressGuard
    clock: Clock
    ids: IdMaker
  }) {
    this.#database = parts.database
    this.#acts = parts.acts
    this.#administration = parts.administration
    this.#dataKeys = parts.dataKeys
    this.#guard = parts.guard
    this.#clock = parts.clock
    this.#ids = parts.ids
  }

  /** Rejects with `endpoint_url_invalid`, `endpoint_address_forbidden` or `endpoint_option_invalid` and the rule in
   *  `detail`, or with `endpoint_limit_reached`. */
  async create(
    actor: string,
    tenantId: string,
    wish: EndpointWish & { readonly url: string },
  ): Promise<WrittenEndpoint> {
    const dataKey = await this.#dataKeyOf(tenantId)
    const now = this.#clock.now()
    const blank: Endpoint = {
      ...{ id: this.#ids.make('ep', now), tenantId, name: '', url: '', createdAt: now, revision: 1 },
      ...{ pausedAt: null, pausedReason: null },
      options: defaultOptions,
      secrets: { headers: {}, hmac: [], tls: null },
    }
    const { endpoint, secret } = await this.#apply(wish, blank)
    await this.#acts.perform(
      { kind: 'endpoint.created', ...configurationOf(endpoint, actor) },
      async (tx, configuration) => {
        if ((await countEndpoints(tx, tenantId)) >= mostEndpoints) throw new RelayError('endpoint_limit_reached')
        await insertEndpoint(tx, endpoint, dataKey)
        await touchTenant(tx, tenantId, configuration)
      },
    )
    return { endpoint, secret }
  }

  /** Rejects as {@link create} does, and with `endpoint_changed` if somebody else changed it meanwhile. */
  async update(actor: string, tenantId: string, id: string, wish: EndpointWish): Promise<WrittenEndpoint> {
    const { endpoint, secret } = await this.#apply(wish, await this.get(tenantId, id))
    await this.#write(endpoint, { kind: 'endpoint.updated', ...configurationOf(endpoint, actor) })
    return { endpoint: { ...endpoint, revision: endpoint.revision + 1 }, secret }
  }

  /** A new HMAC secret; the one before signs beside it until `previousUntil`. */
  async rotateSecret(actor: string, tenantId: string, id: string): Promise<{ secret: string; previousUntil: Date }> {
    const endpoint = await this.get(tenantId, id)
    if (!endpoint.options.signatures.hmac) {
      throw new RelayError('endpoint_option_invalid', { detail: 'It has no secret: set signatures.hmac first.' })
    }
    const now = this.#clock.now()
    const previousUntil = new Date(now.getTime() + secretOverlapMs)
    const secret = makeHmacSecret()
    const hmac = succeed(secret, endpoint.secrets.hmac, now, previousUntil)
    const event = { kind: 'endpoint.secret_rotated', ...subjectOf(endpoint, actor) } as const
    const overlap = { previous_until: previousUntil.toISOString() }
    await this.#write({ ...endpoint, secrets: { ...endpoint.secrets, hmac } }, { ...event, ...overlap })
    return { secret, previousUntil }
  }

  /** From now on nothing is sent there; what is owed stays pending. Pausing what is paused changes nothing. */
  async pause(actor: string, tenantId: string, id: string, reason: string): Promise<Endpoint> {
    const endpoint = await this.get(tenantId, id)
    if (endpoint.pausedAt !== null) return endpoint
    const paused = { ...endpoint, pausedAt: this.#clock.now(), pausedReason: reason }
    return this.#setPaused(paused, { kind: 'endpoint.paused', ...subjectOf(endpoint, actor), reason })
  }

  /** What is owed is sent again. */
  async resume(actor: string, tenantId: string, id: string): Promise<Endpoint> {
    const endpoint = await this.get(tenantId, id)
    if (endpoint.pausedAt === null) return endpoint
    const resumed = { ...endpoint, pausedAt: null, pausedReason: null }
    return this.#setPaused(resumed, { kind: 'endpoint.resumed', ...subjectOf(endpoint, actor) })
  }

  /** Nothing more is sent there: what is still owed is abandoned when it falls due. */
  async delete(actor: string, tenantId: string, id: string): Promise<void> {
    const endpoint = await this.get(tenantId, id)
    await this.#acts.perform({ kind: 'endpoint.deleted', ...subjectOf(endpoint, actor) }, async (tx, configuration) => {
      await deleteEndpoint(tx, tenantId, id, this.#clock.now())
      await touchTenant(tx, tenantId, configuration)
      await wakeBacklog(tx, id, this.#clock.now())
    })
  }

  async get(tenantId: string, id: string): Promise<Endpoint> {
    const endpoint = await findEndpoint(this.#database, tenantId, id, await this.#dataKeyOf(tenantId))
    if (endpoint === undefined) throw new RelayError('not_found')
    return endpoint
  }

  async list(tenantId: string, after: string, limit: number): Promise<Endpoint[]> {
    return listEndpoints(this.#database, tenantId, { after, limit }, await this.#dataKeyOf(tenantId))
  }

  /** The endpoint as wished, vetted. */
  async #apply(wish: EndpointWish, before: Endpoint): Promise<WrittenEndpoint> {
    const url = wish.url === undefined ? before.url : await this.#vet(wish.url)
    const signatures = { ...before.options.signatures, ...wish.signatures }
    const options = { ...before.options, ...wish.options, signatures }
    checkOptions(options)
    const tls = wish.tls === undefined ? before.secrets.tls : wish.tls
    if (tls !== null && wish.tls !== undefined) refusing('/tls', () => checkTlsIdentity(tls))
    const headers = refusing('/headers', () => changeHeaders(before.secrets.headers, wish.headers ?? {}))
    const secret = signatures.hmac && before.secrets.hmac.length === 0 ? makeHmacSecret() : undefined
    const hmac = secret === undefined ? before.secrets.hmac : [{ secret, until: null }]
    const name = wish.name ?? before.name
    // A secret that signs nothing is forgotten: who switches HMAC on again gets another.
    const secrets = { headers, hmac: signatures.hmac ? hmac : [], tls }
    return { endpoint: { ...before, name, url, options, secrets }, secret }
  }

  async #write(endpoint: Endpoint, event: Parameters<Acts['perform']>[0]): Promise<void> {
    const dataKey = await this.#dataKeyOf(endpoint.tenantId)
    await this.#acts.perform(event, async (tx, configuration) => {
      // The statement says what the endpoint is from now on, so a change in between must keep it out of the log.
      if (!(await updateEndpoint(tx, endpoint, dataKey))) throw new RelayError('endpoint_changed')
      await touchTenant(tx, endpoint.tenantId, configuration)
      await wakeBacklog(tx, endpoint.id, this.#clock.now()) // it may be let through faster now
    })
  }

  async #setPaused(endpoint: Endpoint, event: Parameters<Acts['perform']>[0]): Promise<Endpoint> {
    await this.#acts.perform(event, async (tx, configuration) => {
      await pauseEndpoint(tx, endpoint)
      await touchTenant(tx, endpoint.tenantId, configuration)
      await wakeBacklog(tx, endpoint.id, this.#clock.now())
    })
    return endpoint
  }

  /** Rejects with `not_found` if there is no such tenant, which then has no data key either. */
  async #dataKeyOf(tenantId: string): Promise<DataKey> {
    await this.#administration.getTenant(tenantId)
    return this.#dataKeys.get(this.#database, tenantId)
  }

  async #vet(text: string): Promise<string> {
    const url = this.#guard.checkUrl(text)
    await this.#guard.vetHost(url.hostname)
    return url.href
  }
}

/** Standard Webhooks: 24 to 64 bytes in base64. */
const makeHmacSecret = (): string => `whsec_${randomBytes(32).toString('base64')}`

/** `secret` from now on; the newest before it until `until`, and older ones until their own time. */
const succeed = (secret: string, before: readonly HmacSecret[], now: Date, until: Date): HmacSecret[] => {
  const previous = before.map((old) => ({ ...old, until: old.until ?? until.toISOString() }))
  const inUse = previous.filter((old) => Date.parse(old.until) > now.getTime())
  return [{ secret, until: null }, ...inUse].slice(0, mostSecrets)
}

const subjectOf = (endpoint: Endpoint, actor: string) => ({ sub: endpoint.id, tenant: endpoint.tenantId, actor })

/** The log says which URL and TLS identity without showing them, since URLs of receivers often hold secrets, and of
 *  headers their names. */
const configurationOf = (endpoint: Endpoint, actor: string) => {
  const { url, options, secrets } = endpoint
  return {
    ...subjectOf(endpoint, actor),
    url_sha256: digestOf(Buffer.from(url)),
    options: describeOptions(options),
    headers: Object.keys(secrets.headers),
    ...(secrets.tls !== null && { tls_sha256: digestOf(canonicalJson(secrets.tls)) }),
  }
}

const digestOf = (bytes: Uint8Array): string => sha256(bytes).toString('base64url')
