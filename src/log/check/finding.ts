/** What can be wrong with a log, in words that do not change: scripts match on them. The gravest first. */
export const findingWords = [
  'entry_mismatch', // a copy holds another entry than the log has at this leaf
  'tile_mismatch', // a tile holds another hash
  'statement_missing',
  'statement_surplus', // a row where the log has no leaf
  'head_mismatch',
  'checkpoint_contradicted',
  'checkpoint_ahead', // a checkpoint was signed of more leaves than there are
  'checkpoint_unreadable', // no known key of the log signed it
  'statement_unreadable', // it does not open with its tenant's data key, or is no statement
  'signature_invalid',
  'filing_mismatch', // it is filed under another kind, tenant, actor or time than it states
  'tile_missing',
  'bundle_missing',
  'message_missing',
  'message_misplaced', // a message points at a leaf that does not state it
  'delivery_orphaned', // a delivery of no message
] as const

export interface Finding {
  readonly word: (typeof findingWords)[number]
  /** The first leaf it concerns, where that can be told exactly. */
  readonly leafIndex?: number
  /** One sentence for a person: what is wrong, and in which copy. */
  readonly detail: string
}

export type Tell = (finding: Finding) => void

/** By first leaf, those of no leaf last; at one leaf the gravest first. */
export const compareFindings = (one: Finding, other: Finding): number =>
  leafOf(one) - leafOf(other) || findingWords.indexOf(one.word) - findingWords.indexOf(other.word)

const leafOf = ({ leafIndex }: Finding): number => leafIndex ?? Number.MAX_SAFE_INTEGER
