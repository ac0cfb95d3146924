/** The schemes on their own: what providers publish holds, and nothing that is not exactly that does. */
import { createHmac } from 'node:crypto'
import { sign as signGithub } from '@octokit/webhooks-methods'
import fc from 'fast-check'
import { Webhook as StandardWebhook } from 'standardwebhooks'
import Stripe from 'stripe'
import { Webhook as SvixWebhook } from 'svix'
import { describe, expect, test } from 'vitest'
import type { HmacAuthentication, ProviderScheme } from '../../src/tenant/records.ts'
import {
  type Claim,
  claimReaders,
  type Judgement,
  judge,
  judgeBasic,
  macKey,
  readHmacClaim,
} from '../../src/tenant/scheme.ts'

type Headers = Record<string, string | string[]>

interface Signed {
  readonly scheme: ProviderScheme | 'hmac'
  readonly secret: string
  readonly at: Date
  readonly headers: Headers
  /** The header that holds the MAC. */
  readonly header: string
  readonly body: string
  readonly form?: HmacAuthentication
}

const now = new Date('2026-05-01T12:00:00.250Z')
const seconds = String(Math.floor(now.getTime() / 1000))
const secret = 'a secret of the test, long enough'
const whsec = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
const body = '{"id":"evt_1","amount":100}'
const mac = (key: string | Uint8Array, text: string, encoding: 'hex' | 'base64' | 'base64url', algorithm = 'sha256') =>
  createHmac(algorithm, key).update(text).digest(encoding)

const hmac = (form: Partial<HmacAuthentication>): HmacAuthentication => ({
  ...{ scheme: 'hmac', header: 'x-signature', algorithm: 'sha256', encoding: 'hex', prefix: '', template: '{body}' },
  ...{ secret_hints: [] },
  ...form,
})

/** Signed by the providers' own libraries, or where there is none, as their documentation says. */
const genuine: Record<string, Signed> = {
  'Standard Webhooks, by its library': {
    ...{ scheme: 'standard-webhooks', secret: whsec, at: now, body, header: 'webhook-signature' },
    headers: {
      'webhook-id': 'msg_1',
      'webhook-timestamp': seconds,
      'webhook-signature': new StandardWebhook(whsec).sign('msg_1', now, body),
    },
  },
  'Svix, by its library and under its names': {
    ...{ scheme: 'standard-webhooks', secret: whsec, at: now, body, header: 'svix-signature' },
    headers: {
      'svix-id': 'msg_1',
      'svix-timestamp': seconds,
      'svix-signature': new SvixWebhook(whsec).sign('msg_1', now, body),
    },
  },
  'GitHub, by Octokit': {
    ...{ scheme: 'github', secret, at: now, body, header: 'x-hub-signature-256' },
    headers: { 'x-hub-signature-256': await signGithub(secret, body) },
  },
  'Stripe, by its library': {
    ...{ scheme: 'stripe', secret: 'whsec_of_stripe_is_text', at: now, body, header: 'stripe-signature' },
    headers: {
      'stripe-signature': new Stripe('sk_test_none').webhooks.generateTestHeaderString({
        ...{ payload: body, secret: 'whsec_of_stripe_is_text', timestamp: Number(seconds) },
      }),
    },
  },
  'Shopify, as documented': {
    ...{ scheme: 'shopify', secret, at: now, body, header: 'x-shopify-hmac-sha256' },
    headers: { 'x-shopify-hmac-sha256': mac(secret, body, 'base64') },
  },
  'Slack, as documented': {
    ...{ scheme: 'slack', secret, at: now, body, header: 'x-slack-signature' },
    headers: {
      'x-slack-request-timestamp': seconds,
      'x-slack-signature': `v0=${mac(secret, `v0:${seconds}:${body}`, 'hex')}`,
    },
  },
  'a vendor with an HMAC over the body': {
    ...{ scheme: 'hmac', secret, at: now, body, header: 'x-signature' },
    form: hmac({ encoding: 'base64url', algorithm: 'sha512' }),
    headers: { 'x-signature': mac(secret, body, 'base64url', 'sha512') },
  },
  'a vendor with a template, a prefix and milliseconds': {
    ...{ scheme: 'hmac', secret, at: now, body, header: 'x-signature' },
    form: hmac({ prefix: 'sig:', timestamp_header: 'x-time', template: 'v9|{body}|{timestamp}' }),
    headers: {
      'x-time': String(now.getTime()),
      'x-signature': `sig:${mac(secret, `v9|${body}|${now.getTime()}`, 'hex')}`,
    },
  },
}

