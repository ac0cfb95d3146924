import {
  createServer,
  type IncomingHttpHeaders,
  type RequestListener,
  type Server,
  type ServerResponse,
} from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TlsOptions } from 'node:tls'

/** One webhook as it arrived. */
export interface Arrived {
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

/** A receiver of ours: a real HTTP server that keeps what it gets and answers as it is told. */
export class Receiver {
  readonly arrived: Arrived[] = []
  /** What to answer; 204 unless a test says otherwise. */
  answer: (arrived: Arrived, response: ServerResponse) => void = (_arrived, response) => response.writeHead(204).end()
  readonly #server: Server
  readonly #origin: string
  #waiting: (() => void)[] = []

  private constructor(tls: TlsOptions | undefined) {
    const take: RequestListener = (request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        const arrived = { headers: request.headers, body: Buffer.concat(chunks) }
        this.arrived.push(arrived)
        this.answer(arrived, response)
        for (const look of this.#waiting.splice(0)) look()
      })
    }
    this.#server = tls === undefined ? createServer(take) : createTlsServer(tls, take)
    this.#origin = tls === undefined ? 'http://127.0.0.1' : 'https://localhost'
  }

  /** With `tls` it is https, by the name localhost. */
  static async start(tls?: TlsOptions): Promise<Receiver> {
    const receiver = new Receiver(tls)
    await new Promise<void>((resolve) => receiver.#server.listen(0, '127.0.0.1', resolve))
    return receiver
  }

  get url(): string {
    return `${this.#origin}:${(this.#server.address() as AddressInfo).port}/hook`
  }

  /** The distinct messages that arrived. */
  get messages(): Set<string> {
    return new Set(this.arrived.map(({ headers }) => String(headers['webhook-id'])))
  }

  /** Resolves when `condition` holds, looked at after each arrival. */
  async until(condition: (arrived: readonly Arrived[]) => boolean): Promise<void> {
    while (!condition(this.arrived)) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

/** A URL where nobody listens: its port was free a moment ago. */
export async function deadUrl(): Promise<string> {
  const receiver = await Receiver.start()
  const { url } = receiver
  await receiver.stop()
  return url
}
