import type { KeyObject } from 'node:crypto'

/** What the signing thread is asked about one input. */
export type Question = {
  /** As a letter names it. */
  readonly key: number
  readonly input: Uint8Array
} & ({ readonly kind: 'sign' } | { readonly kind: 'verify' | 'confirm'; readonly signature: Uint8Array })

/** What goes over at once, packed: the thread is handed two buffers, and no copy of each question. */
export interface Letter {
  /** The keys it names for the first time. */
  readonly keys: readonly (readonly [number, KeyObject])[]
  /** {@link headNumbers} for each question: its key, the length of its input, and its kind as its place in {@link kinds}. */
  readonly heads: Uint32Array<ArrayBuffer>
  /** For each question its input, then the signature in question. */
  readonly bytes: Uint8Array<ArrayBuffer>
}

/** For each question its answer in 64 bytes: the signature, or 1 in the first if the one given holds. */
export type Reply = Uint8Array<ArrayBuffer>

export const signatureBytes = 64
const headNumbers = 3
const kinds = ['sign', 'verify', 'confirm'] as const

export function writeLetter(keys: Letter['keys'], questions: readonly Question[]): Letter {
  let length = 0
  for (const question of questions) length += question.input.length + (question.kind === 'sign' ? 0 : signatureBytes)
  const letter = { keys, heads: new Uint32Array(headNumbers * questions.length), bytes: new Uint8Array(length) }
  const { heads, bytes } = letter
  let head = 0
  let at = 0
  for (const question of questions) {
    const { key, input, kind } = question
    heads[head++] = key
    heads[head++] = input.length
    heads[head++] = kinds.indexOf(kind)
    bytes.set(input, at)
    at += input.length
    if (kind === 'sign') continue
    bytes.set(question.signature, at)
    at += signatureBytes
  }
  return letter
}

/** The questions in the order asked. Their bytes are the letter's. */
export function readLetter({ heads, bytes }: Letter): Question[] {
  const questions: Question[] = []
  let at = 0
  for (let head = 0; head < heads.length; head += headNumbers) {
    const key = heads[head] as number
    const end = at + (heads[head + 1] as number)
    const kind = kinds[heads[head + 2] as number] ?? 'sign'
    const input = bytes.subarray(at, end)
    at = kind === 'sign' ? end : end + signatureBytes
    questions.push(kind === 'sign' ? { kind, key, input } : { kind, key, input, signature: bytes.subarray(end, at) })
  }
  return questions
}
