/**
 * The load generator, a process of its own, with two kinds of load:
 *
 *     closed loop    autocannon: each connection posts again when it is answered. Finds out how much goes through.
 *     open loop      posts leave at a constant rate whatever comes back, and latency counts from when a post was due to
 *                    leave, not from when it left: a stall is felt by all who would have come during it, so none is
 *                    omitted. The generator's own lateness thus counts against the relay, by up to a millisecond.
 */
import { setTimeout as delay } from 'node:timers/promises'
import autocannon from 'autocannon'
import { type Dispatcher, Pool } from 'undici'
import { offer } from './helper-process.ts'
import { Column, clockMs, Sample } from './ledger.ts'
import { type PayloadKind, payloadMaker } from './payloads.ts'

export interface Posting {
  /** One or several relays, which take turns. */
  readonly urls: readonly string[]
  readonly headers: Readonly<Record<string, string>>
  /** API keys, one for each URL, where they are not all the same one in `headers`. */
  readonly keys?: readonly string[]
  readonly payload: PayloadKind
  readonly firstPost: number
  readonly seconds: number
  readonly connections: number
}

/** What became of the posts from `firstPost` on. Times are clockMs; 0 stands for never. */
export interface PostLog {
  readonly beganMs: number
  readonly endedMs: number
  /** When it left, or was due to. */
  readonly startMs: Float64Array
  readonly answeredMs: Float64Array
  readonly status: Float64Array
  /** Bodies of answers, an even sample by post. */
  readonly receipts: [post: number, text: string][]
}

export interface Requesting {
  /** Scheme, host and port. */
  readonly origin: string
  /** Sent in turn; with a body by POST, else by GET. */
  readonly requests: readonly { readonly path: string; readonly body?: string }[]
  readonly headers?: Readonly<Record<string, string>>
  readonly seconds: number
  readonly connections: number
  /** Found in every right answer. */
  readonly expect: string
}

const sampled = 64

const questions = {
  async closedLoop(posting: Posting): Promise<PostLog> {
    const notes = new Notes(posting.firstPost)
    const payload = payloadMaker(posting.payload)
    await cannon({
      url: [...posting.urls] as unknown as string, // takes turns, though its types do not know
      ...{ method: 'POST', connections: posting.connections, duration: posting.seconds, headers: posting.headers },
      requests: [
        {
          setupRequest(request, context) {
            const post = notes.start(clockMs())
            Object.assign(context, { post })
            return { ...request, body: payload(post) }
          },
          onResponse: (status, body, context) => notes.answer((context as { post: number }).post, status, body),
        },
      ],
    })
    return notes.close()
  },

  async openLoop({ rate, ...posting }: Posting & { rate: number }): Promise<PostLog> {
    const notes = new Notes(posting.firstPost)
    const payload = payloadMaker(posting.payload)
    const pools = posting.urls.map(
      (url) => new Pool(new URL(url).origin, { connections: posting.connections, pipelining: 1 }),
    )
    const paths = posting.urls.map((url) => new URL(url).pathname)
    const headers = posting.urls.map((_, n) => ({
      ...posting.headers,
      ...(posting.keys && { authorization: `Bearer ${posting.keys[n]}` }),
    }))
    const total = Math.round(rate * posting.seconds)
    const beganMs = clockMs()
    const answers: Promise<void>[] = []
    while (answers.length < total) {
      const due = Math.min(total, Math.floor(((clockMs() - beganMs) / 1000) * rate) + 1)
      while (answers.length < due) {
        const turn = answers.length % pools.length
        const post = notes.start(beganMs + (answers.length * 1000) / rate)
        const body = Buffer.from(payload(post))
        const request = { path: paths[turn] ?? '/', method: 'POST', headers: headers[turn] ?? {}, body } as const
        answers.push(dispatch(pools[turn] as Pool, request, (status, text) => notes.answer(post, status, text)))
      }
      await delay(1)
    }
    await Promise.all(answers)
    const log = notes.close()
    await Promise.all(pools.map((pool) => pool.destroy()))
    return log
  },

  /** A closed loop of any requests. Rejects unless every answer is 200 and holds what is expected. */
  async request({ origin, requests, headers, seconds, connections, expect }: Requesting): Promise<PostLog> {
    const notes = new Notes(0)
    let wrong = 0
    const one = ({ path, body }: Requesting['requests'][number]): autocannon.Request => ({
      path,
      ...(body !== undefined && { method: 'POST', body, headers: { ...headers, 'content-type': 'application/json' } }),
      setupRequest(request, context) {
        Object.assign(context, { post: notes.start(clockMs()) })
        return request
      },
      onResponse(status, text, context) {
        if (status !== 200 || !text.includes(expect)) wrong++
        notes.answer((context as { post: number }).post, status, '')
      },
    })
    await cannon({ url: origin, connections, duration: seconds, headers: { ...headers }, requests: requests.map(one) })
    if (wrong > 0) throw new Error(`${wrong} wrong answers of ${requests[0]?.path}`)
    return notes.close()
  },
}

export type LoadQuestions = typeof questions
offer(questions)

/** Notes of one run, in columns by post. */
class Notes {
  readonly #firstPost: number
  readonly #beganMs = clockMs()
  readonly #startMs = new Column()
  readonly #answeredMs = new Column()
  readonly #status = new Column()
  readonly #receipts = new Sample<string>(sampled)
  #next: number

  constructor(firstPost: number) {
    this.#firstPost = firstPost
    this.#next = firstPost
  }

  start(atMs: number): number {
    this.#startMs.set(this.#next - this.#firstPost, atMs)
    return this.#next++
  }

  answer(post: number, status: number, text: string): void {
    this.#answeredMs.set(post - this.#firstPost, clockMs())
    this.#status.set(post - this.#firstPost, status)
    if (status === 202 && this.#receipts.wants(post)) this.#receipts.keep(post, text)
  }

  close(): PostLog {
    return {
      ...{ beganMs: this.#beganMs, endedMs: clockMs() },
      startMs: this.#startMs.slice(0),
      answeredMs: this.#answeredMs.slice(0),
      status: this.#status.slice(0),
      receipts: this.#receipts.items(),
    }
  }
}

/** autocannon drops the requests in flight when time is up; they count as never answered. */
function cannon(options: autocannon.Options): Promise<autocannon.Result> {
  const wholeSeconds = { sampleInt: 50, timeout: 30 } // how often it looks whether time is up; seconds to an answer
  return autocannon({ ...options, ...wholeSeconds })
}

/** undici without its promises and streams: at thousands a second, they are most of what a generator costs. */
function dispatch(
  pool: Pool,
  request: Dispatcher.DispatchOptions,
  answered: (status: number, text: string) => void,
): Promise<void> {
  return new Promise((resolve) => {
    let status = 0
    const chunks: Uint8Array[] = []
    pool.dispatch(request, {
      onRequestStart() {},
      onResponseStart(_controller, code) {
        status = code
      },
      onResponseData(_controller, chunk) {
        chunks.push(chunk)
      },
      onResponseEnd() {
        answered(status, Buffer.concat(chunks).toString())
        resolve()
      },
      onResponseError: () => resolve(), // never answered
    })
  })
}
