import { once } from 'node:events'
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TlsOptions } from 'node:tls'

/** What it does with a connection; asked again for each. */
export type Behaviour = (socket: Socket) => void

/** A receiver below HTTP: it says whatever it likes, whenever it likes, and counts what it got rid of. */
export class HostileReceiver {
  /** Connections that were made to it. */
  connections = 0
  /** Bytes that it was allowed to send: what the other side read, and what the buffers between both hold. */
  sent = 0
  readonly #server: Server
  readonly #sockets = new Set<Socket>()

  private constructor(behave: Behaviour, tls: TlsOptions | undefined) {
    const take = (socket: Socket): void => {
      this.connections += 1
      this.#sockets.add(socket)
      socket.on('error', () => {})
      socket.on('close', () => {
        this.sent += socket.bytesWritten
        this.#sockets.delete(socket)
      })
      behave(socket)
    }
    this.#server = tls === undefined ? createServer(take) : createTlsServer(tls, take)
    this.#server.on('tlsClientError', () => {})
  }

  static async start(behave: Behaviour, { tls, host = '127.0.0.1' }: { tls?: TlsOptions; host?: string } = {}) {
    const receiver = new HostileReceiver(behave, tls)
    receiver.#server.listen(0, host)
    await once(receiver.#server, 'listening')
    return receiver
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get open(): number {
    return this.#sockets.size
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

/** Says `text` once it got a whole request: to the first, the second … on a connection, each its own. */
export const answering =
  (...texts: (string | Buffer)[]): Behaviour =>
  (socket) => {
    let next = 0
    onRequests(socket, () => {
      const text = texts[Math.min(next++, texts.length - 1)]
      if (text !== undefined) socket.write(text)
    })
  }

/** Calls back after each whole request. Ours have a content-length, always. */
export function onRequests(socket: Socket, onRequest: () => void): void {
  let received = Buffer.alloc(0)
  socket.on('data', (chunk: Buffer) => {
    received = Buffer.concat([received, chunk])
    for (;;) {
      const headEnd = received.indexOf('\r\n\r\n')
      if (headEnd === -1) return
      const [, length = '0'] = /content-length: (\d+)/i.exec(received.toString('latin1', 0, headEnd)) ?? []
      const end = headEnd + 4 + Number(length)
      if (received.length < end) return
      received = received.subarray(end)
      onRequest()
    }
  })
}

/** Writes `piece` again and again, as fast as it is taken, or once each `everyMs`; for as long as the socket lives. */
export function pour(socket: Socket, piece: string | Buffer, everyMs?: number): void {
  if (everyMs !== undefined) {
    const timer = setInterval(() => socket.write(piece), everyMs)
    socket.on('close', () => clearInterval(timer))
    return
  }
  const more = (): void => {
    while (!socket.destroyed && socket.write(piece));
  }
  socket.on('drain', more)
  more()
}
