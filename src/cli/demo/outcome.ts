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

/** The table at the end. */
export function tabulate({ posts, receptions, verdicts, checkpoint, tookMs }: Outcome): string {
  const accepted = new Map(posts.flatMap((post) => (post.answer.kind === 'accepted' ? [[post.answer.id, post]] : [])))
  const first = new Map(receptions.toReversed().map((reception) => [reception.id, reception]))
  const firsts = [...first.values()]
  const verified = (check: CheckName): number => firsts.filter((reception) => reception.verified.includes(check)).length
  const endToEndMs = firsts.flatMap(({ id, receivedAtMs }) => receivedAtMs - (accepted.get(id)?.postedAtMs ?? Number.NaN))
  const bytes = posts.reduce((sum, { payload }) => sum + payload.length, 0)
  const valid = [...verdicts.values()].filter(({ verdict }) => verdict === 'valid').length
  const { treeSize, origin, rootHash } = checkpoint ?? {}
  const rows = [
    ['posted', `${posts.length} payloads, ${(bytes / 1e6).toFixed(2)} MB`],
    ['accepted', `${accepted.size}`],
    ['delivered', `${firsts.filter(({ failed }) => failed.length === 0).length}`],
    ['verified at the receiver', `${verified('v1a')} signatures (v1a), ${verified('receipt')} receipts (jose)`],
    ['receipts verified offline', `${valid}, with their inclusion in the log`],
    ['post to receipt', percentiles(posts.map(({ durationMs }) => durationMs))],
    ['post to reception', percentiles(endToEndMs)],
    ['log', checkpoint ? `${treeSize} leaves in the newest checkpoint of ${origin}` : 'the newest checkpoint does not verify'],
    ['root hash', rootHash ? Buffer.from(rootHash).toString('base64') : 'unknown'],
    ['took', `${(tookMs / 1000).toFixed(1)} s`],
  ] as const
  return `\n${columns(rows)}\n`
}
