import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
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
  #listening = Promise.withResolvers<string>()
  #opening = true
  #lastWords = ''
  #stopping = false

  constructor(dataDir: string, ledger: Ledger) {
    this.#dataDir = realpathSync(dataDir)
    this.#ledger = ledger
    process.once('exit', this.#killAll)
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
    const headers = {
      authorization: `Bearer ${adminKey}`,
      ...(body !== undefined && { 'content-type': 'application/json' }),
    }
    const post = body !== undefined && { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) }
    return fetch((await this.url()) + path, { headers, ...post })
  }

  async strike({ target, gapMs, pick }: Strike): Promise<void> {
    // Not waited for synchronously: vendors would pause meanwhile, and the strike would find everybody idle.
    const { stdout } = await promisify(execFile)('ps', listProcesses)
    const { postmaster, backends } = findPostgres(stdout, this.#dataDir)
    const opening = this.#opening || this.#child.killed
    const backend = backends[Math.floor(pick * backends.length)]
    let killed = 0
    switch (target) {
      case 'relay':
        killed = this.#killRelay()
        break
      case 'postmaster':
        killed = kill(postmaster)
        break
      case 'both':
        killed = this.#killRelay() + kill(postmaster)
        break
      case 'relay then postmaster':
        killed = this.#killRelay()
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

  /** Drains it, PostgreSQL included. */
  async stop(): Promise<void> {
    this.#stopping = true
    const child = this.#child
    if (child.exitCode === null && child.signalCode === null && child.kill('SIGTERM')) await once(child, 'exit')
    this.#killAll() // a relay that died by itself, or was only starting, leaves a PostgreSQL
    process.removeListener('exit', this.#killAll)
  }

  #start(): void {
    if (!this.#opening) this.#listening = Promise.withResolvers() // else whoever waits for the one before waits for this
    this.#opening = true
    this.#lastWords = ''
    const child = spawn(process.execPath, [main], { env: this.#environment(), stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    for (const stream of [child.stdout, child.stderr])
      createInterface(stream).on('line', (line) => this.#read(child, line))
    child.once('close', (exitCode, signal) => {
      if (this.#stopping) return
      const facts = { exitCode, said: this.#lastWords, opening: this.#opening }
      if (signal !== 'SIGKILL') this.#ledger.note({ kind: 'exited', ...facts })
      // As a supervisor does, also for a relay that gave up because its database was killed while it opened.
      if (this.#ledger.round > 0) this.#start()
      else this.#listening.reject(new Error(`the relay does not start: ${this.#lastWords}`))
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
    if (!line.startsWith('{')) this.#lastWords = line // not a line of the logger's
    const port = /"port":(\d+).*"msg":"listening"/.exec(line)?.[1]
    if (port === undefined || child !== this.#child) return
    this.#opening = false
    this.#listening.resolve(`http://127.0.0.1:${port}`)
  }

  #killRelay(): number {
    const child = this.#child
    return child.exitCode === null && child.signalCode === null && !child.killed && child.kill('SIGKILL') ? 1 : 0
  }

  /** Should the drill itself end early: nobody else would ever find these. */
  readonly #killAll = (): void => {
    this.#killRelay()
    kill(findPostgres(execFileSync('ps', listProcesses, { encoding: 'utf8' }), this.#dataDir).postmaster)
  }
}

const listProcesses = ['-A', '-ww', '-o', 'pid=,ppid=,command=']

/** The server on a data folder, and its backends: those in the middle of a COMMIT if there are any, else all. */
function findPostgres(list: string, dataDir: string): { postmaster: number | undefined; backends: number[] } {
  const processes = list.split('\n').flatMap((line) => {
    const [, pid, parent, command = ''] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? []
    return pid === undefined ? [] : [{ pid: Number(pid), parent: Number(parent), command }]
  })
  const servers = processes.filter(({ command }) => command.includes(` -D ${dataDir}/postgres `))
  // A child that was forked a moment ago has no title of its own yet.
  const postmaster = servers.find(({ parent }) => !servers.some(({ pid }) => pid === parent))?.pid
  const children = processes.filter(({ parent }) => parent === postmaster)
  const committing = children.filter(({ command }) => command.endsWith(' COMMIT'))
  return { postmaster, backends: (committing.length > 0 ? committing : children).map(({ pid }) => pid) }
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
