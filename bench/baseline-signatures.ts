import { execFile } from 'node:child_process'
import { generateKeyPairSync, randomBytes, sign, verify } from 'node:crypto'
import { promisify } from 'node:util'
import type { Figures } from './figures.ts'
import { clockMs } from './ledger.ts'

/**
 * Baseline: the signature floor. Ed25519 on one core over as many bytes as a statement has, by node:crypto and, if there
 * is one on the PATH, by the system's openssl, which may be another version. A message costs two signatures and one
 * verification, so this bounds messages per second before anything else is done.
 */
export async function measureSignatures(seconds: number): Promise<Figures> {
  const { privateKey, publicKey } = generateKeyPairSync('ed25519')
  const statement = randomBytes(600)
  const signature = sign(null, statement, privateKey)
  return {
    signsPerS: perSecond(seconds, () => void sign(null, statement, privateKey)),
    verifiesPerS: perSecond(seconds, () => void verify(null, statement, publicKey, signature)),
    ...(await opensslSpeed(seconds)),
  }
}

function perSecond(seconds: number, work: () => void): number {
  const beganMs = clockMs()
  let times = 0
  for (; clockMs() - beganMs < seconds * 1000; times += 50) for (let i = 0; i < 50; i++) work()
  return (times * 1000) / (clockMs() - beganMs)
}

/** The last line of its table reads ` 253 bits EdDSA (Ed25519)   0.0001s   0.0001s  18314.0   7128.0`. */
async function opensslSpeed(seconds: number): Promise<Figures> {
  const args = ['speed', '-seconds', String(Math.max(1, Math.round(seconds))), 'ed25519']
  const { stdout } = await promisify(execFile)('openssl', args).catch(() => ({ stdout: '' }))
  const [, signs, verifies] = /EdDSA \(Ed25519\)\s+\S+s\s+\S+s\s+(\S+)\s+(\S+)/.exec(stdout) ?? []
  return signs === undefined ? {} : { opensslSignsPerS: Number(signs), opensslVerifiesPerS: Number(verifies) }
}
