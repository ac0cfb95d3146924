import { Socket } from 'node:net'

/** How long each step to a connection took, whole milliseconds; absent what it did not come to, or did not need. */
export interface ConnectPhases {
  readonly dnsMs?: number
  readonly connectMs?: number
  readonly tlsMs?: number
}

/** One socket on its way to a receiver. */
export class Connecting {
  readonly #begunMs = performance.now()
  #resolvedMs: number | undefined
  #connectedMs: number | undefined
  #securedMs: number | undefined

  /** `socket` as undici begins it: its connector returns that without saying so in its types. */
  watch(socket: unknown): void {
    if (!(socket instanceof Socket)) return
    socket
      .once('lookup', (error: Error | null) => {
        if (error === null) this.#resolvedMs = performance.now()
      })
      .once('connect', () => {
        this.#connectedMs = performance.now()
      })
      .once('secureConnect', () => {
        this.#securedMs = performance.now()
      })
  }

  phases(): ConnectPhases {
    const [resolved, connected, secured] = [this.#resolvedMs, this.#connectedMs, this.#securedMs]
    return {
      ...(resolved !== undefined && { dnsMs: Math.round(resolved - this.#begunMs) }),
      ...(connected !== undefined && { connectMs: Math.round(connected - (resolved ?? this.#begunMs)) }),
      ...(secured !== undefined && connected !== undefined && { tlsMs: Math.round(secured - connected) }),
    }
  }
}
