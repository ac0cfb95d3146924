import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Ledger } from './ledger.ts'

const main = fileURLToPath(new URL('../../src/main.ts', import.meta.url))

/** How soon a supervisor starts another. */
const restartAfterMs = 200
const readyWithinMs = 90_000
const pollMs = 20

export interface RelayProcessParts {
  /** Names it in the ledger. */
  readonly name: string
  readonly env: Readonly<Record<string, string>>
  readonly adminKey: string
  readonly ledger: Ledger
  readonly logFile: string
}

/**
 * A relay as an operator runs it: `node src/main.ts`, started again whenever it ends. Each start listens on another port,
 * so whoever calls it asks for the address first and waits while there is none.
 */
export class RelayProcess {
  readonly name: string
  readonly #parts: RelayProcessParts
  #child!: ChildProcess
  #listening = Promise.withResolvers<string>()
  #opening = true
  #asked = false
  #lastWords = ''
  #stopping = false

  constructor(parts: RelayProcessParts) {
    this.name = parts.name
    this.#parts = parts
    process.once('exit', this.#killAtExit)
    this.#start()
  }

  /** Where the relay listens, once it does. */
  url(): Promise<string> {
    return this.#listening.promise
  }

  /** Whether it does not listen now, as far as can be told from outside. */
  get opening(): boolean {
    return this.#opening || this.#child.killed
  }

  /** Resolves when the relay serves and its database answers. */
  async ready(): Promise<void> {
    const { ledger, name } = this.#parts
    for (const until = performance.now() + readyWithinMs; performance.now() < until; await delay(pollMs)) {
      const url = await Promise.race([this.url(), delay(pollMs)])
      const answer = url && (await fetch(`${url}/readyz`).catch(() => undefined))
      if (answer && answer.status === 200) return
    }
    throw new Error(`round ${ledger.round}: ${name} was not ready within ${readyWithinMs} ms`)
  }

  /** Any route, as the administrator unless another key is given; a body is posted as JSON. */
  async call(path: string, body?: unknown, key = this.#parts.adminKey): Promise<Response> {
    const headers = {
      authorization: `Bearer ${key}`,
      ...(body !== undefined && { 'content-type': 'application/json' }),
    }
    const post = body !== undefined && { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) }
    return fetch((await this.url()) + path, { headers, ...post })
  }

  /** How many died: one, or none if it was dead before. */
  kill(): number {
    const child = this.#child
    return child.exitCode === null && child.signalCode === null && child.kill('SIGKILL') ? 1 : 0
  }

  /** Asks it to drain. */
  terminate(): number {
    if (this.opening || !this.#child.kill('SIGTERM')) return 0
    this.#asked = true
    return 1
  }

  /** Drains it for good. */
  async stop(): Promise<void> {
    this.#stopping = true
    const child = this.#child
    if (child.exitCode === null && child.signalCode === null && child.kill('SIGTERM')) await once(child, 'exit')
    process.removeListener('exit', this.#killAtExit)
  }

  #start(): void {
    if (!this.#opening) this.#listening = Promise.withResolvers() // else whoever waits for the one before waits for this
    this.#opening = true
    this.#asked = false
    this.#lastWords = ''
    // Nothing from outside but what is needed to run: a developer's DATABASE_URL must not be drilled.
    const env = { PATH: process.env.PATH, PORT: '0', ...this.#parts.env }
    const child = spawn(process.execPath, [main], { env, stdio: ['ignore', 'pipe', 'pipe'] })
    this.#child = child
    for (const stream of [child.stdout, child.stderr])
      createInterface(stream).on('line', (line) => this.#read(child, line))
    child.once('close', (exitCode, signal) => void this.#ended(exitCode, signal))
  }

  async #ended(exitCode: number | null, signal: NodeJS.Signals | null): Promise<void> {
    if (this.#stopping) return
    const { ledger, name } = this.#parts
    const facts = { name, exitCode, said: this.#lastWords, opening: this.#opening, asked: this.#asked }
    if (signal !== 'SIGKILL') ledger.note({ kind: 'exited', ...facts })
    // As a supervisor does, also for a relay that gave up because its database was killed while it opened.
    if (ledger.round === 0) return this.#listening.reject(new Error(`${name} does not start: ${this.#lastWords}`))
    if (!this.#opening) this.#listening = Promise.withResolvers()
    this.#opening = true
    await delay(restartAfterMs)
    if (!this.#stopping) this.#start()
  }

  #read(child: ChildProcess, line: string): void {
    appendFileSync(this.#parts.logFile, `${line}\n`)
    if (!line.startsWith('{')) this.#lastWords = line // not a line of the logger's
    const port = /"port":(\d+).*"msg":"listening"/.exec(line)?.[1]
    if (port === undefined || child !== this.#child) return
    this.#opening = false
    this.#listening.resolve(`http://127.0.0.1:${port}`)
  }

  /** Should the drill itself end early: nobody else would ever find it. */
  readonly #killAtExit = (): void => void this.kill()
}
