import { BlockList, isIP } from 'node:net'
import { RelayError } from '../errors.ts'
import type { Canonicalization } from '../message/message.ts'
import type { Authentication, HmacAuthentication, SourceSettings } from './records.ts'
import { templateParts } from './scheme.ts'

/** What a tenant asks of a source, of the right types and lengths. What is absent stays as it is, null goes. */
export interface SourceWish {
  readonly name?: string
  readonly authentication?: AuthenticationWish
  readonly allow?: readonly string[]
  readonly replay_window_s?: number
  readonly rate_limit?: { readonly per_second: number; readonly burst: number } | null
  readonly canonicalization?: Canonicalization
  readonly idempotency_header?: string | null
}

interface AuthenticationWish {
  readonly scheme: Authentication['scheme']
  /** Replace all there were. */
  readonly secrets?: readonly string[]
  /** The newest, while the one before it still counts. */
  readonly add_secret?: string
  readonly user?: string
  readonly header?: string
  readonly algorithm?: HmacAuthentication['algorithm']
  readonly encoding?: HmacAuthentication['encoding']
  readonly prefix?: string
  readonly timestamp_header?: string
  readonly template?: string
}

/** Settings, and the secrets that go with them, newest first: these are sealed, and never shown again. */
export interface Settled {
  readonly settings: SourceSettings
  readonly secrets: readonly string[]
}

/** As a source is that nobody wished anything of. */
export const defaultSettings: SourceSettings = {
  authentication: { scheme: 'api_key' },
  allow: [],
  replay_window_s: 300,
  canonicalization: 'jcs',
}

/** Applies a wish, or throws `request_invalid` with a pointer to what cannot be and a sentence why. */
export function settle(wish: SourceWish, before: Settled): Settled {
  const { settings } = before
  const { authentication, secrets } = settleAuthentication(wish.authentication, before)
  const rateLimit = wish.rate_limit === undefined ? settings.rate_limit : wish.rate_limit
  const idempotencyHeader =
    wish.idempotency_header === undefined ? settings.idempotency_header : wish.idempotency_header?.toLowerCase()
  const settled: SourceSettings = {
    authentication,
    allow: wish.allow ?? settings.allow,
    replay_window_s: wish.replay_window_s ?? settings.replay_window_s,
    canonicalization: wish.canonicalization ?? settings.canonicalization,
    ...(rateLimit && { rate_limit: rateLimit }),
    ...(idempotencyHeader && { idempotency_header: idempotencyHeader }),
  }
  for (const [index, cidr] of settled.allow.entries()) {
    if (parseCidr(cidr) === undefined) throw invalid(`/allow/${index}`, 'It is not a CIDR such as 192.0.2.0/24.')
  }
  return { settings: settled, secrets }
}

function settleAuthentication(wish: AuthenticationWish | undefined, before: Settled) {
  if (wish === undefined) return { authentication: before.settings.authentication, secrets: before.secrets }
  const { scheme, secrets: replacing, add_secret: added, ...form } = wish
  const sameScheme = scheme === before.settings.authentication.scheme
  const kept = sameScheme ? before.secrets : []
  if (replacing !== undefined && added !== undefined) {
    throw invalid('/authentication/add_secret', 'Give either all secrets or the one to add.')
  }
  const secrets = replacing ?? (added === undefined ? kept : [added, ...kept].slice(0, mostSecrets))
  for (const secret of secrets) checkSecret(scheme, secret)
  if (new Set(secrets).size < secrets.length) throw invalid('/authentication', 'One secret is there twice.')

  const allowed = formMembers[scheme] ?? []
  const stray = Object.keys(form).find((member) => !allowed.includes(member))
  if (stray !== undefined) throw invalid(`/authentication/${stray}`, `The scheme ${scheme} has no such member.`)
  const hints = { secret_hints: secrets.map((secret) => `…${secret.slice(-4)}`) }
  // Whoever only adds a secret need not say again how it is used.
  const unsaid = sameScheme && Object.keys(form).length === 0
  return { authentication: formOf(scheme, unsaid ? before.settings.authentication : form, hints), secrets }
}

const formMembers: Partial<Record<Authentication['scheme'], readonly string[]>> = {
  basic: ['user'],
  hmac: ['header', 'algorithm', 'encoding', 'prefix', 'timestamp_header', 'template'],
}