/** Their own published examples. */
const published: Record<string, Signed> = {
  // docs.github.com: "Testing the webhook payload validation".
  GitHub: {
    ...{ scheme: 'github', secret: "It's a Secret to Everybody", at: now, header: 'x-hub-signature-256' },
    body: 'Hello, World!',
    headers: {
      'x-hub-signature-256': 'sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17',
    },
  },
  // docs.slack.dev: "Verifying requests from Slack".
  Slack: {
    ...{ scheme: 'slack', secret: '8f742231b10e8888abcd99yyyzzz85a5', at: new Date(1531420618 * 1000) },
    header: 'x-slack-signature',
    body: [
      'token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V',
      'channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=',
      'response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN',
      'trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c',
    ].join('&'),
    headers: {
      'x-slack-request-timestamp': '1531420618',
      'x-slack-signature': 'v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503',
    },
  },
  // The example in the specification of Standard Webhooks.
  'Standard Webhooks': {
    ...{ scheme: 'standard-webhooks', secret: whsec, at: new Date(1614265330 * 1000), header: 'webhook-signature' },
    body: '{"test": 2432232314}',
    headers: {
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    },
  },
}

function read({ scheme, form, body, headers }: Signed, changed: { headers?: Headers; raw?: Uint8Array }) {
  const distinct = Object.entries({ ...headers, ...changed.headers }).map(([name, value]) => [name, [value].flat()])
  const request = { headers: Object.fromEntries(distinct), raw: changed.raw ?? Buffer.from(body) }
  return scheme === 'hmac' ? readHmacClaim(request, form ?? hmac({})) : claimReaders[scheme](request)
}

function judged(
  signed: Signed,
  changed: { headers?: Headers; raw?: Uint8Array; at?: Date; secrets?: string[] } = {},
): Judgement {
  const claim: Claim | undefined = read(signed, changed)
  const secrets = (changed.secrets ?? [signed.secret]).map((text) => macKey(signed.scheme, text))
  return judge(claim, { secrets, windowS: 300, now: changed.at ?? signed.at })
}

/** Of signatures, where a header may hold several. What follows one is then another, and takes nothing from the first. */
const separators: Partial<Record<Signed['scheme'], string>> = { 'standard-webhooks': ' ', stripe: ',' }

const isGenuine = (judgement: Judgement): boolean => judgement.kind === 'genuine'
const signatureOf = (signed: Signed): string => String(signed.headers[signed.header])

