import type { KeyObject } from 'node:crypto'
import { Worker } from 'node:worker_threads'
import { type Answers, answerAll, type Question, signatureBytes } from './ed25519.ts'
import { writeLetter } from './signing-letter.ts'

interface Asked {
  readonly question: Question
  readonly answer: (bytes: Uint8Array) => void
  readonly reject: (error: Error) => void
}

/** While one letter is answered another is on its way, so that the thread need not wait for ours. */
const mostLetters = 2

/** So few are answered here: a letter costs this thread as much as answering one, and the other thread once more. */
const fewQuestions = 2

/**
 * Ed25519 on a thread of its own: the dearest things done for a message, three signatures, some 0.13 ms together. What is
 * asked in one turn of the event loop goes over in one letter; while two are under way, the next fills. That is also why
 * this beats the callback forms of node:crypto, which wake a thread for each.
 */
export class SigningThread {
  readonly #worker = new Worker(new URL('signing-worker.ts', import.meta.url), { name: 'signing' })
  readonly #names = new Map<KeyObject, number>()
  readonly #sent: Asked[][] = []
  #asked: Asked[] = []
  #failure: Error | undefined

  constructor() {
    this.#worker.on('message', (answers: Answers) => {
      const asked = this.#sent.shift() ?? []
      this.#send() // first of all: while we do what follows, the thread is busy
      hand(asked, answers)
      if (this.#sent.length === 0) this.#worker.unref() // an idle thread keeps no process alive
    })
    this.#worker.on('error', (error: Error) => this.#fail(error))
    this.#worker.unref()
  }

  /** 64 bytes, RFC 8032. */
  sign(key: KeyObject, input: Uint8Array): Promise<Uint8Array> {
    return this.#ask({ kind: 'sign', key, input })
  }

  /** False also for a signature that is not 64 bytes long. */
  verify(key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    return this.#holds('verify', key, input, signature)
  }

  /** Whether `signature`, made with this private key, holds: as `verify`, for less. Only for signatures of our own: whoever
   *  could try any other, and saw how long it takes, might learn what the key signs. */
  confirm(key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    return this.#holds('confirm', key, input, signature)
  }

  /** Whatever is still asked is rejected. */
  async close(): Promise<void> {
    this.#fail(new Error('the signing thread was stopped'))
    await this.#worker.terminate()
  }

  async #holds(kind: 'verify' | 'confirm', key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    if (signature.length !== signatureBytes) return false
    const [holds] = await this.#ask({ kind, key, input, signature })
    return holds === 1
  }

  #ask(question: Question): Promise<Uint8Array> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    // Not at once: the rest of this turn may have more to ask.
    if (this.#asked.length === 0) setImmediate(() => this.#answer())
    return new Promise((answer, reject) => this.#asked.push({ question, answer, reject }))
  }

  #answer(): void {
    if (this.#sent.length === 0 && this.#asked.length <= fewQuestions) this.#answerHere()
    else this.#send()
  }

  #answerHere(): void {
    const asked = this.#asked.splice(0)
    try {
      hand(asked, answerAll(asked.map(({ question }) => question)))
    } catch (error) {
      for (const { reject } of asked) reject(error as Error)
    }
  }

  #send(): void {
    if (this.#asked.length === 0 || this.#sent.length >= mostLetters) return
    const asked = this.#asked.splice(0)
    const letter = writeLetter(
      asked.map(({ question }) => question),
      this.#names,
    )
    this.#sent.push(asked)
    this.#worker.postMessage(letter, [letter.heads.buffer, letter.bytes.buffer])
    this.#worker.ref()
  }

  #fail(error: Error): void {
    this.#failure ??= error
    for (const asked of [...this.#sent.splice(0), this.#asked.splice(0)]) {
      for (const { reject } of asked) reject(error)
    }
  }
}

function hand(asked: readonly Asked[], answers: Answers): void {
  for (let i = 0; i < asked.length; i++) {
    asked[i]?.answer(answers.subarray(i * signatureBytes, (i + 1) * signatureBytes))
  }
}
