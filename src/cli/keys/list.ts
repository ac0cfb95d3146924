import { readConfig } from '../../config.ts'
import { type KeyPolicy, readPolicy } from '../../keyring/policy.ts'
import { CommandError } from '../command.ts'
import { fetchHistory, type HistorySignature, shorten } from './history.ts'
import { drawTimeline } from './timeline.ts'

/** Shows the keys of a relay. Resolves to the exit code: 1 if the answer is not what the active key signed. */
export async function listKeys(options: {
  readonly relay: string
  readonly ascii: boolean
  readonly json: boolean
  readonly now: Date
}): Promise<0 | 1> {
  const { relay, ascii, json, now } = options
  const { bytes, keys, signature } = await fetchHistory(relay)
  if (json) {
    process.stdout.write(`${Buffer.from(bytes)}\n`)
    if (signature.kind === 'fails') process.stderr.write(tell(signature))
  } else {
    process.stdout.write(`${drawTimeline(keys, await policyHere(), now, ascii)}\n${tell(signature)}`)
  }
  return signature.kind === 'holds' ? 0 : 1
}

const tell = (signature: HistorySignature): string =>
  signature.kind === 'holds'
    ? `Signed by the active payload key ${shorten(signature.kid)} of ${signature.issuer}; the signed copy says the same.\n`
    : `NOT SIGNED as a relay signs it: ${signature.why}.\n`

/** The policy as a relay started here would read it. No route tells that of the relay asked. */
async function policyHere(): Promise<KeyPolicy> {
  try {
    return await readPolicy(readConfig(process.env).keyPolicy)
  } catch (error) {
    throw error instanceof Error ? new CommandError(error.message) : error
  }
}
