import { setTimeout as delay } from 'node:timers/promises'
import { RelayError } from '../errors.ts'
import { type DataKeys, deploymentVault } from '../keyring/data-keys.ts'
import type { DataKey } from '../keyring/vault.ts'
import { CommitUnknown, type Database, DatabaseUnavailable, type Transaction, type Tx } from '../ports/database.ts'
import type { Admission, AfterCommit, Bound, Effect, Head, Sequenced, Superseded } from '../ports/effect.ts'
import type { Observer } from '../ports/observer.ts'
import type { CheckpointSigner } from './checkpoint.ts'
import type { Partitions } from './partitions.ts'
import { loadEdge } from './reader.ts'
import { type Retention, statementExpiry } from './retention.ts'
import { entryOf, type Stated, statementContext } from './statement.ts'
import {
  advanceConfiguration,
  advanceHead,
  findStatement,
  followHead,
  type HeadRow,
  headMoved,
  insertFullTile,
  insertStatements,
  lockHead,
} from './store.ts'
import { type Growth, hashLeaf, type TreeEdge } from './tree.ts'

/** A statement to append, and the rows that must exist if and only if it does. */
export interface Pending {
  readonly stated: Stated
  /** Where a receipt will be issued: the payload key's signature over the statement. */
  readonly signed?: { readonly kid: string; readonly signature: Uint8Array }
  readonly effects: readonly Bound[]
  /** Nobody waits for this one: it may wait a moment for a batch that leaves anyway. */
  readonly patient?: boolean
}

/** Where a statement stands in the log, and the proof of it: all that a receipt adds to the signature. */
export interface SequencedEntry {
  readonly kind: 'sequenced'
  readonly leafIndex: number
  readonly treeSize: number
  /** The audit path, leaf to root (RFC 6962 §2.1.1). */
  readonly proof: readonly Uint8Array[]
  /** The signed checkpoint of `treeSize`. */
  readonly checkpoint: string
}

/** The log contradicts itself. Nothing may be appended to it any more: the process must stop. */
export class LogBroken extends Error {
  override readonly name = 'LogBroken'
}

/** Larger batches save no CPU and make everyone in them wait: latency jumps beyond a few hundred rows. */
const maxBatch = 256

/** Of so many batches under way, one is carried out while the next is on its way. */
const mostUnderWay = 2

/** A batch costs what it costs, however little is in it: while one is under way, another leaves for so many statements. */
const leastToFollow = 16

/** How long a patient statement waits for company. Half of all statements record an attempt; in batches of their own they
 *  would double what a log under moderate load costs. */
const patienceMs = 10

/** How long the outcome of a COMMIT is looked for after its connection was lost. */
const readBackMs = 15_000

/**
 * Gives statements their place in the log, in batches: while one batch commits, the next one fills (group commit
 * without a timer, except for the patient). The life of a batch is {@link Sequencer.#sequence}, told in README.md of this
 * folder.
 *
 * Where much is waiting, a batch does not wait for the one before it: it is placed behind leaves that are still to be
 * committed, and PostgreSQL, which has it wait for the row of the head, refuses it should they come to nothing.
 */
export class Sequencer {
  readonly #database: Database
  readonly #dataKeys: DataKeys
  readonly #signCheckpoint: CheckpointSigner
  readonly #observer: Observer
  readonly #partitions: Partitions
  readonly #retentionOf: (tenantId: string | null) => Promise<Retention>
  readonly #onCheckpoint: (checkpoint: string) => void
  readonly #onBroken: (error: LogBroken) => void
  /** The head as the latest batch of this process left it. Another process may have gone on from there. */
  #head: KnownHead | undefined
  /** Where the next batch goes on without looking first: behind the last one under way, or committed. Undefined where that
   *  would be rash: another process appended, or a batch failed. */
  #tip: KnownHead | undefined
  #queue: Waiting[] = []
  /** Whether somebody waits for what is in the queue. */
  #urgent = false
  #patience: NodeJS.Timeout | undefined
  /** Whether batches are to be begun when this turn of the event loop is over: the rest of it may bring more statements. */
  #beginning = false
  /** Batches that have no outcome yet, in the order of the log. */
  readonly #underWay: Promise<void>[] = []
  /** Whether the last of them is still waiting for a connection: another must not overtake it. */
  #departing = false
  #closed = false
  #broken: LogBroken | undefined

