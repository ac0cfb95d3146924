import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'

/**
 * Parts of the bench that must not share a core's time with each other unseen run as processes of their own, so that
 * /proc tells their CPU apart. Such a helper offers questions by name; the bench asks, one answer each, over IPC.
 */
export interface Helper<Offered> {
  readonly pid: number
  /** Rejects with what the helper threw, or when it ends without an answer. */
  ask<Name extends keyof Offered & string>(
    name: Name,
    ...argument: ArgumentOf<Offered[Name]>
  ): Promise<AnswerOf<Offered[Name]>>
  stop(): Promise<void>
}

type ArgumentOf<Question> = Question extends (...argument: infer A) => unknown ? A : never
type AnswerOf<Question> = Question extends (...argument: never) => infer R ? Awaited<R> : never

interface Asked {
  readonly id: number
  readonly name: string
  readonly argument: readonly unknown[]
}

interface Answered {
  readonly id: number
  readonly value?: unknown
  readonly error?: string
}

/** Starts the helper of a file of this folder, e.g. `receiver.ts`, and resolves when it can be asked. */
export async function startHelper<Offered>(file: string): Promise<Helper<Offered>> {
  const child = fork(new URL(file, import.meta.url), { serialization: 'advanced' }) // typed arrays stay typed arrays
  await once(child, 'message')
  const waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>()
  let asked = 0
  child.on('message', ({ id, value, error }: Answered) => {
    const asker = waiting.get(id)
    waiting.delete(id)
    if (error === undefined) asker?.resolve(value as never)
    else asker?.reject(new Error(`${file}: ${error}`))
  })
  child.once('exit', (code, signal) => {
    for (const { reject } of waiting.values())
      reject(new Error(`${file} ended (${signal ?? code}) with a question open`))
  })
  return {
    pid: child.pid ?? 0,
    ask: (name, ...argument) =>
      new Promise((resolve, reject) => {
        waiting.set(++asked, { resolve, reject })
        child.send({ id: asked, name, argument } satisfies Asked)
      }),
    stop: () => endChild(child, 'SIGTERM'),
  }
}

/** What a helper does with its main module: offers its questions until it is told to end. */
export function offer(questions: Record<string, (argument: never) => unknown>): void {
  process.on('message', ({ id, name, argument }: Asked) => {
    const question = questions[name] as ((...argument: readonly unknown[]) => unknown) | undefined
    Promise.resolve()
      .then(() => question?.(...argument))
      .then(
        (value) => process.send?.({ id, value }),
        (error: unknown) =>
          process.send?.({ id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
      )
  })
  process.once('disconnect', () => process.exit()) // the bench was killed: nobody is left to ask
  process.send?.('ready')
}

/** Sends `signal` and resolves when the child is gone. */
export async function endChild(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const gone = once(child, 'exit')
  child.kill(signal)
  await gone
}
