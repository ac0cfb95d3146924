/** What an operator watches. The stages say what happened; the metrics adapter counts. Calls must be cheap and not throw. */
export interface Observer {
  accepted(canonicalBytes: number): void
  /** `code` of the error table. */
  refused(code: string): void
  /** A post to a source did not pass its `scheme`, and why. */
  postRefused(scheme: string, reason: string): void
  /** One batch committed: its statements, and seconds from its first SQL to the answer of COMMIT. */
  batchCommitted(statements: number, seconds: number): void
  batchFailed(reason: 'unavailable' | 'unknown_outcome' | 'refused'): void
  treeGrew(treeSize: number): void
  /** `outcome` is delivered, refused, or the reason a receiver was unreachable. */
  attempted(outcome: string, seconds: number): void
  abandoned(): void
  /** One look of the reconciler: deliveries that are owed and exist nowhere, those that waited for nothing, and seconds
   *  since the oldest batch that is not looked at yet. */
  reconciled(found: { missing: number; repaired: number; lagS: number }): void
}

export const silentObserver: Observer = {
  accepted() {},
  refused() {},
  postRefused() {},
  batchCommitted() {},
  batchFailed() {},
  treeGrew() {},
  attempted() {},
  abandoned() {},
  reconciled() {},
}
