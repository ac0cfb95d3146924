/** A bar on a terminal, a line now and then elsewhere: on standard error, so that the answer stays alone on standard
 *  output. */
export class Progress {
  readonly #total: number | undefined
  readonly #unit: string
  #done = 0
  #shownAtMs = performance.now()
  #shownTenth = 0

  /** `total` is undefined where nobody knows how much there is. */
  constructor(total: number | undefined, unit: string) {
    this.#total = total
    this.#unit = unit
  }

  advance(amount: number): void {
    this.#done += amount
    if (process.stderr.isTTY) this.#draw()
    else this.#say()
  }

  /** Takes the bar away again. */
  end(): void {
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
  }

  #draw(): void {
    const now = performance.now()
    if (now - this.#shownAtMs < drawEveryMs) return
    this.#shownAtMs = now
    const part = this.#part
    const full = part === undefined ? 0 : Math.round(part * barWidth)
    const bar = part === undefined ? '' : `[${'#'.repeat(full)}${' '.repeat(barWidth - full)}] `
    process.stderr.write(`\r\x1b[K${bar}${this.#text}`)
  }

  #say(): void {
    const tenth = Math.floor((this.#part ?? 0) * 10)
    const due = this.#total === undefined ? performance.now() - this.#shownAtMs > sayEveryMs : tenth > this.#shownTenth
    if (!due) return
    this.#shownTenth = tenth
    this.#shownAtMs = performance.now()
    process.stderr.write(`${this.#text}\n`)
  }

  get #part(): number | undefined {
    return this.#total === undefined || this.#total === 0 ? undefined : Math.min(1, this.#done / this.#total)
  }

  get #text(): string {
    const percent = this.#part === undefined ? '' : `${Math.floor(this.#part * 100)} %, `
    return `${percent}${this.#done.toLocaleString('en-US')} ${this.#unit}`
  }
}

const barWidth = 40
const drawEveryMs = 100
const sayEveryMs = 10_000
