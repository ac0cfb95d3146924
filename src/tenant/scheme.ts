import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from 'node:crypto'
import { sha256 } from '../message/digest.ts'
import type { HmacAuthentication, ProviderScheme } from './records.ts'

/** A post as its sender's signature covers it: nothing parsed, and each header as often as it came. */
export interface PresentedRequest {
  readonly headers: Readonly<Record<string, readonly string[] | undefined>>
  readonly raw: Uint8Array
}

/** What a signed request says of itself: these are MACs of these bytes, made then. Nothing of it is verified yet. */
export interface Claim {
  readonly algorithm: 'sha256' | 'sha512'
  readonly encoding: 'hex' | 'base64' | 'base64url'
  /** As text, in the encoding. One that holds is enough: a vendor sends several while it rotates its secret. */
  readonly macs: readonly string[]
  readonly signed: readonly (string | Uint8Array)[]
  /** Unix milliseconds, where the time is part of what is signed. */
  readonly atMs?: number
  /** What the vendor calls this event, where that is part of what is signed; its retries say the same. */
  readonly id?: string
}

export type Judgement =
  /** `identity`: SHA-256 that only the same request has again; undefined where nothing signed tells requests apart. */
  | { readonly kind: 'genuine'; readonly identity: Uint8Array | undefined }
  | { readonly kind: 'refused'; readonly reason: 'unsigned' | 'outside_window' | 'mismatch' }

/**
 * Judges a claim by up to two secrets. MACs are compared as text and in constant time, so that there is one spelling of
 * each and a truncated one is another text.
 */
export function judge(
  claim: Claim | undefined,
  { secrets, windowS, now }: { secrets: readonly KeyObject[]; windowS: number; now: Date },
): Judgement {
  if (claim === undefined) return { kind: 'refused', reason: 'unsigned' }
  const { algorithm, encoding, macs, signed, atMs, id } = claim
  if (atMs !== undefined && Math.abs(now.getTime() - atMs) > windowS * 1000) {
    return { kind: 'refused', reason: 'outside_window' }
  }
  let holds = false
  for (const secret of secrets) {
    const mac = createHmac(algorithm, secret)
    for (const part of signed) mac.update(part)
    const expected = mac.digest(encoding)
    for (const presented of macs) holds = sameText(presented, expected) || holds
  }
  if (!holds) return { kind: 'refused', reason: 'mismatch' }
  if (id !== undefined) return { kind: 'genuine', identity: sha256(Buffer.from(`id\0${id}`)) }
  // The bytes signed, and not the MAC: during a rotation two MACs vouch for one request.
  const identity = atMs === undefined ? undefined : sha256(Buffer.concat(['request\0', ...signed].map(toBytes)))
  return { kind: 'genuine', identity }
}

/**
 * How each provider writes its claim, by its own documentation. A header that decides must come exactly once: of two,
 * one proxy would read the first and another the last. `undefined` where the request makes no claim in that form.
 */
export const claimReaders: Record<ProviderScheme, (request: PresentedRequest) => Claim | undefined> = {
  // standardwebhooks.com: `v1,<base64>` separated by spaces, over `id.timestamp.body`. Svix writes its own names.
  'standard-webhooks': ({ headers, raw }) => {
    const family = 'webhook-id' in headers ? 'webhook' : 'svix'
    const id = only(headers[`${family}-id`])
    const timestamp = only(headers[`${family}-timestamp`])
    const atMs = parseSeconds(timestamp)
    const macs = only(headers[`${family}-signature`])
      ?.split(' ', mostSignatures)
      .flatMap((item) => /^v1,([^,]+)$/.exec(item)?.[1] ?? [])
    if (macs === undefined || atMs === undefined || id === undefined || !eventId.test(id)) return undefined
    return { ...sha256Mac, encoding: 'base64', macs, signed: [`${id}.${timestamp}.`, raw], atMs, id }
  },

  // docs.github.com, "Validating webhook deliveries": `sha256=<hex>` over the body.
  github: ({ headers, raw }) => {
    const mac = /^sha256=(.+)$/.exec(only(headers['x-hub-signature-256']) ?? '')?.[1]
    return mac === undefined ? undefined : { ...sha256Mac, encoding: 'hex', macs: [mac], signed: [raw] }
  },

  // docs.stripe.com, "Verify webhook signatures manually": `t=<seconds>,v1=<hex>,…` over `t.body`.
  stripe: ({ headers, raw }) => {
    const items = only(headers['stripe-signature'])?.split(',', mostSignatures)
    const valuesOf = (name: string) => items?.flatMap((item) => (item.startsWith(name) ? item.slice(name.length) : []))
    const timestamp = only(valuesOf('t='))
    const atMs = parseSeconds(timestamp)
    const macs = valuesOf('v1=')
    if (macs === undefined || atMs === undefined) return undefined
    return { ...sha256Mac, encoding: 'hex', macs, signed: [`${timestamp}.`, raw], atMs }
  },

  // shopify.dev, "Verify the authenticity of webhooks": base64 over the body.
  shopify: ({ headers, raw }) => {
    const mac = only(headers['x-shopify-hmac-sha256'])
    return mac === undefined ? undefined : { ...sha256Mac, encoding: 'base64', macs: [mac], signed: [raw] }
  },

  // docs.slack.dev, "Verifying requests from Slack": `v0=<hex>` over `v0:timestamp:body`.
  slack: ({ headers, raw }) => {
    const timestamp = only(headers['x-slack-request-timestamp'])
    const atMs = parseSeconds(timestamp)
    const mac = /^v0=(.+)$/.exec(only(headers['x-slack-signature']) ?? '')?.[1]
    if (mac === undefined || atMs === undefined) return undefined
    return { ...sha256Mac, encoding: 'hex', macs: [mac], signed: [`v0:${timestamp}:`, raw], atMs }
  },
}

