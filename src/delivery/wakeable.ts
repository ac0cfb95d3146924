import { setTimeout as delay } from 'node:timers/promises'
import type { Clock } from '../ports/clock.ts'

/** Looks in vain are not closer together than this. */
const leastMs = 5

/** Does something again and again: at least every `pollMs`, when its last time asked for an earlier one, and when woken. */
export class Wakeable {
  readonly #look: () => Promise<Date | undefined>
  readonly #pollMs: number
  readonly #clock: Clock
  #sleep: AbortController | undefined
  #woken = false
  #stopped = false
  #running: Promise<void> = Promise.resolve()

  /** `look` must not reject; it resolves with when it wants to look again. */
  constructor({ look, pollMs, clock }: { look: () => Promise<Date | undefined>; pollMs: number; clock: Clock }) {
    this.#look = look
    this.#pollMs = pollMs
    this.#clock = clock
  }

  start(): void {
    this.#running = this.#run()
  }

  wake(): void {
    this.#woken = true
    this.#sleep?.abort()
  }

  async stop(): Promise<void> {
    this.#stopped = true
    this.wake()
    await this.#running
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      this.#woken = false
      const again = await this.#look()
      if (this.#woken) continue
      const askedMs = again === undefined ? this.#pollMs : again.getTime() - this.#clock.now().getTime()
      this.#sleep = new AbortController()
      const { signal } = this.#sleep
      await delay(Math.min(this.#pollMs, Math.max(askedMs, leastMs)), undefined, { signal }).catch(() => {})
      this.#sleep = undefined
    }
  }
}
