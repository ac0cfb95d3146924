import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import type { Acts } from '../log/acts.ts'
import { canonicalJson } from '../message/canonical.ts'
import type { IdMaker } from '../message/id.ts'
import { parseJson } from '../message/json.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database, Tx } from '../ports/database.ts'
import type { Administration } from './administration.ts'
import { hashSecret, makeSecret } from './api-key.ts'
import type { IngestUrl, Source } from './records.ts'
import { defaultSettings, type Settled, type SourceWish, settle } from './source-settings.ts'
import {
  deleteSource,
  findSource,
  ingestUrlsOf,
  insertIngestUrl,
  insertSource,
  revokeIngestUrl,
  touchTenant,
  updateSource,
} from './store.ts'

/** A source that works by itself, and one whose vendor is just being given another URL. */
const mostIngestUrls = 2

/** Sources and their ingest URLs. Who may change them is decided at the edge. */
export class Sources {
  readonly #database: Database
  readonly #acts: Acts
  readonly #administration: Administration
  readonly #dataKeys: DataKeys
  readonly #clock: Clock
  readonly #ids: IdMaker

  constructor(parts: {
    database: Database
    acts: Acts
    administration: Administration
    dataKeys: DataKeys
    clock: Clock
    ids: IdMaker
  }) {
    this.#database = parts.database
    this.#acts = parts.acts
    this.#administration = parts.administration
    this.#dataKeys = parts.dataKeys
    this.#clock = parts.clock
    this.#ids = parts.ids
  }

  /** Rejects with `request_invalid` for settings that cannot be, with `not_found` if there is no such tenant. */
  async create(actor: string, tenantId: string, wish: SourceWish & { name: string }): Promise<Source> {
    await this.#administration.getTenant(tenantId)
    const now = this.#clock.now()
    const settled = settle(wish, { settings: defaultSettings, secrets: [] })
    const id = this.#ids.make('src', now)
    const source = await this.#seal({ id, tenantId, name: wish.name, createdAt: now }, settled)
    const event = { kind: 'source.created', ...subjectOf(source, actor), settings: source.settings } as const
    await this.#acts.perform(event, async (tx, configuration) => {
      await insertSource(tx, source)
      await touchTenant(tx, tenantId, configuration)
    })
    return source
  }

  async update(actor: string, tenantId: string, id: string, wish: SourceWish): Promise<Source> {
    const { settings, sealedSecrets, ...before } = await this.get(tenantId, id)
    const secrets = await openSecrets(this.#database, this.#dataKeys, { ...before, sealedSecrets })
    const source = await this.#seal({ ...before, name: wish.name ?? before.name }, settle(wish, { settings, secrets }))
    const event = { kind: 'source.updated', ...subjectOf(source, actor), settings: source.settings } as const
    await this.#acts.perform(event, async (tx, configuration) => {
      await updateSource(tx, source)
      await touchTenant(tx, tenantId, configuration)
    })
    return source
  }

  /** Nothing more can be posted to it: its ingest keys and URLs are revoked, its secrets gone. What was accepted stays. */
  async delete(actor: string, tenantId: string, id: string): Promise<void> {
    const source = await this.get(tenantId, id)
    await this.#acts.perform({ kind: 'source.deleted', ...subjectOf(source, actor) }, async (tx, configuration) => {
      await deleteSource(tx, tenantId, id, this.#clock.now())
      await touchTenant(tx, tenantId, configuration)
    })
  }

  async get(tenantId: string, id: string): Promise<Source> {
    const source = await findSource(this.#database, id)
    if (source?.tenantId !== tenantId) throw new RelayError('not_found')
    return source
  }

  /** Makes a URL that names the source by a token of 256 bits, which is in the answer and nowhere else. To rotate: make
   *  another, give it to the vendor, revoke the first. */
  async createUrl(actor: string, tenantId: string, id: string): Promise<{ ingestUrl: IngestUrl; token: string }> {
    const source = await this.get(tenantId, id)
    if ((await this.urlsOf(tenantId, id)).length >= mostIngestUrls) {
      const detail = `A source has at most ${mostIngestUrls} ingest URLs. Revoke one first.`
      throw new RelayError('request_invalid', { detail })
    }
    const now = this.#clock.now()
    const token = makeSecret()
    const rest = { tenantId, sourceId: source.id, tokenHash: hashSecret(token), createdAt: now }
    const ingestUrl: IngestUrl = { id: this.#ids.make('url', now), ...rest }
    const event = { kind: 'ingest_url.created', ...urlSubjectOf(ingestUrl, actor) } as const
    await this.#acts.perform(event, async (tx, configuration) => {
      await insertIngestUrl(tx, ingestUrl)
      await touchTenant(tx, tenantId, configuration)
    })
    return { ingestUrl, token }
  }

  async revokeUrl(actor: string, tenantId: string, id: string, urlId: string): Promise<void> {
    const ingestUrl = (await this.urlsOf(tenantId, id)).find((candidate) => candidate.id === urlId)
    if (ingestUrl === undefined) throw new RelayError('not_found')
    const event = { kind: 'ingest_url.revoked', ...urlSubjectOf(ingestUrl, actor) } as const
    await this.#acts.perform(event, async (tx, configuration) => {
      await revokeIngestUrl(tx, urlId, this.#clock.now())
      await touchTenant(tx, tenantId, configuration)
    })
  }

  /** Those that work. */
  async urlsOf(tenantId: string, id: string): Promise<IngestUrl[]> {
    await this.get(tenantId, id)
    return ingestUrlsOf(this.#database, tenantId, id)
  }

  async #seal(bare: Omit<Source, 'settings' | 'sealedSecrets'>, { settings, secrets }: Settled): Promise<Source> {
    if (secrets.length === 0) return { ...bare, settings, sealedSecrets: null }
    const dataKey = await this.#dataKeys.get(this.#database, bare.tenantId)
    return { ...bare, settings, sealedSecrets: dataKey.seal(canonicalJson([...secrets]), secretsContext(bare)) }
  }
}

/** The secrets of a source, newest first. */
export async function openSecrets(
  tx: Tx,
  dataKeys: DataKeys,
  source: Pick<Source, 'id' | 'tenantId' | 'sealedSecrets'>,
): Promise<string[]> {
  if (source.sealedSecrets === null) return []
  const dataKey = await dataKeys.get(tx, source.tenantId)
  return parseJson(dataKey.open(source.sealedSecrets, secretsContext(source))) as string[]
}

/** What the sealed secrets of a source are bound to. */
const secretsContext = ({ tenantId, id }: Pick<Source, 'id' | 'tenantId'>): Uint8Array =>
  Buffer.from(`source\0${tenantId}\0${id}`)

const subjectOf = ({ id, tenantId }: Source, actor: string) => ({ sub: id, tenant: tenantId, actor })

const urlSubjectOf = ({ id, tenantId, sourceId }: IngestUrl, actor: string) => ({
  sub: id,
  tenant: tenantId,
  actor,
  source: sourceId,
})
