import type { KeyPurpose } from '../../keyring/store.ts'
import type { JsonObject } from '../../message/json.ts'
import { CommandError, UsageError } from '../command.ts'
import { parseInput } from '../input.ts'
import { fetchHistory, type HistoryKey, shorten, shortKidLength, urlOf } from './history.ts'
import { minute } from './timeline.ts'

interface Wish {
  readonly relay: string
  readonly purpose: KeyPurpose
}

/** Says what is due and what rotating now would mean, and changes nothing. Resolves to the exit code. */
export async function foretellRotation({ relay, purpose }: Wish): Promise<0> {
  const plan = await ask(relay, 'GET', '/v1/keys/plan')
  const steps = (plan.steps as JsonObject[]).map(({ step, purpose, kid }) =>
    [step, purpose, 'key', ...(kid === undefined ? [] : [shorten(String(kid))])].join(' '),
  )
  const at = new Date(String((plan.next_rotation as JsonObject)[purpose]))
  const { keys } = await fetchHistory(relay)
  const next = nextOf(keys, purpose)
  say(
    steps.length === 0 ? 'Nothing is due now.' : `Due now, and done by the relay itself: ${steps.join(', ')}.`,
    `By the policy the ${purpose} key rotates next at ${minute(at)} UTC.`,
    `Rotating now would activate ${next === undefined ? 'a new key' : shorten(next.kid)}. ${await consequence(relay, purpose, next)}`,
  )
  return 0
}

/** Rotates at once. Resolves to the exit code. */
export async function rotateKey({ relay, purpose }: Wish): Promise<0> {
  const { keys: before } = await fetchHistory(relay)
  const { kid } = await ask(relay, 'POST', '/v1/keys/rotate', { purpose })
  const known = before.find((key) => key.kid === kid)
  say(`${shorten(String(kid))} is the active ${purpose} key now. ${await consequence(relay, purpose, known)}`)
  return 0
}

/** Revokes one key for good. `kid` may be shortened as `keys list` does. Resolves to the exit code. */
export async function revokeKey(wish: { relay: string; kid: string; reason: string; from: string }): Promise<0> {
  const { relay, reason, from } = wish
  if (!rfc3339.test(from)) throw new UsageError('--from must be a time like 2026-11-20T18:00:00Z (RFC 3339)')
  const { keys: before } = await fetchHistory(relay)
  const { kid, purpose } = findKey(before, wish.kid)
  const { successor } = await ask(relay, 'POST', `/v1/keys/${kid}/revoke`, { reason, from })
  say(
    `${kid} is revoked: what it signed from ${minute(new Date(from))} UTC on does not count, unless the log proves it older.`,
    purpose === 'payload'
      ? `It has left the JWKS: receivers refuse all it signed once they have fetched that again, after ${await cachedFor(relay)}.`
      : 'It signs no checkpoint any more: whoever pinned its vkey alone refuses new ones until they fetch /log/vkey.',
  )
  if (successor === undefined) return 0
  const known = before.find((key) => key.kid === successor)
  const seen = purpose === 'payload' ? ` ${await consequence(relay, purpose, known)}` : ''
  say(`${shorten(String(successor))} signs in its place.${seen}`)
  return 0
}

/** With an offset: a local time would be revoked from another moment on another machine. */
const rfc3339 = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:\d{2})$/

function findKey(keys: readonly HistoryKey[], kid: string): HistoryKey {
  if (kid.length < shortKidLength) throw new UsageError(`<kid> must be at least ${shortKidLength} characters long`)
  const [key, ...others] = keys.filter((key) => key.kid.startsWith(kid))
  if (key === undefined) throw new CommandError(`the relay has no key ${JSON.stringify(kid)}`)
  if (others.length > 0) throw new CommandError(`more than one key starts with ${kid}: give the whole kid`)
  return key
}

const nextOf = (keys: readonly HistoryKey[], purpose: KeyPurpose): HistoryKey | undefined =>
  keys.find((key) => key.purpose === purpose && key.activatedAt === undefined && key.revokedAt === undefined)

/** What whoever verifies will see of a key that signs from now on; undefined is one that nobody has seen yet. */
async function consequence(relay: string, purpose: KeyPurpose, published: HistoryKey | undefined): Promise<string> {
  if (purpose === 'log') {
    return "Checkpoints carry its predecessor's signature too until the overlap ends: nobody who pinned a vkey is cut off."
  }
  return published === undefined
    ? `It was not published before: receivers refuse what it signs until they fetch the JWKS again, after ${await cachedFor(relay)}. What they refuse is attempted again.`
    : `It was published on ${minute(published.generatedAt)} UTC: receivers that have fetched the JWKS since then know it.`
}

/** As long as the relay lets receivers keep the JWKS. */
async function cachedFor(relay: string): Promise<string> {
  const { headers } = await request(urlOf(relay, '/.well-known/jwks.json'), { method: 'GET' })
  const seconds = /max-age=(\d+)/.exec(headers.get('cache-control') ?? '')?.[1]
  return seconds === undefined ? 'as long as they cache it' : `at most ${seconds} s by its Cache-Control`
}

const say = (...sentences: string[]): void => void process.stdout.write(`${sentences.join('\n')}\n`)

/** Asks as the administrator. CommandError, with the relay's own sentence, if it refuses. */
async function ask(relay: string, method: 'GET' | 'POST', path: string, body?: object): Promise<JsonObject> {
  const key = process.env.COUNTERSIGN_ADMIN_KEY
  if (!key) throw new CommandError('set COUNTERSIGN_ADMIN_KEY to an admin key of the relay')
  const url = urlOf(relay, path)
  const headers = { authorization: `Bearer ${key}`, ...(body && { 'content-type': 'application/json' }) }
  const response = await request(url, { method, headers, ...(body && { body: JSON.stringify(body) }) })
  const answer = parseInput(new Uint8Array(await response.arrayBuffer()), url) as JsonObject
  if (response.status === 200) return answer
  const { title, detail, code } = answer
  throw new CommandError(`the relay refused: ${[title, detail].filter(Boolean).join(' ')} (${code ?? response.status})`)
}

/** A key that signs is at stake: following a redirect could send the admin key elsewhere. */
async function request(url: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(url, { ...init, redirect: 'error', signal: AbortSignal.timeout(answerWithinMs) })
  } catch (error) {
    const cause = error instanceof Error ? (error.cause ?? error) : error
    const reason = cause instanceof Error ? ('code' in cause ? cause.code : cause.message) : cause
    throw new CommandError(`cannot ask ${url}: ${reason}`)
  }
}

/** A rotation may have to wait for a key wrapper that is slow, which gives up after 15 seconds a call. */
const answerWithinMs = 60_000
