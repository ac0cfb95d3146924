import { createReadStream } from 'node:fs'
import { RelayError } from '../errors.ts'
import { type JsonValue, parseJson } from '../message/json.ts'
import { CommandError } from './command.ts'

/** The largest payload that any relay may be configured to take. */
const maxInputBytes = 16 * 1024 * 1024

const fetchTimeoutMs = 10_000

/**
 * The bytes at `where`: a file, an http(s) URL, or `-` for standard input. CommandError, in a sentence, where they
 * cannot be had within 10 seconds from a URL, or are more than 16 MiB.
 */
export async function readInput(where: string): Promise<Uint8Array> {
  if (isUrl(where)) return fetchInput(where)
  try {
    return await collect(where === '-' ? process.stdin : createReadStream(where), where)
  } catch (error) {
    if (!isSystemError(error)) throw error
    throw new CommandError(`cannot read ${where}: ${error.code === 'ENOENT' ? 'there is no such file' : error.message}`)
  }
}

export const isUrl = (where: string): boolean => /^https?:\/\//i.test(where)

/** The value in bytes from `where`, by the strict parser. CommandError where it is none. */
export function parseInput(bytes: Uint8Array, where: string): JsonValue {
  try {
    return parseJson(bytes)
  } catch (error) {
    if (!(error instanceof RelayError)) throw error
    const reason = error.code.replace('payload_', '').replaceAll('_', ' ')
    throw new CommandError(`${where} is not strict JSON: ${reason} at byte ${error.details.offset ?? 0}`)
  }
}

async function fetchInput(url: string): Promise<Uint8Array> {
  try {
    // A redirect could lead from the keys that were meant to any others.
    const response = await fetch(url, { redirect: 'error', signal: AbortSignal.timeout(fetchTimeoutMs) })
    if (response.status !== 200) {
      await response.body?.cancel()
      throw new CommandError(`cannot fetch ${url}: it answered ${response.status}`)
    }
    return await collect(response.body ?? [], url)
  } catch (error) {
    if (error instanceof CommandError || !(error instanceof Error)) throw error
    throw new CommandError(`cannot fetch ${url}: ${reasonOf(error)}`)
  }
}

function reasonOf(error: Error): string {
  if (error.name === 'TimeoutError') return `no answer within ${fetchTimeoutMs / 1000} seconds`
  const { cause } = error // `fetch failed` says nothing; its cause does
  if (isSystemError(cause)) return cause.code
  return cause instanceof Error ? cause.message : error.message
}

async function collect(chunks: AsyncIterable<Uint8Array> | Iterable<Uint8Array>, where: string): Promise<Uint8Array> {
  const collected: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of chunks) {
    bytes += chunk.length
    if (bytes > maxInputBytes) throw new CommandError(`${where} is larger than ${maxInputBytes} bytes`)
    collected.push(chunk)
  }
  return Buffer.concat(collected)
}

export const isSystemError = (error: unknown): error is Error & { code: string } =>
  error instanceof Error && 'code' in error && typeof error.code === 'string'
