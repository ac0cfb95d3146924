import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'

/** The program as it is started, and what can be seen of it from outside. */
export interface Program {
  readonly child: ChildProcess
  /** All of standard output, and of standard error, so far. */
  output(): string
  errors(): string
  /** Resolves when the output has a match; rejects if the program ends without. */
  said(pattern: RegExp): Promise<RegExpExecArray>
  listening(): Promise<{ url: string }>
  /** Resolves with the exit code. */
  ended(): Promise<number | null>
}

/** `node src/main.ts` in a process group of its own, with nothing of this environment that configures it. */
export function startProgram(folder: string, env: Record<string, string>): Program {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../../src/main.ts')], {
    env: { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '', DATA_DIR: folder, PORT: '0', ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let [output, errors] = ['', '']
  child.stdout.on('data', (chunk) => {
    output += chunk
  })
  child.stderr.on('data', (chunk) => {
    errors += chunk
  })
  const exit = once(child, 'exit')
  const said = async (pattern: RegExp): Promise<RegExpExecArray> => {
    for (;;) {
      const match = pattern.exec(output)
      if (match !== null) return match
      if (child.exitCode !== null) throw new Error(`it ended without saying ${pattern}: ${errors}`)
      await Promise.race([once(child.stdout, 'data'), exit])
    }
  }
  return {
    child,
    said,
    output: () => output,
    errors: () => errors,
    listening: async () => ({ url: `http://127.0.0.1:${(await said(/"port":(\d+),.*"msg":"listening"/))[1]}` }),
    ended: async () => (await exit)[0] as number | null,
  }
}
