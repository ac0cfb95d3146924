import { createPublicKey, type KeyObject, sign, verify } from 'node:crypto'

/** What may be asked about one input. */
export type Question =
  | { readonly kind: 'sign'; readonly key: KeyObject; readonly input: Uint8Array }
  | {
      /** `confirm`: `key` is the private one, and the signature was made with it, or so we believe. */
      readonly kind: 'verify' | 'confirm'
      readonly key: KeyObject
      readonly input: Uint8Array
      readonly signature: Uint8Array
    }

type Claim = Exclude<Question, { kind: 'sign' }>

export const signatureBytes = 64

/** For each question 64 bytes: the signature, or 1 in the first if the one given holds. */
export type Answers = Uint8Array<ArrayBuffer>

/**
 * Ed25519 (RFC 8032), many questions at once.
 *
 * It is deterministic (§5.1.6), so whoever holds the key confirms a signature by making it again, at two fifths of what
 * verifying it costs. That tells a slip in one of the two, but not a key gone bad in between, which errs twice alike. So
 * the last signature by each key is verified with the public key, and stands for the others.
 */
export function answerAll(questions: readonly Question[]): Answers {
  const answers = new Uint8Array(signatureBytes * questions.length)
  const toConfirm = new Map<KeyObject, number[]>()
  for (const [i, question] of questions.entries()) {
    const { kind, key, input } = question
    if (kind === 'sign') answers.set(sign(null, input, key), signatureBytes * i)
    else if (kind === 'verify') answers[signatureBytes * i] = holds(question) ? 1 : 0
    else if (toConfirm.get(key)?.push(i) === undefined) toConfirm.set(key, [i])
  }
  for (const places of toConfirm.values()) {
    const last = questions[places.at(-1) as number] as Claim
    if (!holds(last)) continue
    for (const i of places) {
      const claim = questions[i] as Claim
      answers[signatureBytes * i] = claim === last || isRepeatable(claim) ? 1 : 0
    }
  }
  return answers
}

const isRepeatable = ({ key, input, signature }: Claim): boolean => sign(null, input, key).equals(signature)

const holds = ({ key, input, signature }: Claim): boolean => verify(null, input, publicHalf(key), signature)

const publicHalves = new WeakMap<KeyObject, KeyObject>()

/** Derived when a key is first asked about, and remembered from then on. */
function publicHalf(key: KeyObject): KeyObject {
  if (key.type === 'public') return key
  const known = publicHalves.get(key)
  if (known !== undefined) return known
  const publicKey = createPublicKey(key)
  publicHalves.set(key, publicKey)
  return publicKey
}
