/**
 * Keeps objects outside the database: what the log published, so that it can be compared and served without the
 * database, and exports.
 *
 * What a call wrote is durable once it resolves (file and folder synced, or acknowledged by the service), and atomic: a
 * reader sees the old bytes or the new, never a part. After a call that rejects, the object is as before or as it was to
 * be, and nobody knows which; every call may be repeated. Implementations retry transient faults themselves.
 *
 * A key is a path: segments of lower-case letters, digits and `-`, with dots from the second segment on, e.g.
 * `log/checkpoint` or `log/tile/0/x001/067.p/12`; at most 512 characters. Every call refuses others with a `TypeError`.
 * No key may be the folder of another.
 */
export interface ObjectStore {
  /** Makes the object, or replaces it whole. */
  put(key: string, bytes: Uint8Array, options?: PutOptions): Promise<void>

  /** `stored` if this call made the object, `exists` if there was one already, whatever its bytes: the caller compares
   *  them if it must know. Of calls that race, one stores. */
  putIfAbsent(key: string, bytes: Uint8Array, options?: PutOptions): Promise<'stored' | 'exists'>

  /** The whole object, in memory. */
  find(key: string): Promise<Uint8Array | undefined>

  stat(key: string): Promise<ObjectStat | undefined>

  /** The bytes of one object, as they come, from one version of it even if it is replaced meanwhile (or it rejects).
   *  Rejects with {@link ObjectAbsent}, and with a `RangeError` where `range` begins beyond the last byte. */
  read(key: string, range?: ByteRange): AsyncIterable<Uint8Array>

  /** {@link ObjectStore.put} for objects that do not fit into memory: nothing is visible before the last chunk is
   *  stored, and nothing at all if `chunks` throws. */
  write(key: string, chunks: AsyncIterable<Uint8Array>): Promise<void>

  /** Afterwards there is no such object, whether there was one or not. */
  delete(key: string): Promise<void>

  /** The keys that begin with `prefix`, which need not end a segment, in the order of their bytes; with `after`, only
   *  those behind it. What is put or deleted meanwhile may be seen or not. */
  list(prefix: string, after?: string): AsyncIterable<string>
}

export interface PutOptions {
  /** Until then these bytes cannot be destroyed by whoever may write to the store, where a service can promise that. It
   *  does so per version: `put` and `delete` still work, and the bytes stay as an older version. */
  readonly retainUntil?: Date
}

export interface ObjectStat {
  readonly bytes: number
}

/** Offsets of the first and the last byte, as in HTTP. A `to` beyond the end means the end. */
export interface ByteRange {
  readonly from: number
  readonly to?: number
}

export class ObjectAbsent extends Error {
  override readonly name = 'ObjectAbsent'

  constructor(key: string) {
    super(`there is no object ${key}`)
  }
}

const maxKeyLength = 512
/** The segments `.` and `..` are what the lookahead refuses. */
const keyPattern = /^[a-z0-9-]+(\/(?!\.{1,2}(\/|$))[a-z0-9.-]+)*$/

/** For implementations: throws unless this is a key. */
export function checkKey(key: string): void {
  if (key.length > maxKeyLength || !keyPattern.test(key)) {
    throw new TypeError(`${JSON.stringify(key)} is not the key of an object`)
  }
}

/** For implementations: throws unless keys can begin so. */
export function checkPrefix(prefix: string): void {
  if (prefix !== '') checkKey(/[/.]$/.test(prefix) ? `${prefix}x` : prefix)
}
