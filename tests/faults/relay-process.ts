import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, realpathSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Ledger } from './ledger.ts'
import type { Strike } from './strikes.ts'

const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))
const adminKey = `cs_crashdrill_${'A'.repeat(43)}`

/** The least a relay takes: what a killed one had claimed falls due again after this. */
export const leaseS = 20

const readyWithinMs = 60_000
const pollMs = 20

/**
 * A relay as an operator runs it: `node src/main.ts` on embedded PostgreSQL, started again whenever it ends. Each start
 * listens on another port, so whoever calls it asks for the address first and waits while there is none.
 */
export class RelayProcess {
  readonly #dataDir: string
  readonly #ledger: Ledger
  #child!: ChildProcess
  #listening!: PromiseWithResolvers<string>
  #opening = true
  #stopping = false
  readonly #endWithUs = () => void this.#endAll()

  constructor(dataDir: string, ledger: Ledger) {
    this.#dataDir = realpathSync(dataDir)
    this.#ledger = ledger
    // Should the drill itself end early, nobody would ever find these.
    process.once('exit', this.#endWithUs)
    this.#start()
  }

  /** Where the relay listens, once it does. */
  url(): Promise<string> {
    return this.#listening.promise
  }

  /** Resolves when the relay can accept messages. */
  async ready(): Promise<void> {
    for (const until = performance.now() + readyWithinMs; performance.now() < until; await delay(pollMs)) {
      const url = await Promise.race([this.url(), delay(pollMs)])
      const answer = url && (await fetch(`${url}/readyz`).catch(() => undefined))
      if (answer && answer.status === 200) return
    }
    throw new Error(`round ${this.#ledger.round}: the relay was not ready within ${readyWithinMs} ms`)
  }

  /** Any route, as the administrator; a body is posted as JSON. */
  async call(path: string, body?: unknown): Promise<Response> {
    const headers = { authorization: `Bearer ${adminKey}`, ...(body !== undefined && { 'content-type': 'application/json' }) }
    const post = body !== undefined && { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) }
    return fetch((await this.url()) + path, { headers, ...post })
  }

  async strike({ target, gapMs, pick }: Strike): Promise<void> {
    const { postmaster, backends } = await this.#findPostgres()
    const opening = this.#opening
    const relay = this.#child.pid
    const backend = backends[Math.floor(pick * backends.length)]
    let killed = 0
    switch (target) {
      case 'relay':
        killed = kill(relay)
        break
      case 'postmaster':
        killed = kill(postmaster)
        break
      case 'both':
        killed = kill(relay) + kill(postmaster)
        break
      case 'relay then postmaster':
        killed = kill(relay)
        await delay(gapMs)
        killed += kill(postmaster)
        break
      case 'backend':
        killed = kill(backend)
        break
      default:
        target satisfies never
    }
    this.#ledger.note({ kind: 'struck', target, killed, opening })
  }

  /** Drains it, PostgreSQL included. Resolves with its exit code. */
  async stop(): Promise<number | null> {
    this.#stopping = true
    if (this.#child.exitCode === null && this.#child.kill('SIGTERM')) await once(this.#child, 'exit')
    process.removeListener('exit', this.#endWithUs)
    return this.#child.exitCode
  }

  #start(): void {
    this.#opening = true
    this.#listening = Promise.withResolvers()
    const child = spawn(process.execPath, [main], { env: this.#environment(), stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    for (const stream of [child.stdout, child.stderr]) createInterface(stream).on('line', (line) => this.#read(child, line))
    child.once('exit', (exitCode, signal) => {
      if (signal !== 'SIGKILL' && !this.#stopping) this.#ledger.note({ kind: 'exited', exitCode, opening: this.#opening })
      // As a supervisor does: also a relay that gave up, because its database was killed while it opened.
      if (!this.#stopping) this.#start()
    })
  }

  /** Nothing from outside but what is needed to run: a developer's DATABASE_URL must not be drilled. */
  #environment(): NodeJS.ProcessEnv {
    return {
      PATH: process.env.PATH,
      PORT: '0',
      PUBLIC_URL: 'http://relay.test',
      DATA_DIR: this.#dataDir,
      COUNTERSIGN_ADMIN_KEY: adminKey,
      DELIVERY_LEASE_S: String(leaseS),
    }
  }

  #read(child: ChildProcess, line: string): void {
    appendFileSync(join(this.#dataDir, 'drill-relay.log'), `${line}\n`)
    const port = /"port":(\d+).*"msg":"listening"/.exec(line)?.[1]
    if (port === undefined || child !== this.#child) return
    this.#opening = false
    this.#listening.resolve(`http://127.0.0.1:${port}`)
  }

  /** The server on our data folder and its children. A backend's title has neither the program's name nor the folder. */
  async #findPostgres(): Promise<{ postmaster: number | undefined; backends: number[] }> {
    const { stdout } = await promisify(execFile)('ps', ['-A', '-ww', '-o', 'pid=,ppid=,command='])
    const processes = stdout.split('\n').map((line) => /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? [])
    const servers = processes.filter(([, , , command]) => command?.includes(` -D ${this.#dataDir}/postgres `))
    const pids = new Set(servers.map(([, pid]) => pid))
    // A child that was forked a moment ago has no title of its own yet.
    const postmaster = servers.find(([, , parent]) => !pids.has(parent))?.[1]
    const backends = processes.filter(([, , parent]) => parent !== undefined && parent === postmaster)
    return { postmaster: postmaster === undefined ? undefined : Number(postmaster), backends: backends.map(([, pid]) => Number(pid)) }
  }

  async #endAll(): Promise<void> {
    this.#child.kill('SIGKILL')
  }
}

/** How many it killed: one, or none if it was dead before. */
function kill(pid: number | undefined): number {
  if (pid === undefined) return 0
  try {
    process.kill(pid, 'SIGKILL')
    return 1
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return 0
    throw error
  }
}