describe.each(Object.entries({ ...genuine, ...published }))('%s', (name, signed) => {
  test('holds, by either of two secrets', () => {
    expect(judged(signed).kind).toBe('genuine')
    const other =
      signed.scheme === 'standard-webhooks' ? `whsec_${Buffer.alloc(32).toString('base64')}` : 'x'.repeat(32)
    expect(judged(signed, { secrets: [other, signed.secret] }).kind).toBe('genuine')
    expect(judged(signed, { secrets: [other] })).toEqual({ kind: 'refused', reason: 'mismatch' })
    expect(judged(signed, { secrets: [] })).toEqual({ kind: 'refused', reason: 'mismatch' })
  })

  test('is refused with any byte of the body another, gone or added', () => {
    const raw = Buffer.from(signed.body)
    for (let at = 0; at < raw.length; at++) {
      const flipped = Buffer.from(raw)
      flipped[at] = (flipped[at] ?? 0) ^ 1
      expect(isGenuine(judged(signed, { raw: flipped })), `${name}: byte ${at}`).toBe(false)
    }
    expect(isGenuine(judged(signed, { raw: raw.subarray(1) }))).toBe(false)
    expect(isGenuine(judged(signed, { raw: raw.subarray(0, -1) }))).toBe(false)
    expect(isGenuine(judged(signed, { raw: Buffer.concat([raw, Buffer.from('\n')]) }))).toBe(false)
    expect(isGenuine(judged(signed, { raw: Buffer.alloc(0) }))).toBe(false)
  })

  test('is refused with its signature cut, extended, respelled or absent', () => {
    const value = signatureOf(signed)
    const other = (text: string) => isGenuine(judged(signed, { headers: { [signed.header]: text } }))
    for (let length = 0; length < value.length; length++) expect(other(value.slice(0, length)), `${length}`).toBe(false)
    fc.assert(
      fc.property(fc.nat(value.length - 1), fc.integer({ min: 0x21, max: 0x7e }), (at, code) => {
        const respelled = value.slice(0, at) + String.fromCharCode(code) + value.slice(at + 1)
        if (respelled === value) return true
        const sameHex = signed.scheme === 'hmac' && respelled.toLowerCase() === value.toLowerCase()
        return other(respelled) === (sameHex && signed.form?.encoding === 'hex' && at >= signed.form.prefix.length)
      }),
    )
    const separator = separators[signed.scheme]
    const anything = fc.string({ unit: 'binary-ascii', minLength: 1 })
    const more = anything.filter((text) => separator === undefined || !text.includes(separator))
    fc.assert(fc.property(more, (text) => !other(value + text)))
    expect(judged(signed, { headers: { [signed.header]: [] } })).toEqual({ kind: 'refused', reason: 'unsigned' })
  })

  test('is refused with any header that decides given twice, even the same', () => {
    for (const [header, value] of Object.entries(signed.headers)) {
      expect(isGenuine(judged(signed, { headers: { [header]: [String(value), String(value)] } })), header).toBe(false)
      if (separators[signed.scheme] !== undefined && header === signed.header) continue
      expect(isGenuine(judged(signed, { headers: { [header]: `${value}, ${value}` } })), header).toBe(false)
    }
  })

  test('is refused with a signature in another encoding', () => {
    const value = signatureOf(signed)
    const hex = /[0-9a-f]{64}/.exec(value)?.[0]
    const base64 = /[A-Za-z0-9+/]{43}=/.exec(value)?.[0]
    const others = [
      ...(hex && signed.scheme !== 'hmac' ? [value.replace(hex, hex.toUpperCase())] : []),
      ...(hex ? [value.replace(hex, Buffer.from(hex, 'hex').toString('base64'))] : []),
      ...(base64 ? [value.replace(base64, Buffer.from(base64, 'base64').toString('hex'))] : []),
      ...(base64 ? [value.replace('=', ''), value.replace('=', '==')] : []),
    ]
    for (const other of others)
      expect(isGenuine(judged(signed, { headers: { [signed.header]: other } })), other).toBe(false)
  })

  const timed = read(signed, {})?.atMs !== undefined
  if (timed)
    test('holds within the window to either side and not a second beyond', () => {
      const atMs = read(signed, {})?.atMs ?? 0
      for (const sign of [-1, 1]) {
        expect(judged(signed, { at: new Date(atMs + sign * 300_000) }).kind).toBe('genuine')
        const beyond = judged(signed, { at: new Date(atMs + sign * 300_001) })
        expect(beyond).toEqual({ kind: 'refused', reason: 'outside_window' })
      }
    })

  test('is told apart from others by what is signed, where that tells', () => {
    const [once, again] = [judged(signed), judged(signed)]
    if (once.kind !== 'genuine' || again.kind !== 'genuine') throw new Error('genuine above')
    expect(once.identity === undefined).toBe(!timed)
    expect(again.identity).toEqual(once.identity)
  })
})

test('without a timestamp of the form that is signed, there is no claim', () => {
  const slack = genuine['Slack, as documented'] as Signed
  for (const text of ['', '0', '-1', '1.5', ' 1', '1e9', 'now', `0${seconds}`, '9'.repeat(12), `${seconds},`]) {
    expect(judged(slack, { headers: { 'x-slack-request-timestamp': text } }).kind, text).toBe('refused')
  }
})

