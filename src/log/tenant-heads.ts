import type { Clock } from '../ports/clock.ts'
import type { Database, Transaction, Tx } from '../ports/database.ts'
import { bind, type Effect } from '../ports/effect.ts'
import type { SequencedEntry, Sequencer } from './sequencer.ts'
import { type Statement, state } from './statement.ts'
import { findHead } from './store.ts'
import { emptyDigest, extendDigest } from './tenant-digest.ts'

/** What a `tenant.head` vouches for: `digest` rolls over all leaves of the tenant before leaf `upto`. */
export interface TenantHead {
  /** Where its statement stands: never before `upto`. */
  readonly leafIndex: number
  readonly upto: number
  readonly digest: Uint8Array
}

/** A head stated just now, with its place in the log. */
export interface StatedHead extends TenantHead {
  readonly statement: Statement
  readonly place: SequencedEntry
}

/** A tenant whose last head is older than this gets another, so that leaves are counted long before they expire. */
const headEveryMs = 86_400_000

/** How often somebody looks whether one is due. */
const lookEveryMs = 3_600_000

/** Leaves read at once. */
const pageLeaves = 4096

/**
 * States from time to time how many leaves a tenant has and which: a leaf that is left out of an export afterwards is
 * missed. A head covers what is committed when it is made; batches that come in between it and its own place are for
 * the next one.
 */
export class TenantHeads {
  readonly #database: Database
  readonly #sequencer: Sequencer
  readonly #clock: Clock
  readonly #issuer: string
  #lookedAtMs = 0

  constructor(parts: { database: Database; sequencer: Sequencer; clock: Clock; issuer: string }) {
    this.#database = parts.database
    this.#sequencer = parts.sequencer
    this.#clock = parts.clock
    this.#issuer = parts.issuer
  }

  /** Two at once are both right: a digest depends on the log alone. */
  async append(tenantId: string): Promise<StatedHead> {
    const log = await findHead(this.#database)
    if (log === undefined) throw new Error('the database holds no log')
    const upto = log.treeSize
    const before = (await latestHead(this.#database, tenantId)) ?? { upto: 0, digest: emptyDigest }
    const { count, digest } = await this.#roll(tenantId, before, upto)
    const event = {
      ...{ kind: 'tenant.head' as const, sub: tenantId, tenant: tenantId },
      ...{ from: before.upto, upto, count, previous: base64url(before.digest), digest: base64url(digest) },
    }
    const now = this.#clock.now()
    const stated = state(this.#issuer, event, now)
    const place = await this.#sequencer.append({ stated, effects: [bind(recordHead, { tenantId, upto, digest, now })] })
    if (place.kind === 'superseded') throw new Error('nothing supersedes a head')
    return { leafIndex: place.leafIndex, upto, digest, statement: stated.statement, place }
  }

  /** A head for every tenant that has had none for a day, though it has leaves since. Rejects at the first that fails.
   *  Cheap to call: it looks once an hour. */
  async appendDue(): Promise<void> {
    const nowMs = this.#clock.now().getTime()
    if (nowMs - this.#lookedAtMs < lookEveryMs) return
    this.#lookedAtMs = nowMs
    const before = new Date(nowMs - headEveryMs)
    for (const { id } of await this.#database.query<{ id: string }>(selectDue, [before])) await this.append(id)
  }

  async #roll(tenantId: string, from: Pick<TenantHead, 'upto' | 'digest'>, upto: number) {
    let { digest } = from
    let count = 0
    for (let next = from.upto; next < upto; ) {
      const leaves = await this.#database.readAs(tenantId, (tx) =>
        tx.query<{ leafIndex: number; entry: Uint8Array }>(selectEntries, [tenantId, next, upto, pageLeaves]),
      )
      for (const { leafIndex, entry } of leaves) digest = extendDigest(digest, leafIndex, entry)
      count += leaves.length
      next = leaves.length < pageLeaves ? upto : (leaves.at(-1)?.leafIndex ?? upto) + 1
    }
    return { count, digest }
  }
}

/**
 * Where an export that is to show the leaves from `from` on begins to count: the last head before that, or an older
 * beginning, or, where the older leaves have expired, the first head that needs none of them. Undefined is the
 * beginning of the tenant, whose first leaf is `tenant.created`; `expired` says that there is no place to begin at.
 */
export async function findBasis(tx: Tx, tenantId: string, from: number): Promise<TenantHead | undefined | 'expired'> {
  const [first] = await tx.query<{ leafIndex: number; kind: string }>(selectFirst, [tenantId])
  if (first === undefined) return 'expired'
  const whole = first.kind === 'tenant.created'
  const [before] = await tx.query<TenantHead>(selectBefore, [tenantId, whole ? 0 : first.leafIndex, from])
  if (before !== undefined || whole) return before
  const [after] = await tx.query<TenantHead>(selectAfter, [tenantId, first.leafIndex])
  return after ?? 'expired'
}

interface HeadRecord {
  readonly tenantId: string
  readonly upto: number
  readonly digest: Uint8Array
  readonly now: Date
}

const recordHead: Effect<HeadRecord> = {
  async write(tx: Transaction, rows) {
    for (const { row, leafIndex } of rows) tx.send(insertHead, [row.tenantId, leafIndex, row.upto, row.digest, row.now])
    return undefined
  },
}

const insertHead = `
  insert into tenant_heads (tenant_id, leaf_index, upto, digest, made_at) values ($1, $2, $3, $4, $5)`

const columns = `leaf_index as "leafIndex", upto, digest`

const selectLatest = `
  select ${columns} from tenant_heads where tenant_id = $1 order by upto desc, leaf_index desc limit 1`

async function latestHead(tx: Tx, tenantId: string): Promise<TenantHead | undefined> {
  const [head] = await tx.query<TenantHead>(selectLatest, [tenantId])
  return head
}

const selectEntries = `
  select leaf_index as "leafIndex", entry
    from statements
   where tenant_id = $1 and leaf_index >= $2 and leaf_index < $3
   order by leaf_index limit $4`

const selectFirst = `
  select leaf_index as "leafIndex", kind from statements where tenant_id = $1 order by leaf_index limit 1`

const selectBefore = `
  select ${columns} from tenant_heads
   where tenant_id = $1 and upto > $2 and upto <= $3
   order by upto desc, leaf_index desc limit 1`

const selectAfter = `
  select ${columns} from tenant_heads where tenant_id = $1 and upto > $2 order by upto, leaf_index limit 1`

// The head itself is a leaf of its tenant: one that is followed by nothing else needs no other.
const selectDue = `
  select t.id
    from tenants t
    left join lateral (select leaf_index, made_at from tenant_heads where tenant_id = t.id
                        order by upto desc, leaf_index desc limit 1) h on true
   where t.erased_at is null
     and coalesce(h.made_at, t.created_at) < $1
     and exists (select from statements s where s.tenant_id = t.id and s.leaf_index > coalesce(h.leaf_index, -1))
   order by t.id`

const base64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')
