import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type Config, readConfig } from '../../config.ts'
import { OperatorError } from '../../errors.ts'
import { DataKeys, deploymentVault } from '../../keyring/data-keys.ts'
import { importPublicKey } from '../../keyring/jwk.ts'
import { type KeyRow, selectKeys } from '../../keyring/store.ts'
import type { DataKey } from '../../keyring/vault.ts'
import { type CheckParts, type CheckReport, checkLog, type PublishedParts } from '../../log/check.ts'
import type { LogTrust } from '../../log/checkpoint.ts'
import { makeVerifierKey, parseVerifierKey } from '../../log/note.ts'
import { newestSize, vkeyKey } from '../../log/published.ts'
import { findHead } from '../../log/store.ts'
import { parseProof } from '../../log/tlog-proof.ts'
import { type Ending, openExisting, openKeyWrapper, openObjectStore } from '../../main.ts'
import { DatabaseUnavailable, type Tx } from '../../ports/database.ts'
import { readReceipt } from '../../receipt/receipt.ts'
import { CommandError } from '../command.ts'
import { bar, showProgress } from '../demo/progress.ts'
import { parseInput, readInput } from '../input.ts'
import { readVkeys } from '../trust.ts'

export interface LogCheckOptions {
  readonly checkpoints: string | undefined
  readonly vkey: string | undefined
  readonly objectStoreOnly: boolean
  readonly json: boolean
}

/** Checks the log that the environment names, beside its relay or without. Resolves to the exit code. */
export async function checkWholeLog(options: LogCheckOptions, env: NodeJS.ProcessEnv): Promise<0 | 1> {
  const config = readConfig(env)
  const ending: Ending = []
  try {
    const pinned = options.vkey === undefined ? undefined : await readTrust(options.vkey)
    const kept = options.checkpoints === undefined ? [] : await readCheckpoints(options.checkpoints)
    const published = await findPublished(config)
    const report = options.objectStoreOnly
      ? await checkObjects({ pinned, kept, published }, options)
      : await checkDatabase({ pinned, kept, published }, config, options, ending)
    const isPinned = pinned !== undefined
    process.stdout.write(options.json ? `${JSON.stringify(wireForm(report))}\n` : tell(report, isPinned))
    return report.findings.length === 0 ? 0 : 1
  } catch (error) {
    const isForeseen = error instanceof OperatorError || error instanceof DatabaseUnavailable
    throw isForeseen ? new CommandError(error.message) : error
  } finally {
    for (const end of ending.reverse()) await end().catch(() => {})
  }
}

type Evidence = Pick<CheckParts, 'kept' | 'published'> & { readonly pinned: LogTrust | undefined }

async function findPublished(config: Config): Promise<PublishedParts | undefined> {
  const store = await openObjectStore(config)
  const treeSize = await newestSize(store)
  return treeSize === undefined ? undefined : { store, treeSize }
}

async function checkObjects({ pinned, kept, published }: Evidence, options: LogCheckOptions): Promise<CheckReport> {
  if (published === undefined) throw new CommandError('the object store holds no checkpoint: there is nothing to check')
  const vkeys = pinned ? undefined : await published.store.find(vkeyKey)
  if (pinned === undefined && vkeys === undefined) throw new CommandError('give the keys of the log with --vkey')
  const trust = pinned ?? readVkeys({ bytes: vkeys ?? new Uint8Array(), where: vkeyKey })
  return withProgress(options, (onProgress) => checkLog({ trust, database: undefined, published, kept, onProgress }))
}

async function checkDatabase(
  { pinned, kept, published }: Evidence,
  config: Config,
  options: LogCheckOptions,
  ending: Ending,
): Promise<CheckReport> {
  const database = await openExisting(config, ending)
  return withProgress(options, (onProgress) =>
    database.transaction(async (tx) => {
      tx.send('set transaction isolation level repeatable read read only') // one snapshot, beside whoever goes on
      const head = await findHead(tx)
      if (head === undefined) throw new CommandError('the database holds no log')
      const keys = await tx.query<KeyRow>(selectKeys)
      // A key that was revoked since signed all the same.
      const vkeys = keys
        .filter((key) => key.purpose === 'log')
        .map((key) => makeVerifierKey(head.origin, key.publicKey))
      const trust = pinned ?? { origin: head.origin, vkeys: vkeys.map(parseVerifierKey) }
      const publicKeys = new Map(keys.map((key) => [key.kid, importPublicKey(key.publicKey)]))
      const findDataKey = await dataKeyFinder(tx, config, head.issuer)
      const findPublicKey = (kid: string) => publicKeys.get(kid)
      const rows = { tx, head, findDataKey, findPublicKey }
      return checkLog({ trust, database: rows, published, kept, onProgress })
    }),
  )
}

