/** The other side of signing-thread.ts: this file is the thread. */
import { createPublicKey, type KeyObject, sign, verify } from 'node:crypto'
import { parentPort } from 'node:worker_threads'
import { type Letter, type Question, type Reply, readLetter, signatureBytes } from './signing-letter.ts'

interface Key {
  readonly key: KeyObject
  readonly publicKey: KeyObject
}

const keys = new Map<number, Key>()

parentPort?.on('message', (letter: Letter) => {
  for (const [name, key] of letter.keys) {
    keys.set(name, { key, publicKey: key.type === 'private' ? createPublicKey(key) : key })
  }
  const reply = answer(readLetter(letter))
  parentPort?.postMessage(reply, [reply.buffer])
})

/**
 * Ed25519 is deterministic (RFC 8032 §5.1.6): whoever holds the key confirms a signature by making it again, at two fifths of
 * what verifying it costs. That tells a slip in one of the two, and not a key gone bad between letters, which would err
 * twice alike. So the last signature by each key in a letter is verified with the public key too, and stands for all.
 */
function answer(questions: readonly Question[]): Reply {
  const reply = new Uint8Array(signatureBytes * questions.length)
  const lastByKey = new Map<number, Question>()
  for (const [i, question] of questions.entries()) {
    const { key, publicKey } = keyOf(question)
    const { kind, input } = question
    if (kind === 'sign') reply.set(sign(null, input, key), signatureBytes * i)
    else if (kind === 'verify') reply[signatureBytes * i] = verify(null, input, publicKey, question.signature) ? 1 : 0
    else {
      reply[signatureBytes * i] = sign(null, input, key).equals(question.signature) ? 1 : 0
      lastByKey.set(question.key, question)
    }
  }
  for (const [name, last] of lastByKey) {
    if (holds(last)) continue
    for (const [i, { kind, key }] of questions.entries()) {
      if (kind === 'confirm' && key === name) reply[signatureBytes * i] = 0
    }
  }
  return reply
}

const holds = (question: Question): boolean =>
  question.kind !== 'sign' && verify(null, question.input, keyOf(question).publicKey, question.signature)

function keyOf({ key: name }: Question): Key {
  const key = keys.get(name)
  if (key === undefined) throw new Error(`key ${name} was never sent`)
  return key
}
