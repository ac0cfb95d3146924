/** What is wrong with an export. */
export type ExportFault =
  | 'removed' // a line, or a statement that the range should show
  | 'changed' // bytes that are not those that were written
  | 'reordered'
  | 'duplicated'
  | 'foreign' // a line that does not belong: another tenant's, another log's
  | 'unsigned' // no signature where there must be one, or not by a key that we know
  | 'truncated'

/** Not thrown further than the verifier of exports: it ends in a verdict. */
export class Wrong extends Error {
  readonly fault: ExportFault
  readonly leafIndex: number | undefined
  /** How the line that was expected instead begins. */
  readonly missing: string | undefined

  constructor(fault: ExportFault, detail: string, leafIndex?: number, missing?: string) {
    super(detail)
    this.fault = fault
    this.leafIndex = leafIndex
    this.missing = missing
  }
}
