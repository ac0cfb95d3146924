import { type KeyObject, sign, verify } from 'node:crypto'
import { parentPort, Worker, workerData } from 'node:worker_threads'

type Question =
  | { readonly kind: 'sign'; readonly key: number; readonly input: Uint8Array }
  | { readonly kind: 'verify'; readonly key: number; readonly input: Uint8Array; readonly signature: Uint8Array }
type Answer = Uint8Array | boolean

/** What goes over at once: questions, and the keys they name for the first time. */
interface Letter {
  readonly keys: readonly (readonly [number, KeyObject])[]
  readonly questions: readonly Question[]
}

/**
 * Ed25519 on a thread of its own, the dearest things done for a message: two signatures and a verification, 0.2 ms
 * together. What is asked in one turn of the event loop goes over in one letter, since a letter with one question costs
 * as much as it saves; that is also why this beats the callback forms of node:crypto, which wake a thread for each.
 */
export class SigningThread {
  readonly #worker = new Worker(new URL(import.meta.url), { name: 'signing', workerData: signingThread })
  readonly #keys = new Map<KeyObject, number>()
  readonly #sent: Waiting[][] = []
  #keysToSend: (readonly [number, KeyObject])[] = []
  #questions: Question[] = []
  #waiting: Waiting[] = []
  #failure: Error | undefined

  constructor() {
    this.#worker.on('message', (answers: Answer[]) => {
      const waiting = this.#sent.shift() ?? []
      for (const [i, answer] of answers.entries()) waiting[i]?.resolve(answer)
      if (this.#sent.length === 0) this.#worker.unref() // an idle thread keeps no process alive
    })
    this.#worker.on('error', (error: Error) => this.#fail(error))
    this.#worker.unref()
  }

  /** 64 bytes, RFC 8032. */
  sign(key: KeyObject, input: Uint8Array): Promise<Uint8Array> {
    return this.#ask({ kind: 'sign', key: this.#nameOf(key), input }) as Promise<Uint8Array>
  }

  verify(key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    return this.#ask({ kind: 'verify', key: this.#nameOf(key), input, signature }) as Promise<boolean>
  }

  /** Whatever is still asked is rejected. */
  async close(): Promise<void> {
    this.#fail(new Error('the signing thread was stopped'))
    await this.#worker.terminate()
  }

  #ask(question: Question): Promise<Answer> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    if (this.#questions.length === 0) setImmediate(() => this.#send())
    this.#questions.push(question)
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }))
  }

  #send(): void {
    const letter: Letter = { keys: this.#keysToSend, questions: this.#questions }
    this.#sent.push(this.#waiting)
    this.#keysToSend = []
    this.#questions = []
    this.#waiting = []
    this.#worker.postMessage(letter)
    this.#worker.ref()
  }

  /** A key goes over once, as the handle to the same key, and by its number from then on. */
  #nameOf(key: KeyObject): number {
    const known = this.#keys.get(key)
    if (known !== undefined) return known
    const name = this.#keys.size
    this.#keys.set(key, name)
    this.#keysToSend.push([name, key])
    return name
  }

  #fail(error: Error): void {
    this.#failure ??= error
    for (const waiting of [...this.#sent.splice(0), this.#waiting]) for (const { reject } of waiting) reject(error)
  }
}

interface Waiting {
  readonly resolve: (answer: Answer) => void
  readonly reject: (error: Error) => void
}

/** How this file knows that it was started as the thread. */
const signingThread = 'countersign signing thread'

if (workerData === signingThread && parentPort !== null) answerLetters(parentPort)

/** The other side: the same file, on the thread. */
function answerLetters(port: NonNullable<typeof parentPort>): void {
  const keys = new Map<number, KeyObject>()
  const get = (name: number): KeyObject => {
    const key = keys.get(name)
    if (key === undefined) throw new Error(`key ${name} was never sent`)
    return key
  }
  port.on('message', (letter: Letter) => {
    for (const [name, key] of letter.keys) keys.set(name, key)
    port.postMessage(
      letter.questions.map((question): Answer => {
        const key = get(question.key)
        return question.kind === 'sign'
          ? new Uint8Array(sign(null, question.input, key))
          : verify(null, question.input, key, question.signature)
      }),
    )
  })
}
