import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { expect } from 'vitest'
import { parseVerifierKey } from '../../src/log/note.ts'
import { exportLines } from '../../src/receipt/export-lines.ts'
import { trustLog } from '../../src/receipt/verify.ts'
import { type ExportTrust, type ExportVerdict, verifyExport } from '../../src/receipt/verify-export.ts'
import type { TestRelay } from './relay.ts'

export interface ExportAnswer {
  readonly id: string
  readonly state: 'pending' | 'running' | 'done' | 'failed'
  readonly reason?: string
  readonly statements?: { readonly done: number; readonly total: number }
  readonly bytes: number
  readonly sha256?: string
}

/** Asks for an export and waits until it is written. */
export async function makeExport(relay: TestRelay, tenant: string, wish: object = {}): Promise<ExportAnswer> {
  const asked = await relay.call<ExportAnswer>('POST', `/v1/tenants/${tenant}/exports`, { body: wish })
  expect(asked.status, JSON.stringify(asked.body)).toBe(202)
  return settled(relay, tenant, asked.body.id)
}

export async function settled(relay: TestRelay, tenant: string, id: string): Promise<ExportAnswer> {
  for (;;) {
    const { body } = await relay.call<ExportAnswer>('GET', `/v1/tenants/${tenant}/exports/${id}`)
    if (body.state === 'done' || body.state === 'failed') return body
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

export async function download(relay: TestRelay, tenant: string, id: string, headers = {}): Promise<Buffer> {
  const response = await fetch(`${relay.url}/v1/tenants/${tenant}/exports/${id}/file`, {
    headers: { authorization: `Bearer cs_testadmin_${'A'.repeat(43)}`, ...headers },
  })
  expect(response.ok, String(response.status)).toBe(true)
  return Buffer.from(await response.arrayBuffer())
}

/** Asks for an export, waits, downloads. */
export async function exported(relay: TestRelay, tenant: string, wish: object = {}): Promise<Buffer> {
  const { id, state, reason } = await makeExport(relay, tenant, wish)
  expect(state, reason).toBe('done')
  return download(relay, tenant, id)
}

/** The lines of a file, without newlines. */
export const linesOf = (file: Buffer): string[] =>
  (file[0] === 0x1f ? gunzipSync(file) : zstdDecompressSync(file)).toString().trimEnd().split('\n')

export const textOf = (lines: readonly string[]): Buffer => Buffer.from(lines.map((line) => `${line}\n`).join(''))

/** What somebody trusts who has fetched the log's vkey once. */
export async function trustIn(relay: TestRelay): Promise<ExportTrust> {
  const { body } = await relay.call<string>('GET', '/log/vkey', { key: null })
  const vkeys = body.trim().split('\n').map(parseVerifierKey)
  return { openCheckpoint: trustLog({ origin: relay.relay.origin, vkeys }), findKey: undefined }
}

/** In chunks that cut lines anywhere. */
export const verify = (file: Buffer, trust: ExportTrust): Promise<ExportVerdict> =>
  verifyExport(
    exportLines(
      (async function* () {
        for (let at = 0; at < file.length; at += 10_007) yield file.subarray(at, at + 10_007)
      })(),
    ),
    trust,
  )
