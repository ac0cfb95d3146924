import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { gzip, zstdCompress } from 'node:zlib'
import { RelayError } from '../errors.ts'
import type { DataKeys } from '../keyring/data-keys.ts'
import { jwsHeader } from '../keyring/jws.ts'
import { type Keyring, signWith } from '../keyring/keyring.ts'
import { jwsSigningInput } from '../keyring/signing-input.ts'
import type { Sequencer } from '../log/sequencer.ts'
import { type AuditEvent, state } from '../log/statement.ts'
import { emptyDigest } from '../log/tenant-digest.ts'
import { findBasis, type TenantHeads } from '../log/tenant-heads.ts'
import { canonicalJson } from '../message/canonical.ts'
import type { Clock } from '../ports/clock.ts'
import type { Database, Tx } from '../ports/database.ts'
import { bind, type Effect } from '../ports/effect.ts'
import type { Logger } from '../ports/logger.ts'
import type { ObjectStore } from '../ports/object-store.ts'
import { exportFormat, exportJwsType } from './export-format.ts'
import {
  claimExport,
  countLeaves,
  deleteExport,
  type ExportPart,
  type ExportRow,
  finishExport,
  leafAt,
  releaseExport,
  saveExport,
} from './export-store.ts'
import { type ExportPlan, type ExportProgress, firstProgress, LeavesMissing, writePart } from './export-writer.ts'
import { bytesOf, partContext, readParts } from './exports.ts'

/** A part takes a second at most; a process that was silent for this long is gone. */
const leaseMs = 60_000

/** How long others may try before an export is given up on. */
const retryMs = 10_000
const mostFailures = 5

const compressors = { zstd: promisify(zstdCompress), gzip: promisify(gzip) }

interface WorkerParts {
  readonly database: Database
  readonly sequencer: Sequencer
  readonly keyring: Keyring
  readonly dataKeys: DataKeys
  readonly heads: TenantHeads
  readonly objectStore: ObjectStore
  readonly clock: Clock
  readonly logger: Logger
  readonly issuer: string
  readonly origin: string
  readonly vkeys: () => readonly string[]
  /** Every key ever, as it is published. */
  readonly keys: () => readonly object[]
  /** How often the database is asked for exports that others left behind, milliseconds. */
  readonly pollMs: number
}

/**
 * Writes exports, one at a time. The file is the concatenation of parts, each compressed by itself (frames of zstd, and
 * members of gzip, may follow each other), sealed, and put into the object store under a name of its own; only then does
 * the row record it, with all that the next part needs to know. A process that dies leaves at most one part that nobody
 * names, and whoever takes the lease over goes on behind the last part recorded: nothing is written twice.
 */
export class ExportWorker {
  readonly #parts: WorkerParts
  /** Who holds a lease: a process, by a name that nobody else has. */
  readonly #holder = randomBytes(8).toString('hex')
  readonly #stopping = new AbortController()
  #wake = new AbortController()
  #running: Promise<void> = Promise.resolve()

  constructor(parts: WorkerParts) {
    this.#parts = parts
  }

  start(): void {
    this.#running = this.#run()
  }

  /** Looks for work now. */
  wake(): void {
    this.#wake.abort()
  }

  /** Resolves when the part under way is recorded. */
  async stop(): Promise<void> {
    this.#stopping.abort()
    this.#wake.abort()
    await this.#running
  }

