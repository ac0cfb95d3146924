/**
 * Keeps objects outside the database, so that the log can be compared with what it published before.
 * `put` is durable once it resolves (file and directory synced, or acknowledged by the service) and atomic: a reader
 * sees the old bytes or the new, never a part.
 */
export interface ObjectStore {
  put(key: string, bytes: Uint8Array): Promise<void>
  find(key: string): Promise<Uint8Array | undefined>
}
