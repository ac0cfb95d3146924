/** Counts what is under way, for those who wait until there is less of it. */
export class UnderWay {
  #count = 0
  #waiting: { readonly most: number; readonly resolve: () => void }[] = []

  begin(): void {
    this.#count += 1
  }

  end(): void {
    this.#count -= 1
    if (this.#waiting.length === 0) return
    const served = this.#waiting.filter(({ most }) => this.#count <= most)
    this.#waiting = this.#waiting.filter(({ most }) => this.#count > most)
    for (const { resolve } of served) resolve()
  }

  /** Resolves once there is no more than `most`; undefined if that is so now, and there is nothing to wait for. */
  atMost(most: number): Promise<void> | undefined {
    if (this.#count <= most) return undefined
    return new Promise((resolve) => this.#waiting.push({ most, resolve }))
  }
}
