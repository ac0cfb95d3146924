import { readFile } from 'node:fs/promises'
import { OperatorError, RelayError } from '../errors.ts'
import { type JsonObject, type JsonValue, parseJson } from '../message/json.ts'

/** How long each part of a key's life lasts (keys/policy.json). */
export interface KeyPolicy {
  /** From one activation to the next. */
  readonly rotateEveryDays: number
  /** Published as `next` for at least this long before it signs. Never less than {@link leastPublishDays}. */
  readonly publishBeforeUseDays: number
  /** Published as `retiring` for this long after it signed last. */
  readonly overlapDays: number
  /** Why the overlap may be shorter than {@link leastOverlapDays}; logged at each start. */
  readonly shortOverlapReason: string | undefined
}

/** Receivers cache the JWKS for hours and mirror it for days; a week is what we dare to assume of the slowest. */
export const leastPublishDays = 7

/** What customers were promised: the prior key verifies for 90 days. */
export const leastOverlapDays = 90

const members = ['purposes', 'rotate_every_days', 'publish_before_use_days', 'overlap_days', 'short_overlap_reason']

/** Throws a plain Error that names the member and what is wrong with it. */
export function parsePolicy(bytes: Uint8Array): KeyPolicy {
  const policy = object(bytes)
  const unknown = Object.keys(policy).find((name) => !members.includes(name))
  if (unknown !== undefined) throw new Error(`has a member that is none of ${members.join(', ')}`)
  const { purposes, short_overlap_reason: reason } = policy
  if (!Array.isArray(purposes) || [...purposes].sort().join() !== 'log,payload') {
    throw new Error('"purposes" must be ["payload", "log"]: both kinds of keys rotate')
  }
  if (reason !== undefined && (typeof reason !== 'string' || reason.trim() === '')) {
    throw new Error('"short_overlap_reason" must be a sentence')
  }
  const rotateEveryDays = days(policy, 'rotate_every_days')
  const publishBeforeUseDays = days(policy, 'publish_before_use_days')
  const overlapDays = days(policy, 'overlap_days')
  if (publishBeforeUseDays < leastPublishDays) {
    throw new Error(
      `"publish_before_use_days" must be at least ${leastPublishDays}: receivers must see a key before it signs`,
    )
  }
  if (publishBeforeUseDays >= rotateEveryDays) {
    throw new Error('"publish_before_use_days" must be shorter than "rotate_every_days"')
  }
  if (overlapDays < leastOverlapDays && reason === undefined) {
    throw new Error(
      `"overlap_days" below ${leastOverlapDays} breaks a promise; if you must, say why in "short_overlap_reason"`,
    )
  }
  return { rotateEveryDays, publishBeforeUseDays, overlapDays, shortOverlapReason: reason }
}

export async function readPolicy(path: string): Promise<KeyPolicy> {
  const bytes = await readFile(path)
  try {
    return parsePolicy(bytes)
  } catch (error) {
    throw new OperatorError(`the key policy ${path} ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    })
  }
}

function object(bytes: Uint8Array): JsonObject {
  let value: JsonValue
  try {
    value = parseJson(bytes)
  } catch (error) {
    throw error instanceof RelayError ? new Error(`is not strict JSON: ${error.message}`) : error
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new Error('is not an object')
  return value
}

function days(policy: JsonObject, name: string): number {
  const value = policy[name]
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= 3650) return value
  throw new Error(`must give "${name}" as a whole number of days from 1 to 3650`)
}