/** Each data key is asked for once: one that is destroyed stays so, and a service that is away would be asked for ever. */
async function dataKeyFinder(tx: Tx, config: Config, issuer: string) {
  const wrapper = await openKeyWrapper(config.keyWrapper, config)
  const dataKeys = new DataKeys(wrapper, issuer)
  const found = new Map<string, Promise<DataKey | undefined>>()
  return (tenantId: string | null): Promise<DataKey | undefined> => {
    const owner = tenantId ?? deploymentVault
    const key = found.get(owner) ?? dataKeys.get(tx, owner).catch(() => undefined)
    found.set(owner, key)
    return key
  }
}

const readTrust = async (where: string): Promise<LogTrust> => readVkeys({ bytes: await readInput(where), where })

/** Notes as they are, and those in receipts: of a file, or of every file of a folder. */
async function readCheckpoints(path: string): Promise<CheckParts['kept']> {
  const isFolder = (await stat(path).catch(() => undefined))?.isDirectory() === true
  const files = isFolder ? (await readdir(path)).sort().map((name) => join(path, name)) : [path]
  const notes: { name: string; note: Uint8Array }[] = []
  for (const file of files) notes.push({ name: file, note: await readNote(file) })
  return notes
}

async function readNote(file: string): Promise<Uint8Array> {
  const bytes = await readFile(file).catch((error: Error) => {
    throw new CommandError(`cannot read ${file}: ${error.message}`)
  })
  if (bytes[0] !== 0x7b) return bytes // not {
  const receipt = readReceipt(parseInput(bytes, file))
  const proof = typeof receipt === 'string' ? undefined : receipt.header['tlog-proof']
  if (proof === undefined) throw new CommandError(`${file} is neither a checkpoint nor a receipt`)
  return Buffer.from(parseProof(proof).checkpoint)
}

async function withProgress(
  { json }: LogCheckOptions,
  check: (onProgress: (leaves: number, of: number) => void) => Promise<CheckReport>,
): Promise<CheckReport> {
  let [done, all] = [0, 0]
  if (json) return check(() => {})
  using _progress = showProgress(() =>
    all === 0 ? 'reading what was published' : `${bar(done, all)} ${done} of ${all} leaves`,
  )
  return await check((leaves, of) => {
    ;[done, all] = [leaves, of]
  })
}

function wireForm({ findings, furtherFindings, leaves, checkpoints, unopened }: CheckReport): object {
  const list = findings.map(({ word, leafIndex, detail }) => ({ word, leaf_index: leafIndex, detail }))
  return { findings: list, further_findings: furtherFindings, leaves, checkpoints, unopened }
}

function tell({ findings, furtherFindings, leaves, checkpoints, unopened }: CheckReport, isPinned: boolean): string {
  const lines = findings.map(({ word, detail }) => `✗ ${word} — ${detail}`)
  if (furtherFindings > 0) lines.push(`✗ and ${furtherFindings} more`)
  if (unopened > 0)
    lines.push(`! ${unopened} statements could not be opened, their data keys being gone; their entries were checked`)
  if (!isPinned)
    lines.push('! the keys of the log were not given with --vkey: whoever rewrote it may have rewritten them')
  const first = findings.find(({ leafIndex }) => leafIndex !== undefined)?.leafIndex
  const where = first === undefined ? '' : `, the first at leaf ${first}`
  const held = `${leaves} leaves held against ${checkpoints} checkpoints`
  const verdict = findings.length === 0 ? 'nothing is wrong' : `${findings.length + furtherFindings} findings${where}`
  return [...lines, '', `${verdict}: ${held}`, ''].join('\n')
}
