/** What is wrong with a log, in a word that does not change: scripts match on it. */
export type FindingWord =
  | 'entry_mismatch' // a copy holds another entry than the log has at this leaf
  | 'tile_mismatch' // a tile holds another hash
  | 'statement_missing'
  | 'statement_surplus' // a row where the log has no leaf
  | 'statement_unreadable' // it does not open with its tenant's data key, or is no statement
  | 'filing_mismatch' // it is filed under another kind, tenant, actor or time than it states
  | 'signature_invalid'
  | 'tile_missing'
  | 'bundle_missing'
  | 'head_mismatch'
  | 'checkpoint_contradicted'
  | 'checkpoint_ahead' // a checkpoint was published of more leaves than there are
  | 'checkpoint_unreadable' // no known key of the log signed it
  | 'message_missing'
  | 'message_misplaced' // a message points at a leaf that does not state it
  | 'delivery_orphaned' // a delivery of no message

export interface Finding {
  readonly word: FindingWord
  /** The first leaf it concerns, where that can be told. */
  readonly leafIndex?: number
  /** One sentence for a person: what is wrong, and in which copy. */
  readonly detail: string
}

export type Tell = (finding: Finding) => void
