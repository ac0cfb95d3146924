import { Randomness } from './randomness.ts'

/** What an identifier names, as its first letters say (DESIGN.md section 2). */
export type IdPrefix = 'ten' | 'src' | 'ep' | 'msg' | 'dlv' | 'key' | 'exp' | 'url' | 'req' | 'rpl'
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
  #time = ''
  readonly #tail = new Uint8Array(10)

  make<P extends IdPrefix>(prefix: P, now: Date): Id<P> {
    // A clock that steps back must not break the order: keep counting in the latest millisecond seen.
    const ms = Math.max(now.getTime(), this.#lastMs)
    if (ms > this.#lastMs) {
      this.#lastMs = ms
      this.#time = timeText(ms)
      randomness.fill(this.#tail)
      this.#tail[0] = (this.#tail[0] ?? 0) & 0x7f // head room, so that counting cannot overflow
    } else {
      for (let i = 9; i >= 0; i--) {
        const next = ((this.#tail[i] ?? 0) + 1) & 0xff
        this.#tail[i] = next
        if (next !== 0) break
      }
    }
    return `${prefix}_${this.#time}${fiveBytes(this.#tail, 0)}${fiveBytes(this.#tail, 5)}`
  }
}

const randomness = new Randomness(10 * 256)

/** Eight characters: twice four of five bits. */
function fiveBytes(bytes: Uint8Array, at: number): string {
  const middle = bytes[at + 2] ?? 0
  const high = ((bytes[at] ?? 0) << 12) | ((bytes[at + 1] ?? 0) << 4) | (middle >> 4)
  const low = ((middle & 15) << 16) | ((bytes[at + 3] ?? 0) << 8) | (bytes[at + 4] ?? 0)
  return fourDigits(high) + fourDigits(low)
}

const fourDigits = (bits: number): string => (pairs[bits >> 10] as string) + (pairs[bits & 1023] as string)

/** Every two characters in a row, by their ten bits. */
const pairs = Array.from({ length: 1024 }, (_, bits) => crockford.charAt(bits >> 5) + crockford.charAt(bits & 31))

/** What is not above any identifier made at `at` or later, and above all that were made before: a bound for searches. */
export const idsFrom = <P extends IdPrefix>(prefix: P, at: Date): Id<P> => `${prefix}_${timeText(at.getTime())}`

/** The first 10 characters of a ULID. */
function timeText(ms: number): string {
  let text = ''
  for (let rest = ms, i = 0; i < 10; i++, rest = Math.floor(rest / 32)) text = crockford[rest % 32] + text
  return text
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