test('of several signatures one that holds is enough, and versions that are not v1 count for nothing', () => {
  const standard = genuine['Standard Webhooks, by its library'] as Signed
  const value = signatureOf(standard)
  const holds = (text: string) => isGenuine(judged(standard, { headers: { 'webhook-signature': text } }))
  expect(holds(`v1,${Buffer.alloc(32).toString('base64')} ${value}`)).toBe(true)
  expect(holds(`v1a,${Buffer.alloc(64).toString('base64')} ${value}`)).toBe(true)
  expect(holds(value.replace('v1,', 'v2,'))).toBe(false)
  expect(holds(value.replace('v1,', 'v1a,'))).toBe(false)
  expect(holds(`${'v1,x '.repeat(8)}${value}`), 'beyond the bound').toBe(false)

  const stripe = genuine['Stripe, by its library'] as Signed
  const header = signatureOf(stripe)
  const takes = (text: string) => isGenuine(judged(stripe, { headers: { 'stripe-signature': text } }))
  expect(takes(header.replace(',v1=', `,v1=${'0'.repeat(64)},v1=`))).toBe(true)
  expect(takes(`${header},v0=${'0'.repeat(64)}`)).toBe(true)
  expect(takes(header.replace('v1=', 'v0='))).toBe(false)
  expect(takes(`t=${seconds},${header}`), 'two times').toBe(false)
})

test('an identity is that of the request: another second, another body or another id is another', () => {
  const slackAt = (at: string, text: string): Signed => ({
    ...(genuine['Slack, as documented'] as Signed),
    body: text,
    headers: { 'x-slack-request-timestamp': at, 'x-slack-signature': `v0=${mac(secret, `v0:${at}:${text}`, 'hex')}` },
  })
  const identity = (signed: Signed, secrets?: string[]) => {
    const judgement = judged(signed, secrets && { secrets })
    return judgement.kind === 'genuine' ? Buffer.from(judgement.identity ?? []).toString('hex') : judgement.reason
  }
  const first = identity(slackAt(seconds, body))
  expect(identity(slackAt(seconds, body), ['an older secret', secret])).toBe(first)
  expect(identity(slackAt(String(Number(seconds) - 1), body))).not.toBe(first)
  expect(identity(slackAt(seconds, `${body} `))).not.toBe(first)

  const standard = (id: string, at: Date, text: string): Signed => ({
    ...(genuine['Standard Webhooks, by its library'] as Signed),
    body: text,
    headers: {
      'webhook-id': id,
      'webhook-timestamp': String(Math.floor(at.getTime() / 1000)),
      'webhook-signature': new StandardWebhook(whsec).sign(id, at, text),
    },
  })
  const posted = identity(standard('msg_1', now, body))
  expect(identity(standard('msg_1', new Date(now.getTime() - 9000), body)), 'a retry is signed anew').toBe(posted)
  expect(identity(standard('msg_2', now, body))).not.toBe(posted)
  expect(identity(standard('msg.1', now, body)), 'its parts could be cut elsewhere').toBe('unsigned')
})

test('basic credentials are whole or nothing', () => {
  const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`
  const judgeIt = (authorization: string | string[], passwords = ['a long password one', 'a long password two']) =>
    judgeBasic({ headers: { authorization: [authorization].flat() }, raw: Buffer.alloc(0) }, 'vendor', passwords).kind
  expect(judgeIt(basic('vendor:a long password one'))).toBe('genuine')
  expect(judgeIt(basic('vendor:a long password two'))).toBe('genuine')
  expect(judgeIt(basic('vendor:a long password two').replace('Basic', 'basic'))).toBe('genuine')
  for (const text of [
    'vendor:',
    'vendor',
    ':',
    'vendor:a long password on',
    'vendor:a long password one ',
    'Vendor:a long password one',
  ]) {
    expect(judgeIt(basic(text)), text).toBe('refused')
  }
  expect(judgeIt([basic('vendor:a long password one'), basic('vendor:a long password one')])).toBe('refused')
  expect(judgeIt('Bearer x')).toBe('refused')
  expect(judgeIt('')).toBe('refused')
})
