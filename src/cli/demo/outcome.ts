import type { VerifiedCheckpoint } from '../../log/checkpoint.ts'
import type { Verdict } from '../../receipt/verify.ts'
import { columns } from '../command.ts'
import type { CheckName, Reception } from '../receiver.ts'
import type { Post } from './parties.ts'

/** All that happened in a demo. */
export interface Outcome {
  readonly posts: readonly Post[]
  readonly receptions: readonly Reception[]
  /** Of each receipt, by message. */
  readonly verdicts: ReadonlyMap<string, Verdict>
  /** The newest; undefined if it does not verify. */
  readonly checkpoint: VerifiedCheckpoint | undefined
  readonly tookMs: number
}

export function tabulate({ posts, receptions, verdicts, checkpoint, tookMs }: Outcome): string {
  const verified = (check: CheckName): number =>
    new Set(receptions.filter((reception) => reception.verified.includes(check)).map(({ id }) => id)).size
  const delivered = deliveredOf(receptions)
  const endToEndMs = acceptedOf(posts).flatMap(({ id, postedAtMs }) => {
    const reception = delivered.get(id)
    return reception === undefined ? [] : [reception.receivedAtMs - postedAtMs]
  })
  const megabytes = posts.reduce((bytes, { payload }) => bytes + payload.length, 0) / 1e6
  const valid = [...verdicts.values()].filter(({ verdict }) => verdict === 'valid').length
  return columns([
    ['posted', `${posts.length} payloads, ${megabytes.toFixed(2)} MB`],
    ['accepted', String(acceptedOf(posts).length)],
    ['delivered', String(delivered.size)],
    ['verified at the receiver', `${verified('v1a')} signatures (v1a), ${verified('receipt')} receipts (JWT)`],
    ['receipts verified offline', `${valid}, with payload and inclusion in the log`],
    ['post to receipt', percentiles(posts.map(({ durationMs }) => durationMs))],
    ['post to reception', percentiles(endToEndMs)],
    ['log', checkpoint ? `${checkpoint.treeSize} leaves` : 'its newest checkpoint does not verify'],
    ['root hash', checkpoint ? Buffer.from(checkpoint.rootHash).toString('base64') : ''],
    ['checkpoint of', checkpoint?.origin ?? ''],
    ['took', `${(tookMs / 1000).toFixed(1)} s`],
  ])
}

/** A sentence for each thing that is not as promised; none if everything verified. */
export function problemsOf({ posts, receptions, verdicts, checkpoint }: Outcome): string[] {
  const delivered = deliveredOf(receptions)
  const accepted = acceptedOf(posts)
  return [
    ...posts.flatMap(({ answer }) => (answer.kind === 'refused' ? [`a payload was refused: ${answer.why}`] : [])),
    ...accepted.filter(({ id }) => !delivered.has(id)).map(({ id }) => `${id} did not reach the receiver`),
    ...receptions.flatMap(({ id, failed }) =>
      failed.map(({ check, why }) => `${id} failed at the receiver: ${check}: ${why}`),
    ),
    ...accepted.filter(({ id }) => !verdicts.has(id)).map(({ id }) => `the receipt of ${id} was not verified`),
    ...[...verdicts].flatMap(([id, { checks }]) =>
      checks.filter(({ ok }) => !ok).map(({ name, detail }) => `the receipt of ${id} failed: ${name}: ${detail}`),
    ),
    ...(checkpoint === undefined ? ['the newest checkpoint does not verify'] : []),
  ]
}

export const acceptedOf = (posts: readonly Post[]) =>
  posts.flatMap(({ answer, ...post }) => (answer.kind === 'accepted' ? [{ ...post, ...answer }] : []))

/** By message, the first reception that was answered 204. */
export function deliveredOf(receptions: readonly Reception[]): Map<string, Reception> {
  const fine = receptions.filter(({ failed, again }) => failed.length === 0 && !again)
  return new Map(fine.map((reception) => [reception.id, reception]))
}

/** Of durations in milliseconds, by nearest rank. */
function percentiles(durationsMs: readonly number[]): string {
  if (durationsMs.length === 0) return ''
  const sorted = durationsMs.toSorted((a, b) => a - b)
  const at = (share: number): string => (sorted[Math.ceil(share * sorted.length) - 1] ?? 0).toFixed(1)
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`
}
