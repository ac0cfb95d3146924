import { isLoopback } from '../config.ts'
import { describeLog, type Verdict, verifyEvidence } from '../receipt/verify.ts'
import { UsageError } from './command.ts'
import { isUrl, parseInput, readInput } from './input.ts'
import { type Published, readTrust } from './trust.ts'

/** Files, URLs, or for the receipt `-`: standard input. */
export interface VerifyOptions {
  readonly receipt: string
  readonly payload: string | undefined
  readonly jwks: string
  readonly vkey: string | undefined
  /** vkeys of witnesses. */
  readonly witnesses: readonly string[]
  /** How many of them must have cosigned. Undefined: all. */
  readonly quorum: number | undefined
  readonly issuer: string | undefined
  readonly json: boolean
}

/**
 * Verifies a receipt, and a payload against it, with nothing but published keys. Resolves to the exit code: 0 for
 * valid, 1 for not. CommandError where something cannot be read, so that there is nothing to judge.
 */
export async function verify(options: VerifyOptions): Promise<0 | 1> {
  const { receipt, payload, jwks, vkey, witnesses, quorum = witnesses.length, issuer, json } = options
  if ([payload, jwks, vkey].includes('-')) throw new UsageError('only the receipt can come from standard input')
  if (witnesses.length > 0 && vkey === undefined) throw new UsageError('--witness needs --vkey, the keys of the log')
  const vkeys = vkey === undefined ? undefined : await readPublished(vkey)
  const trust = readTrust({
    jwks: await readPublished(jwks),
    vkeys,
    witnesses: witnesses.length === 0 ? undefined : { vkeys: witnesses, quorum },
    issuer,
  })
  const evidence = {
    receipt: parseInput(await readInput(receipt), receipt === '-' ? 'standard input' : receipt),
    ...(payload !== undefined && { payload: await readInput(payload) }),
  }
  const verdict = verifyEvidence(evidence, trust)
  process.stdout.write(json ? `${JSON.stringify(wireForm(verdict))}\n` : tell(verdict, options))
  return verdict.verdict === 'valid' ? 0 : 1
}

const readPublished = async (where: string): Promise<Published> => ({ where, bytes: await readInput(where) })

/** As `POST /v1/verify` answers. */
const wireForm = ({ log, ...verdict }: Verdict): object =>
  log === undefined ? verdict : { ...verdict, log: describeLog(log) }

/** A line for each check made, one for each that somebody may believe was made, and the verdict. */
function tell({ verdict, checks, statement }: Verdict, options: VerifyOptions): string {
  const made = checks.map(({ name, ok, detail }) => `${ok ? '✓' : '✗'} ${name} — ${detail}`)
  const failed = checks.filter((check) => !check.ok).length
  const last =
    verdict === 'valid' && statement !== undefined
      ? `valid: ${statement.kind} ${statement.sub}, stated by ${statement.iss} at ${timeOf(statement.iat)}`
      : `invalid: ${failed} of ${checks.length} checks failed`
  return [...made, ...omissions(options, statement).map((omission) => `! ${omission}`), '', last, ''].join('\n')
}

function omissions({ payload, jwks, vkey, witnesses }: VerifyOptions, statement: Verdict['statement']): string[] {
  const insecure = [jwks, vkey ?? ''].filter((where) => isUrl(where) && !isTrustworthy(new URL(where)))
  return [
    ...(vkey === undefined ? ['INCLUSION IN THE LOG WAS NOT CHECKED: give the keys of the log with --vkey'] : []),
    ...(vkey !== undefined && witnesses.length === 0
      ? ['no witness was demanded, so another party may be shown another log']
      : []),
    ...(payload === undefined && statement?.kind === 'message.accepted'
      ? ['no payload was given, so none was compared with the receipt']
      : []),
    ...insecure.map((where) => `${where} came over plain http, where anyone on the way can replace the keys`),
  ]
}

/** What browsers call a potentially trustworthy origin. */
const isTrustworthy = ({ protocol, hostname }: URL): boolean =>
  protocol === 'https:' || isLoopback(hostname.replace(/^\[|\]$/g, ''))

/** RFC 3339 of unix seconds that the verifier has seen to be a number. */
function timeOf(iatS: unknown): string {
  const at = new Date(Number(iatS) * 1000)
  return Number.isNaN(at.getTime()) ? String(iatS) : at.toISOString()
}