  constructor(parts: {
    database: Database
    dataKeys: DataKeys
    signCheckpoint: CheckpointSigner
    observer: Observer
    partitions: Partitions
    /** For how long a tenant's statements are kept; null asks for the deployment's. */
    retentionOf: (tenantId: string | null) => Promise<Retention>
    /** Told of each checkpoint once it is committed. */
    onCheckpoint: (checkpoint: string) => void
    /** Told once that nothing can be appended any more. */
    onBroken: (error: LogBroken) => void
  }) {
    this.#database = parts.database
    this.#dataKeys = parts.dataKeys
    this.#signCheckpoint = parts.signCheckpoint
    this.#observer = parts.observer
    this.#partitions = parts.partitions
    this.#retentionOf = parts.retentionOf
    this.#onCheckpoint = parts.onCheckpoint
    this.#onBroken = parts.onBroken
  }

  /** The right edge of the tree as this process last left it; undefined before its first batch. */
  get edge(): TreeEdge | undefined {
    return this.#head?.edge
  }

  /** Statements that wait for a batch. Bounded by who appends: posts under way (relay.ts) and attempts unrecorded. */
  get depth(): number {
    return this.#queue.length
  }

  /**
   * Resolves once the statement and its effects are committed. Rejects with RelayError `storage_unavailable` when they
   * certainly are not, `outcome_unknown` when that could not be found out, or with the error of an effect.
   */
  async append(pending: Pending): Promise<SequencedEntry | Superseded> {
    const { statement, statedAt } = pending.stated
    const { tenantId, dataKey } = await this.#vaultOf(pending.stated)
    const expiresAt = statementExpiry(statedAt, await this.#retentionOf(tenantId))
    const partition = this.#partitions.ready('statements', expiresAt)
    if (partition !== undefined) await partition
    if (this.#broken !== undefined) throw new RelayError('internal', { cause: this.#broken })
    if (this.#closed) throw new RelayError('shutting_down', { retryAfterS: 1 })
    const entry = entryOf(statement)
    const sealed = dataKey.seal(statement, statementContext(tenantId))
    return new Promise((resolve, reject) => {
      this.#queue.push({ pending, tenantId, entry, sealed, expiresAt, resolve, reject })
      if (pending.patient === true) this.#patience ??= setTimeout(() => this.#hurry(), patienceMs)
      else this.#hurry()
    })
  }

  /** Who can read the statement. Of an erased tenant something may still have to be said, such as that a delivery under
   *  way ended: that is filed under the deployment. It holds identifiers and no content. */
  async #vaultOf({ tenantId }: Stated): Promise<{ tenantId: string | null; dataKey: DataKey }> {
    try {
      return { tenantId, dataKey: await this.#dataKeys.get(this.#database, tenantId ?? deploymentVault) }
    } catch (error) {
      if (!(error instanceof RelayError && error.code === 'tenant_erased')) throw error
      return { tenantId: null, dataKey: await this.#dataKeys.get(this.#database, deploymentVault) }
    }
  }

  /** From now on nothing is appended: somebody found that the log contradicts itself, or what it published. */
  halt(broken: LogBroken): void {
    this.#broken = broken
    this.#onBroken(broken)
  }

  /** Takes no more statements and resolves when the last batch has an outcome. */
  async close(): Promise<void> {
    this.#closed = true
    this.#hurry()
    this.#begin()
    while (this.#underWay.length > 0) await this.#underWay.at(-1)
  }

  #hurry(): void {
    if (this.#queue.length === 0) return
    this.#urgent = true
    this.#beginSoon()
  }

  #beginSoon(): void {
    if (this.#beginning) return
    this.#beginning = true
    setImmediate(() => this.#begin())
  }

  /** Begins whatever batches may begin now. */
  #begin(): void {
    this.#beginning = false
    while (this.#urgent && this.#queue.length > 0 && this.#mayBegin()) {
      const batch = this.#queue.splice(0, maxBatch)
      this.#urgent = this.#queue.length > 0
      if (!this.#urgent) this.#calm()
      const sequenced = this.#sequence(batch, this.#underWay.at(-1))
        .catch((cause: unknown) => this.halt(new LogBroken('a batch ended in a fault of the relay', { cause })))
        .then(() => {
          this.#underWay.shift()
          this.#begin()
        })
      this.#underWay.push(sequenced)
    }
  }

  #mayBegin(): boolean {
    if (this.#underWay.length === 0) return true
    if (this.#underWay.length >= mostUnderWay || this.#departing || this.#tip === undefined) return false
    return this.#queue.length >= leastToFollow && !this.#queue.some(isInDoubt)
  }

  /** The queue is empty: whoever is patient from now on has their time before them. */
  #calm(): void {
    clearTimeout(this.#patience)
    this.#patience = undefined
  }

  /**
   * Commits a batch and answers everyone in it, in the order of the log: after the batch `before` it. `again` if the
   * database refused a batch with it before. Never rejects.
   */
  async #sequence(batch: readonly Waiting[], before?: Promise<void>, again = false): Promise<void> {
    const startedAt = performance.now()
    const believed = again || batch.some(isInDoubt) ? undefined : this.#tip
    const sent: { proposal?: Proposal } = {}
    try {
      // Before a connection is waited for: so the next batch can go on from there.
      if (believed !== undefined) sent.proposal = this.#place(believed, allAdmitted(batch))
      this.#tip = sent.proposal?.next
      this.#departing = true
      await this.#database.transaction(async (tx) => {
        sent.proposal ??= await this.#lock(tx, batch)
        if (before !== undefined) followHead(tx)
        await this.#write(tx, sent.proposal)
        this.#departing = false
        this.#beginSoon()
      })
      await before
    } catch (error) {
      this.#departing = false
      await before
      this.#tip = undefined
      if (believed !== undefined && headMoved(error)) return this.#sequence(batch, undefined, again)
      const unknown = error instanceof CommitUnknown && sent.proposal !== undefined
      const landed = unknown && (await this.#readBack(sent.proposal))
      if (landed === undefined) {
        this.#observer.batchFailed('unknown_outcome')
        return refuse(batch, new RelayError('outcome_unknown', { cause: error, retryAfterS: 5 }))
      }
      if (!landed) return this.#fail(batch, error, again)
    }
    const { proposal } = sent
    if (proposal === undefined) return
    this.#answer(proposal)
    if (proposal.next === undefined) return
    this.#head = proposal.next
    // Not while a batch is under way that went on from what has failed since, nor while others of its batch are to follow.
    if (proposal.alone && !again && this.#underWay.length === 1) this.#tip ??= proposal.next
    this.#onCheckpoint(proposal.next.checkpoint)
    this.#observer.batchCommitted(proposal.admitted.length, (performance.now() - startedAt) / 1000)
    this.#observer.treeGrew(proposal.next.edge.treeSize)
  }

  /** Gives each of those admitted its leaf behind `at`. */
  #place(at: KnownHead, fates: Fates, alone = true): Proposal {
    const { admitted } = fates
    const { origin, configuration, edge } = at
    const proposal = { ...fates, at, alone, firstLeafIndex: edge.treeSize, afterCommit: [] }
    if (admitted.length === 0) return { ...proposal, growth: undefined, next: undefined }
    const growth = edge.append(admitted.map((waiting) => hashLeaf(waiting.entry)))
    const { treeSize, rootHash } = growth.edge
    const checkpoint = this.#signCheckpoint({ origin, treeSize, rootHash })
    return { ...proposal, growth, next: { origin, configuration, checkpoint, edge: growth.edge } }
  }

  /**
   * What stands between BEGIN and COMMIT. If the process dies anywhere in here, the database rolls back and nobody was
   * answered; if it dies after COMMIT, the batch stands and its vendors, unanswered, will post again.
   */
  async #write(tx: Transaction, { at, admitted, growth, next, afterCommit }: Proposal): Promise<void> {
    if (growth === undefined || next === undefined) return
    const { treeSize, rootHash } = next.edge
    // First of all, so that whatever follows is ours alone to write.
    const from = { treeSize: at.edge.treeSize, rootHash: at.edge.rootHash, configuration: at.configuration }
    advanceHead(tx, from, { treeSize, rootHash, checkpoint: next.checkpoint })
    insertStatements(
      tx,
      admitted.map(({ tenantId, entry, sealed, expiresAt, pending: { stated, signed } }, i) => ({
        leafIndex: from.treeSize + i,
        tenantId,
        statedAt: stated.statedAt,
        kind: stated.kind,
        actor: stated.actor,
        entry,
        sealed,
        kid: signed?.kid ?? null,
        signature: signed?.signature ?? null,
        expiresAt,
      })),
    )
    for (const tile of growth.fullTiles) insertFullTile(tx, tile)
    afterCommit.push(...(await writeEffects(tx, admitted, from.treeSize, at)))
  }

  /** Locks the head, asks whoever is in doubt, and goes on from where the head is. Costs a round trip or two, which a batch
   *  saves that knows where to go on and is without doubt: it sends everything at once, and the compare-and-swap refuses it
   *  if it was wrong. */
  async #lock(tx: Tx, batch: readonly Waiting[]): Promise<Proposal> {
    const head = await lockHead(tx)
    const edge = await this.#edgeOf(tx, head)
    const alone = this.#head === undefined || this.#head.edge.treeSize === head.treeSize
    const { origin, configuration, checkpoint } = head
    return this.#place({ origin, configuration, checkpoint, edge }, await admit(tx, batch), alone)
  }

  /** The right edge of the tree at `head`: ours if nobody else appended since, else read from the database. */
  async #edgeOf(tx: Tx, head: HeadRow): Promise<TreeEdge> {
    const known = this.#head?.edge
    if (known !== undefined && known.treeSize > head.treeSize) {
      throw this.#stop(`the log shrank from ${known.treeSize} to ${head.treeSize} leaves`)
    }
    const edge = known?.treeSize === head.treeSize ? known : await loadEdge(tx, head.treeSize)
    if (Buffer.compare(edge.rootHash, head.rootHash) !== 0) {
      throw this.#stop(`the leaves of the log do not hash to its root at ${head.treeSize}`)
    }
    return edge
  }

  #stop(sentence: string): LogBroken {
    const broken = new LogBroken(sentence)
    this.halt(broken)
    return broken
  }

  /** Whether a batch whose COMMIT got no answer is in the log; undefined if the database cannot be asked in time. */
  async #readBack(proposal: Proposal | undefined): Promise<boolean | undefined> {
    const first = proposal?.admitted[0]
    if (proposal === undefined || first === undefined) return true
    for (const until = performance.now() + readBackMs; performance.now() < until; await delay(100)) {
      try {
        return await this.#database.transaction(async (tx) => {
          // A backend may still be committing what we sent. If it holds the head, this waits for it.
          await lockHead(tx)
          const row = await findStatement(tx, proposal.firstLeafIndex)
          // Salted, so equal entries mean the same statement: either the whole batch is there or none of it.
          const landed = row !== undefined && Buffer.compare(row.entry, first.entry) === 0
          // If it has not come to the head yet, its compare-and-swap must fail when it does: we say that nothing happened.
          if (!landed) await advanceConfiguration(tx)
          return landed
        })
      } catch {
        // Still unreachable, or restarting. Ask again: guessing could answer for a message that does not exist.
      }
    }
    return undefined
  }

  async #fail(batch: readonly Waiting[], cause: unknown, again: boolean): Promise<void> {
    if (cause instanceof DatabaseUnavailable || cause instanceof CommitUnknown) {
      this.#observer.batchFailed('unavailable')
      return refuse(batch, new RelayError('storage_unavailable', { cause, retryAfterS: 1 }))
    }
    this.#observer.batchFailed('refused')
    if (again || cause instanceof LogBroken) return refuse(batch, cause)
    // The database refused one of them and does not say which. Once more, each alone: whatever fails then fails alone.
    for (const waiting of batch) await this.#sequence([waiting], undefined, true)
  }

  #answer({ admitted, superseded, deferred, firstLeafIndex, growth, next, afterCommit }: Proposal): void {
    for (const follow of afterCommit) follow()
    this.#queue.unshift(...deferred)
    if (deferred.length > 0) this.#urgent = true
    for (const [waiting, reason] of superseded) waiting.resolve(reason)
    if (growth === undefined || next === undefined) return
    const { checkpoint, edge } = next
    const { treeSize } = edge
    for (const [i, waiting] of admitted.entries()) {
      const leafIndex = firstLeafIndex + i
      waiting.resolve({ kind: 'sequenced', leafIndex, treeSize, checkpoint, proof: growth.prove(leafIndex) })
    }
  }
}

