import { randomFillSync } from 'node:crypto'

/** What an identifier names, as its first letters say (DESIGN.md section 2). */
export type IdPrefix = 'ten' | 'src' | 'ep' | 'msg' | 'dlv' | 'key' | 'exp' | 'url' | 'req'
export type Id<P extends IdPrefix = IdPrefix> = `${P}_${string}`

const crockford = '0123456789abcdefghjkmnpqrstvwxyz'
const ulid = /^[0-7][0-9a-hjkmnp-tv-z]{25}$/

/**
 * Makes `<prefix>_` + a ULID: 48 bits of unix milliseconds, then 80 bits that are random in a new millisecond and
 * count up within one, so identifiers of one process sort in the order they were made. No dots, since Standard
 * Webhooks joins `id.timestamp.body` with them.
 */
export class IdMaker {
  #lastMs = -1
  readonly #tail = new Uint8Array(10)

  make<P extends IdPrefix>(prefix: P, now: Date): Id<P> {
    // A clock that steps back must not break the order: keep counting in the latest millisecond seen.
    const ms = Math.max(now.getTime(), this.#lastMs)
    if (ms > this.#lastMs) {
      this.#lastMs = ms
      randomFillSync(this.#tail)
      this.#tail[0] = (this.#tail[0] ?? 0) & 0x7f // head room, so that counting cannot overflow
    } else {
      for (let i = 9; i >= 0; i--) {
        const next = ((this.#tail[i] ?? 0) + 1) & 0xff
        this.#tail[i] = next
        if (next !== 0) break
      }
    }
    let text = ''
    for (let rest = ms, i = 0; i < 10; i++, rest = Math.floor(rest / 32)) text = crockford[rest % 32] + text
    for (let bits = 0, held = 0, i = 0; i < 10; i++) {
      held = (held << 8) | (this.#tail[i] ?? 0)
      bits += 8
      while (bits >= 5) {
        bits -= 5
        text += crockford[(held >> bits) & 31]
      }
      held &= (1 << bits) - 1
    }
    return `${prefix}_${text}`
  }
}

/** Whether `text` has the form of an identifier with this prefix. Says nothing about whether it exists. */
export function isId<P extends IdPrefix>(prefix: P, text: string): text is Id<P> {
  return text.startsWith(`${prefix}_`) && ulid.test(text.slice(prefix.length + 1))
}

/** When an identifier was made, by its first 48 bits. */
export function idTime(id: Id): Date {
  const digits = id.slice(id.indexOf('_') + 1, -16)
  return new Date([...digits].reduce((ms, digit) => ms * 32 + crockford.indexOf(digit), 0))
}
