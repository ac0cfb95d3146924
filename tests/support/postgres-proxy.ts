import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'

/** What becomes of the first packet to the server that contains `text`, and of its connection. */
export type Fault =
  /** The packet is delivered, the server answers, and the connection is cut before the answer gets through. */
  | { readonly kind: 'answer lost'; readonly text: string }
  /** The connection is cut instead of delivering the packet. */
  | { readonly kind: 'request lost'; readonly text: string }
  /** `text` is replaced by something as long, once. */
  | { readonly kind: 'garbled'; readonly text: string; readonly by: string }

export interface PostgresProxy {
  readonly port: number
  /** Arms one fault; it strikes once. */
  arm(fault: Fault): void
  close(): Promise<void>
}

/** Stands between a client, at 127.0.0.1, and the server whose unix socket is `path`. */
export async function startPostgresProxy(path: string): Promise<PostgresProxy> {
  const open = new Set<Socket>()
  let armed: Fault | undefined

  const server = createServer((client) => {
    const upstream = connect(path)
    const cut = () => {
      client.destroy()
      upstream.destroy()
    }
    for (const socket of [client, upstream]) {
      open.add(socket)
      socket.on('error', cut)
      socket.on('close', cut)
    }
    client.on('data', (bytes) => {
      const fault = armed && bytes.includes(armed.text) ? armed : undefined
      if (fault) armed = undefined
      switch (fault?.kind) {
        case 'request lost':
          return cut()
        case 'answer lost':
          upstream.removeAllListeners('data')
          upstream.once('data', cut)
          break
        case 'garbled':
          return void upstream.write(Buffer.from(bytes.toString('latin1').replace(fault.text, fault.by), 'latin1'))
      }
      upstream.write(bytes)
    })
    upstream.on('data', (bytes) => client.write(bytes))
  })

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    arm: (fault) => {
      armed = fault
    },
    async close() {
      for (const socket of open) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
