import { type KeyObject, sign, verify } from 'node:crypto'
import { parentPort, Worker, workerData } from 'node:worker_threads'

/** What goes over at once: the questions of one turn, and the keys they name for the first time. */
interface Letter {
  readonly keys: readonly (readonly [number, KeyObject])[]
  /** Three numbers for each question: its key, the length of its input, and 1 if a signature is to be verified. */
  readonly heads: Uint32Array<ArrayBuffer>
  /** For each question its input, then the signature to verify. One buffer, since the thread is handed that, not a copy. */
  readonly bytes: Uint8Array<ArrayBuffer>
}

/** For each question its answer in 64 bytes: the signature, or 1 in the first if the one given holds. */
type Reply = Uint8Array<ArrayBuffer>

const signatureBytes = 64
const headNumbers = 3

/**
 * Ed25519 on a thread of its own, the dearest things done for a message: two signatures and a verification, 0.2 ms
 * together. What is asked in one turn of the event loop goes over in one letter, since a letter with one question costs
 * as much as it saves; that is also why this beats the callback forms of node:crypto, which wake a thread for each.
 */
export class SigningThread {
  readonly #worker = new Worker(new URL(import.meta.url), { name: 'signing', workerData: signingThread })
  readonly #keys = new Map<KeyObject, number>()
  readonly #sent: Question[][] = []
  #keysToSend: (readonly [number, KeyObject])[] = []
  #questions: Question[] = []
  #failure: Error | undefined

  constructor() {
    this.#worker.on('message', (reply: Reply) => {
      for (const [i, { answer }] of (this.#sent.shift() ?? []).entries()) {
        answer(reply.subarray(i * signatureBytes, (i + 1) * signatureBytes))
      }
      if (this.#sent.length === 0) this.#worker.unref() // an idle thread keeps no process alive
    })
    this.#worker.on('error', (error: Error) => this.#fail(error))
    this.#worker.unref()
  }

  /** 64 bytes, RFC 8032. */
  sign(key: KeyObject, input: Uint8Array): Promise<Uint8Array> {
    return this.#ask({ key: this.#nameOf(key), input })
  }

  /** False also for a signature that is not 64 bytes long. */
  async verify(key: KeyObject, input: Uint8Array, signature: Uint8Array): Promise<boolean> {
    if (signature.length !== signatureBytes) return false
    const [holds] = await this.#ask({ key: this.#nameOf(key), input, signature })
    return holds === 1
  }

  /** Whatever is still asked is rejected. */
  async close(): Promise<void> {
    this.#fail(new Error('the signing thread was stopped'))
    await this.#worker.terminate()
  }

  #ask(question: Pick<Question, 'key' | 'input' | 'signature'>): Promise<Uint8Array> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure)
    if (this.#questions.length === 0) setImmediate(() => this.#send())
    return new Promise((answer, reject) => this.#questions.push({ ...question, answer, reject }))
  }

  #send(): void {
    if (this.#questions.length === 0) return // failed meanwhile
    const letter = writeLetter(this.#keysToSend, this.#questions)
    this.#sent.push(this.#questions)
    this.#keysToSend = []
    this.#questions = []
    this.#worker.postMessage(letter, [letter.heads.buffer, letter.bytes.buffer])
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
    for (const asked of [...this.#sent.splice(0), this.#questions.splice(0)]) {
      for (const { reject } of asked) reject(error)
    }
  }
}

interface Question {
  readonly key: number
  readonly input: Uint8Array
  /** To be verified. Absent: to be made. */
  readonly signature?: Uint8Array
  readonly answer: (bytes: Uint8Array) => void
  readonly reject: (error: Error) => void
}

function writeLetter(keys: Letter['keys'], questions: readonly Question[]): Letter {
  const length = questions.reduce((sum, { input, signature }) => sum + input.length + (signature?.length ?? 0), 0)
  const letter = { keys, heads: new Uint32Array(headNumbers * questions.length), bytes: new Uint8Array(length) }
  let at = 0
  for (const [i, { key, input, signature }] of questions.entries()) {
    letter.heads.set([key, input.length, signature === undefined ? 0 : 1], headNumbers * i)
    letter.bytes.set(input, at)
    at += input.length
    if (signature === undefined) continue
    letter.bytes.set(signature, at)
    at += signatureBytes
  }
  return letter
}

/** How this file knows that it was started as the thread. */
const signingThread = 'countersign signing thread'

if (workerData === signingThread && parentPort !== null) answerLetters(parentPort)

/** The other side: the same file, on the thread. */
function answerLetters(port: NonNullable<typeof parentPort>): void {
  const keys = new Map<number, KeyObject>()
  port.on('message', (letter: Letter) => {
    for (const [name, key] of letter.keys) keys.set(name, key)
    const reply = answer(letter, keys)
    port.postMessage(reply, [reply.buffer])
  })
}

function answer({ heads, bytes }: Letter, keys: ReadonlyMap<number, KeyObject>): Reply {
  const questions = heads.length / headNumbers
  const reply = new Uint8Array(signatureBytes * questions)
  let at = 0
  for (let i = 0; i < questions; i++) {
    const [name = 0, length = 0, verifies] = heads.subarray(headNumbers * i)
    const key = keys.get(name)
    if (key === undefined) throw new Error(`key ${name} was never sent`)
    const input = bytes.subarray(at, at + length)
    at += length
    if (verifies === 1) {
      const holds = verify(null, input, key, bytes.subarray(at, at + signatureBytes))
      at += signatureBytes
      reply[signatureBytes * i] = holds ? 1 : 0
    } else {
      reply.set(sign(null, input, key), signatureBytes * i)
    }
  }
  return reply
}
