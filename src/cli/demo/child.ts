import { type ChildProcess, type Serializable, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

/** A process of the demo's own. Disposing of it ends it, and waits until it has ended. */
export interface Child extends AsyncDisposable {
  onMessage(listener: (message: Serializable) => void): void
}

/** How much of what a child said is kept for the case that it dies, in characters. */
const keptOutput = 4000

/** How long a child may take to end once asked: somewhat more than the relay takes to drain. */
const graceMs = 12_000

/**
 * Runs a file of this package under this Node. If it ends by itself, `stop` is aborted with a {@link DemoStopped} that
 * tells what the child last said. Of the environment it gets what every program needs, and `env`.
 */
export function startChild(
  name: string,
  { path, args = [], env = {} }: { path: URL; args?: string[]; env?: NodeJS.ProcessEnv },
  stop: AbortController,
): Child {
  const child = spawn(process.execPath, [fileURLToPath(path), ...args], {
    env: { ...necessities(), ...env },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8').on('data', (chunk: string) => {
      said = (said + chunk).slice(-keptOutput)
    })
  }
  // At `close` all it said has been read; at `exit` it may not have been.
  child.once('close', (code, signal) => {
    stop.abort(
      new DemoStopped(
        `the ${name} ended by itself (${signal ?? `exit code ${code}`}). It said:\n${said || '(nothing)\n'}`,
      ),
    )
  })
  child.once('error', ({ message }) => stop.abort(new DemoStopped(`the ${name} could not be started: ${message}`)))
  return {
    onMessage: (listener) => void child.on('message', listener),
    [Symbol.asyncDispose]: () => end(child),
  }
}

/** Why the demo cannot go on, for people to read. */
export class DemoStopped extends Error {
  override readonly name = 'DemoStopped'
}

async function end(child: ChildProcess): Promise<void> {
  child.removeAllListeners('close')
  if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  const late = setTimeout(() => child.kill('SIGKILL'), graceMs)
  child.kill('SIGTERM')
  await ended
  clearTimeout(late)
}

/** Nothing that configures a relay: the shell that the demo runs in may well hold a DATABASE_URL. */
function necessities(): NodeJS.ProcessEnv {
  const names = ['PATH', 'HOME', 'USER', 'TMPDIR', 'LANG', 'LC_ALL', 'LD_LIBRARY_PATH']
  return Object.fromEntries(names.map((name) => [name, process.env[name]]).filter(([, value]) => value !== undefined))
}

const pollMs = 20

/** Asks until `condition` holds; false if it does not within `timeoutMs`. Rejects with why `signal` was aborted. */
export async function until(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<boolean> {
  const givenUpAtMs = performance.now() + timeoutMs
  while (!(await condition())) {
    if (performance.now() > givenUpAtMs) return false
    await delay(pollMs, undefined, { signal }).catch(() => signal.throwIfAborted())
  }
  return true
}
