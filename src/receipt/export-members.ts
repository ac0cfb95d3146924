import { RelayError } from '../errors.ts'
import { decodeBase64url } from '../message/digest.ts'
import { type JsonObject, type JsonValue, parseJson } from '../message/json.ts'

// What a line of an export may hold, read strictly: undefined for whatever is not of the form asked for.

export const hasOthers = (line: JsonObject, members: readonly string[]): boolean =>
  Object.keys(line).some((name) => !members.includes(name))

export function parseObject(bytes: Uint8Array): JsonObject | undefined {
  try {
    return readObject(parseJson(bytes))
  } catch (error) {
    if (error instanceof RelayError) return undefined
    throw error
  }
}

export const readObject = (value: JsonValue | undefined): JsonObject | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? value : undefined

export const readText = (value: JsonValue | undefined): string | undefined =>
  typeof value === 'string' ? value : undefined

export const readTexts = (value: JsonValue): string[] | undefined =>
  Array.isArray(value) && value.every((item) => typeof item === 'string') ? value : undefined

export const readIndex = (value: JsonValue | undefined): number | undefined =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined

/** Bytes of base64url; of this length, where one is given. */
export function readBytes(value: JsonValue | undefined, length?: number): Buffer | undefined {
  const bytes = typeof value === 'string' ? decodeBase64url(value) : undefined
  return length === undefined || bytes?.length === length ? bytes : undefined
}
