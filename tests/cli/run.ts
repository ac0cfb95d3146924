import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

export interface Run {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  readonly input?: string
  readonly env?: NodeJS.ProcessEnv
  /** Instead of main.ts. */
  readonly file?: string
  /** Sent once standard output holds `seen`. */
  readonly interruptAt?: { readonly seen: string; readonly signal: NodeJS.Signals }
}

/** Runs `countersign` as a process of its own, to its end. */
export async function countersign(args: readonly string[], options: RunOptions = {}): Promise<Run> {
  const { input = '', env = {}, file = main, interruptAt } = options
  const child = spawn(process.execPath, [file, ...args], { env: { ...process.env, ...env } })
  let stdout = ''
  let stderr = ''
  let isInterrupted = false
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    stdout += chunk
    if (interruptAt === undefined || isInterrupted || !stdout.includes(interruptAt.seen)) return
    isInterrupted = child.kill(interruptAt.signal)
  })
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    stderr += chunk
  })
  child.stdin.on('error', () => {}) // it may have ended without reading
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, stdout, stderr }
}
