import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import { exportLines } from '../receipt/export-lines.ts'
import { trustLog } from '../receipt/verify.ts'
import { type ExportVerdict, verifyExport } from '../receipt/verify-export.ts'
import { CommandError } from './command.ts'
import { isSystemError, readInput } from './input.ts'
import { Progress } from './progress.ts'
import { readKeys, readVkeys } from './trust.ts'

export interface VerifyExportOptions {
  /** A file, or `-`: standard input. */
  readonly file: string
  /** A vkey itself, or a file or URL of some, one a line. */
  readonly vkey: string
  /** A file or URL of the published keys: a JWKS, or the key history of `/v1/keys`. */
  readonly jwks: string | undefined
  readonly json: boolean
}

/**
 * Verifies an export offline, reading it once from beginning to end. Resolves to the exit code: 0 for valid, 1 for not.
 * CommandError where something cannot be read.
 */
export async function checkExport({ file, vkey, jwks, json }: VerifyExportOptions): Promise<0 | 1> {
  const openCheckpoint = trustLog(readVkeys(await readVkeyOption(vkey)))
  const keys = jwks === undefined ? undefined : readKeys({ where: jwks, bytes: await readInput(jwks) })
  const findKey = keys && ((kid: string) => keys.find((key) => key.kid === kid))
  const verdict = await verifyExport(exportLines(readFile(file)), { openCheckpoint, findKey })
  process.stdout.write(json ? `${JSON.stringify(wireForm(verdict))}\n` : tell(verdict, findKey !== undefined))
  return verdict.verdict === 'valid' ? 0 : 1
}

/** Keys are short enough to be given as they are. */
async function readVkeyOption(vkey: string) {
  if (/^[^/\s]+(\/[^\s+]*)*\+[0-9a-f]{8}\+\S+$/.test(vkey)) return { where: '--vkey', bytes: Buffer.from(vkey) }
  return { where: vkey, bytes: await readInput(vkey) }
}

async function* readFile(file: string): AsyncGenerator<Uint8Array> {
  const total = file === '-' ? undefined : (await stat(file).catch(() => undefined))?.size
  const progress = new Progress(total, 'bytes read')
  try {
    for await (const chunk of file === '-' ? process.stdin : createReadStream(file, { highWaterMark: chunkBytes })) {
      yield chunk
      progress.advance(chunk.length)
    }
  } catch (error) {
    if (!isSystemError(error)) throw error
    throw new CommandError(`cannot read ${file}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`)
  } finally {
    progress.end()
  }
}

const chunkBytes = 256 * 1024

/** As tests/conformance/verify_export.py prints it. */
function wireForm(verdict: ExportVerdict): object {
  if (verdict.verdict === 'invalid') {
    const { fault, leafIndex, line, detail } = verdict
    return { verdict: 'invalid', fault, leaf_index: leafIndex, line, detail }
  }
  const { treeSize, ...summary } = verdict.export
  return { verdict: 'valid', ...summary, tree_size: treeSize }
}

function tell(verdict: ExportVerdict, knowsKeys: boolean): string {
  if (verdict.verdict === 'invalid') {
    const { fault, leafIndex, line, detail } = verdict
    const place = leafIndex === undefined ? `line ${line}` : `leaf ${leafIndex}, line ${line}`
    return `✗ ${fault} — ${place}: ${detail}\n\ninvalid\n`
  }
  const { tenant, origin, treeSize, from, upto, shown, withheld, signed, range, kinds } = verdict.export
  const number = (value: number) => value.toLocaleString('en-US')
  const lines = [
    `✓ checkpoint — ${origin} at ${number(treeSize)} leaves, signed by the key given`,
    `✓ inclusion — each of ${number(shown + withheld)} leaves stands at its place in that tree`,
    `✓ completeness — these are all leaves of ${tenant} in [${from}, ${upto}), as its head counts them`,
    `✓ range — ${number(shown)} statements, all in [${range.from}, ${range.to})${kinds ? ` of kind ${kinds.join(', ')}` : ''}`,
    `✓ signatures — ${number(signed)} of receipts, and that of the manifest`,
    ...(withheld > 0 ? [`! of ${number(withheld)} leaves only the entry is here`] : []),
    ...(kinds ? ['! what kind those are is not proved: export without "kinds" to see for yourself'] : []),
    ...(knowsKeys ? [] : ['! THE SIGNING KEYS CAME WITH THE FILE: give the published ones with --jwks']),
  ]
  return [...lines, '', `valid: the audit log of ${tenant}`, ''].join('\n')
}
