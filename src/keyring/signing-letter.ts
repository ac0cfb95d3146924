import type { KeyObject } from 'node:crypto'
import { type Question, signatureBytes } from './ed25519.ts'

/** What goes over at once, packed: the thread is handed two buffers, and no copy of each question. */
export interface Letter {
  /** The keys it names for the first time. A key goes over once, as the handle to the same key. */
  readonly keys: readonly (readonly [number, KeyObject])[]
  /** {@link headNumbers} for each question: its key, the length of its input, and its kind as its place in {@link kinds}. */
  readonly heads: Uint32Array<ArrayBuffer>
  /** For each question its input, then the signature in question. */
  readonly bytes: Uint8Array<ArrayBuffer>
}

const headNumbers = 3
const kinds = ['sign', 'verify', 'confirm'] as const

/** `names` holds the keys sent before, and gains those sent now. */
export function writeLetter(questions: readonly Question[], names: Map<KeyObject, number>): Letter {
  let length = 0
  for (const question of questions) length += question.input.length + (question.kind === 'sign' ? 0 : signatureBytes)
  const heads = new Uint32Array(headNumbers * questions.length)
  const bytes = new Uint8Array(length)
  const keys: [number, KeyObject][] = []
  let head = 0
  let at = 0
  for (const question of questions) {
    const { key, input, kind } = question
    let name = names.get(key)
    if (name === undefined) {
      name = names.size
      names.set(key, name)
      keys.push([name, key])
    }
    heads[head++] = name
    heads[head++] = input.length
    heads[head++] = kinds.indexOf(kind)
    bytes.set(input, at)
    at += input.length
    if (kind === 'sign') continue
    bytes.set(question.signature, at)
    at += signatureBytes
  }
  return { keys, heads, bytes }
}

/** The questions in the order asked; their bytes are the letter's. `keys` gains those that came with it. */
export function readLetter({ keys: sent, heads, bytes }: Letter, keys: Map<number, KeyObject>): Question[] {
  for (const [name, key] of sent) keys.set(name, key)
  const questions: Question[] = []
  let at = 0
  for (let head = 0; head < heads.length; head += headNumbers) {
    const name = heads[head] as number
    const key = keys.get(name)
    if (key === undefined) throw new Error(`key ${name} was never sent`)
    const end = at + (heads[head + 1] as number)
    const kind = kinds[heads[head + 2] as number] ?? 'sign'
    const input = bytes.subarray(at, end)
    at = kind === 'sign' ? end : end + signatureBytes
    questions.push(kind === 'sign' ? { kind, key, input } : { kind, key, input, signature: bytes.subarray(end, at) })
  }
  return questions
}
