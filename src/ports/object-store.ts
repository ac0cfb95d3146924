/**
 * Keeps objects outside the database, so that the log can be compared with what it published before, and read without it.
 * A write is durable once it resolves (file and directory synced, or acknowledged by the service) and atomic: a reader
 * sees the old bytes or the new, never a part. Implementations retry transient faults themselves.
 */
export interface ObjectStore {
  /** Writes an object, over whatever stood there. */
  put(key: string, bytes: Uint8Array, options?: PutOptions): Promise<void>

  /** Writes an object where there is none. `exists` if there was one, of whatever bytes, which stays as it is. */
  putIfAbsent(key: string, bytes: Uint8Array, options?: PutOptions): Promise<'stored' | 'exists'>

  find(key: string): Promise<Uint8Array | undefined>

  /** The keys that start with `prefix` and come behind `after`, in the order of their bytes. Whoever stops early costs no
   *  more than what was taken. */
  list(prefix: string, after?: string): AsyncIterable<string>
}

export interface PutOptions {
  /** Nobody may replace or delete the object before then, where the store can enforce that. */
  readonly retainUntil?: Date
}
