import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { Stalls } from './event-loop-probe.ts'
import { endChild } from './helper-process.ts'

/** The deployment's administrator in every database of the bench. */
export const adminKey = `cs_benchadmin_${'B'.repeat(43)}`

export interface RelayOptions {
  readonly dataDir: string
  /** Absent: the relay runs a PostgreSQL of its own in `dataDir`. */
  readonly databaseUrl?: string
  /** Folder that a `.cpuprofile` of the whole process is written to when it ends. */
  readonly profileFolder?: string
}

/** `node src/main.ts`, as an operator runs it, on a port of the system's choice. */
/** The flags of the start script in package.json. */
const asNpmStart = ['--max-semi-space-size=32']

export class RelayProcess {
  readonly #child: ChildProcess
  readonly url: string

  private constructor(child: ChildProcess, url: string) {
    this.#child = child
    this.url = url
  }

  /** Resolves when it listens. Rejects with what it said on stderr when it ends instead. */
  static async start({ dataDir, databaseUrl, profileFolder }: RelayOptions): Promise<RelayProcess> {
    const profiling = profileFolder === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profileFolder}`]
    const child = spawn(process.execPath, [...asNpmStart, ...profiling, '--import', probe, main], {
      env: {
        ...{ PATH: process.env.PATH, HOST: '127.0.0.1', PORT: '0', PUBLIC_URL: 'http://relay.bench' },
        ...{ DATA_DIR: dataDir, EGRESS_ALLOW: '127.0.0.0/8', COUNTERSIGN_ADMIN_KEY: adminKey },
        ...(databaseUrl !== undefined && { DATABASE_URL: databaseUrl }),
      },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    })
    let said = ''
    child.stderr?.on('data', (chunk: Buffer) => {
      said = (said + chunk).slice(-4000)
    })
    const lines = createInterface({ input: child.stdout as NodeJS.ReadableStream })
    const port = await new Promise<number>((resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`the relay ended (${code}): ${said}`)))
      lines.on('line', (line) => {
        const { msg, port, level } = JSON.parse(line) as { msg: string; port: number; level: number }
        if (msg === 'listening') resolve(port)
        else if (level >= errorLevel) process.stderr.write(`relay: ${line}\n`)
      })
    })
    // Whoever was talking to it will only hear that its connection is gone.
    child.once('exit', (code, signal) => {
      if (code !== 0) process.stderr.write(`relay: ended (${signal ?? code}): ${said}\n`)
    })
    return new RelayProcess(child, `http://127.0.0.1:${port}`)
  }

  get pid(): number {
    return this.#child.pid ?? 0
  }

  /** A route as JSON or text. Throws unless the status is 2xx. */
  async call<T>(method: string, path: string, body?: unknown, key = adminKey): Promise<T> {
    const response = await fetch(this.url + path, {
      method,
      headers: { authorization: `Bearer ${key}`, ...(body !== undefined && { 'content-type': 'application/json' }) },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`)
    return (response.headers.get('content-type')?.includes('json') ? JSON.parse(text) : text) as T
  }

  /** Metrics without labels, by name less `countersign_`; histograms by their `_sum` and `_count`. */
  async metrics(): Promise<Map<string, number>> {
    const text = await this.call<string>('GET', '/metrics')
    return new Map(
      [...text.matchAll(/^countersign_(\w+) (\S+)$/gm)].map(([, name = '', value]) => [name, Number(value)]),
    )
  }

  /** How long the event loop stood still since the last `forgetStalls`. */
  async stalls(): Promise<Stalls> {
    const answer = once(this.#child, 'message')
    this.#child.send('read')
    const [stalls] = (await answer) as [Stalls]
    return stalls
  }

  forgetStalls(): void {
    this.#child.send('reset')
  }

  /** Drains and ends. */
  stop(): Promise<void> {
    return endChild(this.#child, 'SIGTERM')
  }
}

const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))
const probe = new URL('event-loop-probe.ts', import.meta.url).href

/** pino's number for `error`. */
const errorLevel = 50