interface Waiting {
  readonly pending: Pending
  /** Whose data key sealed it. */
  readonly tenantId: string | null
  readonly entry: Uint8Array
  readonly sealed: Uint8Array
  readonly expiresAt: Date
  readonly resolve: (outcome: SequencedEntry | Superseded) => void
  readonly reject: (error: unknown) => void
}

/** The head of the log, with the edge that appending needs. */
interface KnownHead extends Head {
  readonly origin: string
  readonly checkpoint: string
  readonly edge: TreeEdge
}

/** What becomes of those in a batch. */
interface Fates {
  readonly admitted: readonly Waiting[]
  readonly superseded: readonly (readonly [Waiting, Superseded])[]
  readonly deferred: readonly Waiting[]
}

/** A batch as it will be if COMMIT succeeds. */
interface Proposal extends Fates {
  /** Where the log was before it. */
  readonly at: KnownHead
  /** Whether nobody else appended since this process did. */
  readonly alone: boolean
  readonly firstLeafIndex: number
  /** Undefined if nothing was admitted. */
  readonly growth: Growth | undefined
  readonly next: KnownHead | undefined
  readonly afterCommit: AfterCommit[]
}

function refuse(batch: readonly Waiting[], error: unknown): void {
  for (const waiting of batch) waiting.reject(error)
}