  async #run(): Promise<void> {
    const { logger, pollMs } = this.#parts
    const stopping = this.#stopping.signal
    while (!stopping.aborted) {
      this.#wake = new AbortController()
      const worked = await this.#work().catch((error: unknown) => {
        logger.warn({ err: error }, 'export.claim failed, will try again')
        return false
      })
      if (!worked && !stopping.aborted) await delay(pollMs, undefined, { signal: this.#wake.signal }).catch(() => {})
    }
  }

  /** Claims an export and works at it to its end. False if there is none. */
  async #work(): Promise<boolean> {
    const { database, clock, logger } = this.#parts
    const row = await claimExport(database, this.#holder, clock.now(), this.#leaseEnd())
    if (row === undefined) return false
    const { id, tenantId: tenant } = row
    try {
      await this.#write(row)
    } catch (error) {
      if (error instanceof LeaseLost) return true
      if (error instanceof RelayError && error.code === 'tenant_erased') {
        await this.#forget(row)
        return true
      }
      logger.warn({ err: error, export: id, tenant }, 'export.write failed')
      if (error instanceof LeavesMissing) await this.#fail(row, 'leaves_expired')
      else if (row.failures + 1 >= mostFailures) await this.#fail(row, 'internal')
      else await releaseExport(database, id, this.#holder, new Date(clock.now().getTime() + retryMs), 1)
    }
    return true
  }

  async #write(row: ExportRow): Promise<void> {
    const { database, clock } = this.#parts
    const plan = row.plan ?? (await this.#plan(row))
    let progress = row.progress ?? firstProgress(plan)
    const parts = [...row.parts]
    while (!progress.ended) {
      if (this.#stopping.signal.aborted)
        return void (await releaseExport(database, row.id, this.#holder, clock.now(), 0))
      const written = await writePart(plan, progress, this.#parts)
      progress = written.progress
      const text = progress.ended ? Buffer.concat([written.text, this.#manifest(plan, progress)]) : written.text
      const part = await this.#store(row, parts.length, text)
      const saved = { plan, progress, parts: [part] }
      if (!(await saveExport(database, row, this.#holder, this.#leaseEnd(), saved))) {
        await this.#parts.objectStore.delete(part.key)
        throw new LeaseLost()
      }
      parts.push(part)
    }
    await this.#finish({ ...row, parts })
  }

  /** Fixes what the export shows: the head that closes it is stated first, and the checkpoint of its batch covers all. */
  async #plan({ id, tenantId, wish }: ExportRow): Promise<ExportPlan> {
    const { database, heads, issuer, origin } = this.#parts
    const { place, upto, leafIndex, digest, statement } = await heads.append(tenantId)
    const at = (time: string | undefined, otherwise: number) =>
      time === undefined ? otherwise : database.readAs(tenantId, (tx) => leafAt(tx, tenantId, new Date(time), upto))
    const wishedFrom = await at(wish.from, 0)
    const basis = await findBasis(database, tenantId, wishedFrom)
    if (basis === 'expired') throw new LeavesMissing()
    const begin = basis?.upto ?? 0
    const from = Math.max(begin, wishedFrom)
    const to = Math.max(from, await at(wish.to, upto))
    return {
      header: {
        ...{ format: exportFormat, id, issuer, origin, tenant: tenantId },
        basis: {
          upto: begin,
          digest: base64url(basis?.digest ?? emptyDigest),
          ...(basis !== undefined && { index: basis.leafIndex }),
        },
        range: { from, to },
        ...(wish.kinds !== undefined && { kinds: wish.kinds }),
        checkpoint: place.checkpoint,
        vkeys: this.#parts.vkeys(),
        keys: this.#parts.keys(),
      },
      treeSize: place.treeSize,
      head: { leafIndex, upto, digest: base64url(digest), statement: base64url(statement) },
      leaves: await database.readAs(tenantId, (tx) => countLeaves(tx, tenantId, begin, upto)),
    }
  }

  /** The last line: who vouches for those before it. */
  #manifest({ header: { id, tenant, issuer } }: ExportPlan, { lines, chain, shown, withheld }: ExportProgress): Buffer {
    const iat = Math.floor(this.#parts.clock.now().getTime() / 1000)
    const claims = { iss: issuer, iat, sub: id, tenant, lines, digest: chain, shown, withheld }
    const key = this.#parts.keyring.signer('payload')
    const header = jwsHeader(key.kid, exportJwsType)
    const payload = base64url(canonicalJson(claims))
    const signature = base64url(signWith(key, jwsSigningInput(header, payload)))
    return Buffer.from(`${JSON.stringify({ manifest: `${header}.${payload}.${signature}` })}\n`)
  }

  async #store({ id, tenantId, wish }: ExportRow, number: number, text: Buffer): Promise<ExportPart> {
    const { database, dataKeys, objectStore } = this.#parts
    const bytes = await compressors[wish.compression](text)
    // A process that lost its lease without knowing must not write over what another recorded.
    const folder = `exports/${id.slice('exp_'.length)}`
    const key = `${folder}/${String(number).padStart(6, '0')}-${randomBytes(4).toString('hex')}`
    const dataKey = await dataKeys.get(database, tenantId)
    await objectStore.put(key, dataKey.seal(bytes, partContext(tenantId, key)))
    return { key, bytes: bytes.length }
  }

  /** Reads the whole file back as it will be downloaded, and states what it hashes to. */
  async #finish(row: ExportRow): Promise<void> {
    const hash = createHash('sha256')
    for await (const bytes of readParts(this.#parts, row)) hash.update(bytes)
    const sha256 = hash.digest()
    const { id, tenantId: tenant } = row
    const event = { kind: 'export.finished' as const, sub: id, tenant, bytes: bytesOf(row), sha256: base64url(sha256) }
    await this.#settle(event, (tx, now) => finishExport(tx, id, this.#holder, now, { sha256 }))
    this.#parts.logger.info({ export: id, tenant, bytes: event.bytes }, 'export.finished')
  }

  async #fail({ id, tenantId: tenant }: ExportRow, reason: string): Promise<void> {
    const event = { kind: 'export.failed' as const, sub: id, tenant, reason }
    await this.#settle(event, (tx, now) => finishExport(tx, id, this.#holder, now, { reason }))
  }

  /** Of an erased tenant nothing can be read, stated or written any more; its erasure is stated. */
  async #forget(row: ExportRow): Promise<void> {
    await this.#parts.database.transaction(async (tx) => deleteExport(tx, row.id))
    for (const { key } of row.parts) await this.#parts.objectStore.delete(key)
  }

  async #settle(event: AuditEvent, settle: Settle): Promise<void> {
    const now = this.#parts.clock.now()
    const stated = state(this.#parts.issuer, event, now)
    await this.#parts.sequencer.append({ stated, effects: [bind(settlements, (tx: Tx) => settle(tx, now))] })
  }

  #leaseEnd(): Date {
    return new Date(this.#parts.clock.now().getTime() + leaseMs)
  }
}

type Settle = (tx: Tx, now: Date) => Promise<boolean>

/** Refuses the statement if the export is no longer ours to settle. */
const settlements: Effect<(tx: Tx) => Promise<boolean>> = {
  async write(tx, rows) {
    for (const { row: settle } of rows) if (!(await settle(tx))) throw new LeaseLost()
    return undefined
  },
}

/** Another process has the export by now, or it was deleted. */
class LeaseLost extends Error {
  override readonly name = 'LeaseLost'
}

const base64url = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')
