import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

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
  /** Arms one fault and takes it back unless it strikes in time. Resolves with whether it did. */
  strikeNext(fault: Fault, withinMs: number): Promise<boolean>
  /** Cuts every connection, and lets none through for so long; `silent` ones hear of it only then. Resolves with how many
   *  it cut. */
  cut(how: 'closed' | 'silent', lastsMs: number): Promise<number>
  close(): Promise<void>
}

/** Stands between a client, at 127.0.0.1, and the server whose unix socket is `path`. */
export async function startPostgresProxy(path: string): Promise<PostgresProxy> {
  const open = new Set<Socket>()
  let armed: Fault | undefined
  let down: 'closed' | 'silent' | undefined

  const server = createServer((client) => {
    const upstream = connect(path)
    const cut = () => {
      client.destroy()
      upstream.destroy()
    }
    for (const socket of [client, upstream]) {
      open.add(socket)
      socket.on('error', cut)
      socket.on('close', () => {
        open.delete(socket)
        cut()
      })
    }
    if (down === 'closed') return cut()
    client.on('data', (bytes) => {
      if (down !== undefined) return
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
    upstream.on('data', (bytes) => down === undefined && client.write(bytes))
  })

  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    arm: (fault) => {
      armed = fault
    },
    async strikeNext(fault, withinMs) {
      armed = fault
      for (const until = performance.now() + withinMs; armed === fault && performance.now() < until; ) await delay(5)
      if (armed !== fault) return true
      armed = undefined
      return false
    },
    async cut(how, lastsMs) {
      down = how
      const met = open.size / 2
      if (how === 'closed') for (const socket of open) socket.destroy()
      await delay(lastsMs)
      for (const socket of open) socket.destroy()
      down = undefined
      return met
    },
    async close() {
      for (const socket of open) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