const isInDoubt = ({ pending }: Waiting): boolean =>
  pending.effects.some(({ effect, row }) => effect.doubt?.(row) === true)

const allAdmitted = (batch: readonly Waiting[]): Fates => ({ admitted: batch, superseded: [], deferred: [] })

async function admit(tx: Tx, batch: readonly Waiting[]): Promise<Fates> {
  const verdicts = new Map<Waiting, Admission>()
  for (const [effect, bound] of byEffect(batch)) {
    if (effect.admit === undefined) continue
    const admissions = await effect.admit(
      tx,
      bound.map(({ row }) => row),
    )
    for (const [i, { waiting }] of bound.entries()) {
      const admission = admissions[i]
      if (admission !== undefined && admission.kind !== 'admitted') verdicts.set(waiting, admission)
    }
  }
  const admitted: Waiting[] = []
  const superseded: [Waiting, Superseded][] = []
  const deferred: Waiting[] = []
  for (const waiting of batch) {
    const verdict = verdicts.get(waiting)
    if (verdict?.kind === 'superseded') superseded.push([waiting, verdict])
    else if (verdict?.kind === 'defer') deferred.push(waiting)
    else admitted.push(waiting)
  }
  return { admitted, superseded, deferred }
}

async function writeEffects(
  tx: Transaction,
  admitted: readonly Waiting[],
  firstLeafIndex: number,
  head: Head,
): Promise<AfterCommit[]> {
  const writes = [...byEffect(admitted)].map(([effect, bound]) => {
    const rows: Sequenced<unknown>[] = bound.map(({ row, position }) => ({ row, leafIndex: firstLeafIndex + position }))
    return effect.write(tx, rows, head)
  })
  const followUps = await allOf(writes)
  return followUps.filter((follow) => follow !== undefined)
}

function byEffect(
  batch: readonly Waiting[],
): Map<Effect<unknown>, { row: unknown; waiting: Waiting; position: number }[]> {
  const groups = new Map<Effect<unknown>, { row: unknown; waiting: Waiting; position: number }[]>()
  for (const [position, waiting] of batch.entries()) {
    for (const { effect, row } of waiting.pending.effects) {
      const group = groups.get(effect)
      if (group === undefined) groups.set(effect, [{ row, waiting, position }])
      else group.push({ row, waiting, position })
    }
  }
  return groups
}

/** Promise.all, rejecting with whatever failed first, but only once all have settled: none may go on using a transaction
 *  that has ended. */
async function allOf<T extends readonly unknown[]>(
  work: readonly [...{ [I in keyof T]: Promise<T[I]> | T[I] }],
): Promise<T> {
  const all = Promise.all(work)
  all.catch(() => {}) // answered for below
  await Promise.allSettled(work)
  return (await all) as unknown as T
}
