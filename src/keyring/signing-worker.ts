/** The other side of signing-thread.ts: this file is the thread. */
import type { KeyObject } from 'node:crypto'
import { parentPort } from 'node:worker_threads'
import { answerAll } from './ed25519.ts'
import { type Letter, readLetter } from './signing-letter.ts'

const keys = new Map<number, KeyObject>()

parentPort?.on('message', (letter: Letter) => {
  const answers = answerAll(readLetter(letter, keys))
  parentPort?.postMessage(answers, [answers.buffer])
})
