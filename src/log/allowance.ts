/** What one address may have written down at once, and how often more: one a minute. */
const perAddress = { most: 5, perMs: 1 / 60_000 }

/** The same for all addresses together: at most 14,400 a day, however many addresses an attacker has. */
const overall = { most: 100, perMs: 1 / 6_000 }

/** Addresses remembered. One that is forgotten starts anew, which {@link overall} bounds as well. */
const mostAddresses = 10_000

/**
 * How many refusals may be stated. Whoever guesses keys decides how often we refuse, and must not decide how fast the
 * log grows. Two token buckets, of the address and of all; both must have one left.
 */
export class RefusalAllowance {
  readonly #all = new Bucket(overall)
  readonly #addresses = new Map<string, Bucket>()

  take(address: string, nowMs: number): boolean {
    const bucket = this.#addresses.get(address) ?? new Bucket(perAddress)
    // The most recently used last, so that the first is the one to forget.
    this.#addresses.delete(address)
    this.#addresses.set(address, bucket)
    if (this.#addresses.size > mostAddresses)
      for (const oldest of this.#addresses.keys()) if (this.#addresses.delete(oldest)) break
    if (!bucket.has(nowMs) || !this.#all.has(nowMs)) return false
    bucket.take()
    this.#all.take()
    return true
  }
}

class Bucket {
  readonly #rate: { readonly most: number; readonly perMs: number }
  #left: number
  #atMs: number | undefined

  constructor(rate: { readonly most: number; readonly perMs: number }) {
    this.#rate = rate
    this.#left = rate.most
  }

  has(nowMs: number): boolean {
    const passedMs = Math.max(0, nowMs - (this.#atMs ?? nowMs)) // a clock that steps back gives nothing
    this.#atMs = nowMs
    this.#left = Math.min(this.#rate.most, this.#left + passedMs * this.#rate.perMs)
    return this.#left >= 1
  }

  take(): void {
    this.#left -= 1
  }
}