function formOf(
  scheme: Authentication['scheme'],
  form: Partial<AuthenticationWish>,
  hints: { secret_hints: readonly string[] },
): Authentication {
  switch (scheme) {
    case 'api_key':
    case 'url':
      return { scheme }
    case 'basic':
      if (form.user === undefined) throw invalid('/authentication/user', 'The scheme basic needs a user.')
      return { scheme, user: form.user, ...hints }
    case 'hmac':
      return { scheme, ...hmacForm(form), ...hints }
    default:
      return { scheme, ...hints }
  }
}

function hmacForm({
  header,
  algorithm,
  encoding,
  prefix = '',
  timestamp_header,
  template,
}: Partial<AuthenticationWish>) {
  if (header === undefined)
    throw invalid('/authentication/header', 'The scheme hmac needs the header of its signature.')
  if (algorithm === undefined) throw invalid('/authentication/algorithm', 'The scheme hmac needs its algorithm.')
  if (encoding === undefined) throw invalid('/authentication/encoding', 'The scheme hmac needs its encoding.')
  const timed = timestamp_header !== undefined
  const signed = template ?? (timed ? '{timestamp}.{body}' : '{body}')
  const parts = templateParts(signed)
  const count = (part: string) => parts.filter((candidate) => candidate === part).length
  if (count('{body}') !== 1) throw invalid('/authentication/template', 'It must have {body} once.')
  if (count('{timestamp}') !== (timed ? 1 : 0)) {
    throw invalid('/authentication/template', 'It must have {timestamp} once with a timestamp_header, else never.')
  }
  // Digits could move from the timestamp into the body and back, and the signature would still hold.
  if (parts.some((part, index) => isHole(part) && isHole(parts[index + 1]))) {
    throw invalid('/authentication/template', 'Something must stand between {timestamp} and {body}.')
  }
  return {
    header: header.toLowerCase(),
    algorithm,
    encoding,
    prefix,
    ...(timed && { timestamp_header: timestamp_header.toLowerCase() }),
    template: signed,
  }
}

const isHole = (part: string | undefined): boolean => part === '{body}' || part === '{timestamp}'

/** The one in use and the one before it. */
const mostSecrets = 2

function checkSecret(scheme: Authentication['scheme'], secret: string): void {
  if (scheme === 'api_key' || scheme === 'url') throw invalid('/authentication', `The scheme ${scheme} has no secrets.`)
  if (scheme !== 'standard-webhooks') return
  const [, text] = /^whsec_(.+)$/.exec(secret) ?? []
  const key = Buffer.from(text ?? '', 'base64')
  // Standard Webhooks asks for 24 to 64 bytes. Node would take much that is not base64 and use a part of it.
  if (key.toString('base64') !== text || key.length < 24 || key.length > 64) {
    throw invalid('/authentication', 'A secret of Standard Webhooks is whsec_ and the base64 of 24 to 64 bytes.')
  }
}

/** The addresses of a list that passed {@link settle}. An IPv4 address is the same in its IPv6 notation. */
export function allowList(allow: readonly string[]): (address: string) => boolean {
  const list = new BlockList()
  for (const cidr of allow) {
    const parsed = parseCidr(cidr)
    if (parsed === undefined) throw new Error(`${JSON.stringify(cidr)} is in an allow-list and is no CIDR`)
    list.addSubnet(parsed.address, parsed.bits, parsed.family)
  }
  return (text) => {
    const [address = ''] = text.split('%') // the zone says which of our interfaces, not who
    const family = familyOf(address)
    return family !== undefined && list.check(address, family)
  }
}

function parseCidr(text: string) {
  const [, address = '', digits = ''] = /^([0-9A-Fa-f:.]+)\/(0|[1-9]\d{0,2})$/.exec(text) ?? []
  const family = familyOf(address)
  const bits = Number(digits)
  return family === undefined || bits > (family === 'ipv4' ? 32 : 128) ? undefined : { address, bits, family }
}

const familyOf = (address: string): 'ipv4' | 'ipv6' | undefined =>
  isIP(address) === 4 ? 'ipv4' : isIP(address) === 6 ? 'ipv6' : undefined

const invalid = (pointer: string, detail: string): RelayError => new RelayError('request_invalid', { detail, pointer })
