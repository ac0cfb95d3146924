import type { Param } from '../ports/database.ts'

/**
 * A parameter as pg is to send it: a string in PostgreSQL's text format of whatever type the statement gives the
 * parameter, a Buffer in its binary one. Throws `RangeError` for a fraction in a column of bigint, and for no valid date.
 */
export function encodeParam(param: Param): string | Buffer | null {
  if (param === null || typeof param === 'string') return param
  if (typeof param !== 'object') return String(param)
  if (param instanceof Uint8Array) return Buffer.from(param.buffer, param.byteOffset, param.byteLength)
  if (param instanceof Date) return param.toISOString().replace(/^\+0*/, '') // years beyond 9999 have no sign in PostgreSQL
  switch (param.array) {
    case 'bytea':
      return encodeArray(bytea, param.values)
    case 'text':
      return encodeArray(text, param.values)
    case 'int8':
      return encodeArray(int8, param.values)
    case 'timestamptz':
      return encodeArray(timestamptz, param.values)
  }
}

/** A type as element of an array, in its binary format. */
interface Element<Value> {
  readonly oid: number
  bytesOf(value: Value): number
  /** Returns how many bytes it wrote. */
  write(into: Buffer, at: number, value: Value): number
}

const bytea: Element<Uint8Array> = {
  oid: 17,
  bytesOf: (value) => value.length,
  write(into, at, value) {
    into.set(value, at)
    return value.length
  },
}

const text: Element<string> = {
  oid: 25,
  bytesOf: (value) => Buffer.byteLength(value),
  write: (into, at, value) => into.write(value, at),
}

const int8: Element<number> = { oid: 20, bytesOf: () => 8, write: writeInt64 }

/** timestamptz counts microseconds from here. */
const epochMs = Date.UTC(2000, 0, 1)

const timestamptz: Element<Date> = {
  oid: 1184,
  bytesOf: () => 8,
  write: (into, at, value) => writeInt64(into, at, (value.getTime() - epochMs) * 1_000),
}

/** array_recv in arrayfuncs.c: dimensions, has-nulls flag, element type; per dimension its size and lower bound; then each
 *  element behind its length, −1 for null. All int32, big-endian. Written straight into one Buffer: the elements of a
 *  batch are many and small. */
function encodeArray<Value>(element: Element<Value>, values: readonly (Value | null)[]): Buffer {
  const dimensions = values.length === 0 ? 0 : 1
  let length = 12 + 8 * dimensions + 4 * values.length
  for (const value of values) if (value !== null) length += element.bytesOf(value)
  const bytes = Buffer.allocUnsafe(length)
  let at = bytes.writeInt32BE(dimensions, 0)
  at = bytes.writeInt32BE(values.includes(null) ? 1 : 0, at)
  at = bytes.writeInt32BE(element.oid, at)
  if (dimensions === 1) {
    at = bytes.writeInt32BE(values.length, at)
    at = bytes.writeInt32BE(1, at)
  }
  for (const value of values) {
    const from = at + 4
    const written = value === null ? -1 : element.write(bytes, from, value)
    bytes.writeInt32BE(written, at)
    at = from + Math.max(0, written)
  }
  return bytes
}

function writeInt64(into: Buffer, at: number, value: number): number {
  if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is no integer within ±(2^53−1)`)
  const high = Math.floor(value / 2 ** 32)
  into.writeInt32BE(high, at)
  into.writeUInt32BE(value - high * 2 ** 32, at + 4)
  return 8
}