/** The claim in a header of the vendor's own. */
export function readHmacClaim({ headers, raw }: PresentedRequest, form: HmacAuthentication): Claim | undefined {
  const presented = only(headers[form.header])
  if (presented?.startsWith(form.prefix) !== true) return undefined
  const mac = presented.slice(form.prefix.length)
  const macs = [form.encoding === 'hex' ? mac.toLowerCase() : mac] // vendors write hex in either case
  const timestamp = form.timestamp_header === undefined ? undefined : only(headers[form.timestamp_header])
  const atMs = parseSecondsOrMs(timestamp)
  if (form.timestamp_header !== undefined && atMs === undefined) return undefined
  const signed = templateParts(form.template).map((part) =>
    part === '{body}' ? raw : part === '{timestamp}' ? (timestamp ?? '') : part,
  )
  const { algorithm, encoding } = form
  return { algorithm, encoding, macs, signed, ...(atMs !== undefined && { atMs }) }
}

/** A template in pieces: text, `{body}` and `{timestamp}`. */
export const templateParts = (template: string): string[] =>
  template.split(/(\{body\}|\{timestamp\})/).filter((part) => part !== '')

/** RFC 7617, the user and any of up to two passwords. Hashes are compared, since lengths would show. */
export function judgeBasic({ headers }: PresentedRequest, user: string, passwords: readonly string[]): Judgement {
  const [, credentials] = /^Basic +([A-Za-z0-9+/]+={0,2}) *$/i.exec(only(headers.authorization) ?? '') ?? []
  if (credentials === undefined) return { kind: 'refused', reason: 'unsigned' }
  const presented = sha256(Buffer.from(credentials, 'base64'))
  let holds = false
  for (const password of passwords) {
    holds = timingSafeEqual(sha256(Buffer.from(`${user}:${password}`)), presented) || holds
  }
  return holds ? { kind: 'genuine', identity: undefined } : { kind: 'refused', reason: 'mismatch' }
}

/** A secret as HMAC takes it: what stands behind `whsec_` is base64 of it for Standard Webhooks, text for all others. */
export const macKey = (scheme: ProviderScheme | 'hmac', secret: string): KeyObject =>
  createSecretKey(
    scheme === 'standard-webhooks' ? Buffer.from(secret.slice('whsec_'.length), 'base64') : Buffer.from(secret),
  )

/** What vendors name their deliveries by, unsigned, where they have a header for it. */
export const deliveryHeaders: Partial<Record<string, string>> = {
  github: 'x-github-delivery',
  shopify: 'x-shopify-webhook-id',
}

const sha256Mac = { algorithm: 'sha256' } as const

/** One for each secret of a rotation, and room for versions of a scheme that are not ours to check. */
const mostSignatures = 8

/** No dot, or the parts of what is signed could be cut elsewhere. */
const eventId = /^[\x21-\x2d\x2f-\x7e]{1,255}$/

const only = (values: readonly string[] | undefined): string | undefined =>
  values?.length === 1 ? values[0] : undefined

const parseSeconds = (text = ''): number | undefined => (/^[1-9]\d{0,10}$/.test(text) ? Number(text) * 1000 : undefined)

/** Seconds until the year 5138; longer numbers are milliseconds. */
const parseSecondsOrMs = (text = ''): number | undefined =>
  parseSeconds(text) ?? (/^[1-9]\d{11,13}$/.test(text) ? Number(text) : undefined)

function sameText(presented: string, expected: string): boolean {
  const [one, other] = [Buffer.from(presented), Buffer.from(expected)]
  return one.length === other.length && timingSafeEqual(one, other)
}

const toBytes = (part: string | Uint8Array): Uint8Array => (typeof part === 'string' ? Buffer.from(part) : part)
