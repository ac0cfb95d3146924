/**
 * Lies about receipts, each of which must fail at the check that is named for it. Verification is asked in two ways:
 * the route, and {@link verifyEvidence} with nothing but what the relay publishes, as a stranger would.
 */
import { createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { RelayError } from '../../src/errors.ts'
import { type PublicJwk, thumbprint } from '../../src/keyring/jwk.ts'
import { receiptHeader } from '../../src/keyring/jws.ts'
import { parseVerifierKey } from '../../src/log/note.ts'
import { canonicalJson } from '../../src/message/canonical.ts'
import { type JsonValue, parseJson } from '../../src/message/json.ts'
import type { MessageReceipt } from '../../src/receipt/receipt.ts'
import { type TrustMaterial, trustLog, type Verdict, verifyEvidence } from '../../src/receipt/verify.ts'
import { type Arrived, Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

let relay: TestRelay
let receiver: Receiver
let tenant: TestTenant
let receipt: MessageReceipt
let other: MessageReceipt
let arrived: Arrived
let trust: TrustMaterial

const spelled = '{"total": 99.90, "text": "z\\u006f\\u00eb"}'
const canonical = '{"text":"zoë","total":99.9}'

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  tenant = await relay.makeTenant()
  other = (await relay.post(tenant, { another: 'message' })).body
  await relay.makeEndpoint(tenant, receiver.url)
  receipt = (await relay.post(tenant, spelled)).body
  await receiver.until(({ length }) => length === 1)
  arrived = receiver.arrived[0] as Arrived
  trust = await publishedTrust()
})

afterAll(async () => {
  await relay?.stop()
  await receiver?.stop()
})

type Checks = Record<string, boolean>

const verify = async (body: unknown) => {
  const answer = await relay.call<Verdict & { code?: string }>('POST', '/v1/verify', { key: null, body })
  return { ...answer, checks: answer.body.checks && checksOf(answer.body) }
}
const checksOf = ({ checks }: Verdict): Checks => Object.fromEntries(checks.map(({ name, ok }) => [name, ok]))
const failedIn = (checks: Checks): string[] => Object.keys(checks).filter((name) => !checks[name])

const receiptChecks = {
  format: true,
  checkpoint_signature: true,
  log_inclusion: true,
  key_known: true,
  signature: true,
}
const statementChecks = { statement: true, key_state: true }
const webhookChecks = { webhook_signature: true, webhook_key_state: true }

describe('what is true is valid', () => {
  test('a receipt alone', async () => {
    const { status, body, checks } = await verify({ receipt })
    expect([status, body.verdict]).toEqual([200, 'valid'])
    expect(checks).toEqual({ ...receiptChecks, ...statementChecks })
    expect(body).toMatchObject({
      key: { state: 'active' },
      log: { origin: 'relay.test/log' },
      statement: { kind: 'message.accepted', sub: receipt.message, tenant: tenant.id },
    })
    expect(verifyEvidence({ receipt: parsed(receipt) }, trust)).toMatchObject({ verdict: 'valid' })
  })

  test.each([
    ['as JSON in its canonical form', JSON.parse(canonical)],
    ['as JSON spelled otherwise', { total: 9.99e1, text: 'zoë' }],
    ['as the very text that was posted', spelled],
    ['as the very text that was forwarded', canonical],
    ['as a text that was written anew', '{ "total":99.9,\n"text":"zo\\u00eb" }'],
  ])('a receipt with its payload, %s', async (_how, payload) => {
    const { body, checks } = await verify({ receipt, payload })
    expect(body.verdict).toBe('valid')
    expect(checks).toMatchObject({ payload_digest: true })
  })

  test('a webhook as it arrived, with the receipt and without', async () => {
    const evidence = { webhook: webhookOf(arrived), payload: arrived.body.toString() }
    expect((await verify(evidence)).body.verdict).toBe('valid')
    expect((await verify(evidence)).checks).toEqual(webhookChecks)
    const all = await verify({ receipt, ...evidence })
    expect(all.checks).toEqual({ ...receiptChecks, ...statementChecks, ...webhookChecks, payload_digest: true })
  })

  test('a webhook with signatures of other schemes and keys beside ours', async () => {
    const { signature, ...rest } = webhookOf(arrived)
    const beside = `v1,${'A'.repeat(44)} v1a,${'A'.repeat(86)}== ${signature} v2,x`
    const { body } = await verify({ webhook: { ...rest, signature: beside }, payload: canonical })
    expect(body.verdict).toBe('valid')
  })
})

describe('a receipt of which any byte is another', () => {
  const masks = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff]
  const altered = (bytes: Uint8Array, at: number, mask: number) => bytes.with(at, (bytes[at] ?? 0) ^ mask)

  test('is never valid and never throws', () => {
    const bytes = Buffer.from(JSON.stringify(receipt))
    expect(bytes.length).toBeGreaterThan(1000)
    for (const mask of masks) {
      for (let at = 0; at < bytes.length; at++) {
        const verdict = judge(altered(bytes, at, mask))
        expect(verdict, `byte ${at} ^ ${mask}`).not.toBe('valid')
      }
    }
  })

  test('is invalid or refused by the route, and no fault of ours', async () => {
    const bytes = Buffer.from(JSON.stringify({ receipt }))
    const places = Array.from({ length: Math.floor(bytes.length / 9) }, (_, i) => 9 * i)
    const answers = await Promise.all(
      places.map((at, i) => verify(altered(bytes, at, masks[i % masks.length] as number))),
    )
    for (const [i, { status, body }] of answers.entries()) {
      if (status === 200) expect(body.verdict, `byte ${places[i]}`).toBe('invalid')
      else expect([400, 422], `byte ${places[i]}: ${body.code}`).toContain(status)
    }
  })

  const judge = (bytes: Uint8Array): string => {
    try {
      return verifyEvidence({ receipt: parseJson(bytes) }, trust).verdict
    } catch (error) {
      if (error instanceof RelayError) return error.code
      throw error
    }
  }
})

describe('each lie fails at its own check', () => {
  const lies: [lie: string, evidence: () => object, failed: string[]][] = [
    [
      'the signature of another message',
      () => ({ receipt: { ...receipt, signature: other.signature } }),
      ['signature'],
    ],
    ['the proof of another message', () => ({ receipt: { ...receipt, header: other.header } }), ['log_inclusion']],
    ['the name of another message', () => ({ receipt: { ...receipt, message: other.message } }), ['statement']],
    [
      'the statement of another message',
      () => ({ receipt: { ...receipt, payload: other.payload } }),
      ['log_inclusion', 'signature'],
    ],
    [
      'a statement about another subject',
      () => ({ receipt: restated(receipt, { sub: other.message }) }),
      ['log_inclusion', 'signature'],
    ],
    [
      'a key that is not ours',
      () => ({ receipt: { ...receipt, protected: receiptHeader('A'.repeat(43)) } }),
      ['key_known'],
    ],
    ['another algorithm', () => ({ receipt: { ...receipt, protected: withHeader({ alg: 'none' }) } }), ['format']],
    [
      'a key of its own in the header',
      () => ({ receipt: { ...receipt, protected: withHeader({ jwk: { kty: 'OKP' } }) } }),
      ['format'],
    ],
    ['padding', () => ({ receipt: { ...receipt, signature: `${receipt.signature}==` } }), ['format']],
    ['a shorter signature', () => ({ receipt: { ...receipt, signature: receipt.signature.slice(0, -4) } }), ['format']],
    ['a member too many', () => ({ receipt: { ...receipt, note: 'trust me' } }), ['format']],
    ['another payload', () => ({ receipt, payload: { total: 99.91 } }), ['payload_digest']],
    ['a payload that is none', () => ({ receipt, payload: '{"total":' }), ['payload_digest']],
    ['a webhook with another payload', () => ({ webhook: webhookOf(arrived), payload: '{}' }), ['webhook_signature']],
    ['a webhook without its payload', () => ({ webhook: webhookOf(arrived) }), ['webhook_signature']],
    ['a webhook of another id', () => webhookWith({ id: other.message }), ['webhook_signature']],
    ['a webhook of another time', () => webhookWith({ timestamp: '1700000000' }), ['webhook_signature']],
    ['a webhook with a time in another spelling', () => webhookWith({ timestamp: '0x1' }), ['webhook_signature']],
    ['a webhook signature cut short', () => webhookWith({ signature: 'v1a,AAAA' }), ['webhook_signature']],
    ['a webhook without signatures', () => webhookWith({ signature: '' }), ['webhook_signature']],
    [
      'our webhook signature behind eight others',
      () => webhookWith({ signature: `${'v1,x '.repeat(8)}${webhookOf(arrived).signature}` }),
      ['webhook_signature'],
    ],
  ]
  test.each(lies)('%s', async (_lie, evidence, failed) => {
    const { status, body, checks } = await verify(evidence())
    expect([status, body.verdict]).toEqual([200, 'invalid'])
    expect(failedIn(checks)).toEqual(failed)
  })

  test('a receipt of another relay, even one that calls itself like us', async () => {
    const stranger = await TestRelay.start()
    try {
      const { body } = await stranger.post(await stranger.makeTenant(), spelled)
      const { checks } = await verify({ receipt: body, payload: spelled })
      expect(failedIn(checks)).toEqual(['checkpoint_signature', 'key_known'])
      const grafted = await verify({ receipt: { ...receipt, header: body.header } })
      expect(failedIn(grafted.checks)).toEqual(['checkpoint_signature'])
    } finally {
      await stranger.stop()
    }
  })
})

describe('a statement that a known key did sign is still judged', () => {
  const { privateKey } = generateKeyPairSync('ed25519')
  const jwk = createPublicKey(privateKey).export({ format: 'jwk' }) as unknown as PublicJwk
  const kid = thumbprint(jwk)
  const at = (iso: string) => new Date(iso)
  const times = { validFrom: at('2026-01-01'), validUntil: at('2026-04-01'), revoked: undefined }
  const key = { kid, publicKey: createPublicKey(privateKey), ...times }
  const good = {
    v: 1,
    iss: 'http://relay.test',
    iat: at('2026-02-01').getTime() / 1000,
    sub: 'msg_1',
    kind: 'message.accepted',
  }

  const judge = (statement: Uint8Array) => {
    const receipt = parsed(signedReceipt(statement, kid, privateKey))
    const findKey = (asked: string) => (asked === kid ? key : undefined)
    const verdict = verifyEvidence(
      { receipt },
      { issuer: good.iss, keys: () => [key], findKey, openCheckpoint: undefined },
    )
    return failedIn(checksOf(verdict))
  }

  test('one that is in order holds, where no log is asked', () => {
    expect(judge(canonicalJson(good))).toEqual([])
  })

  test.each([
    ['about another subject', { sub: 'msg_2' }, ['statement']],
    ['by another issuer', { iss: 'http://other.test' }, ['statement']],
    ['of another kind', { kind: 'endpoint.created' }, ['statement']],
    ['of another version', { v: 2 }, ['statement']],
    ['without a time', { iat: null }, ['statement']],
    ['from before the key', { iat: at('2025-12-31').getTime() / 1000 }, ['key_state']],
    ['from after the key', { iat: at('2026-04-02').getTime() / 1000 }, ['key_state']],
  ])('one %s fails', (_what, change, failed) => {
    expect(judge(canonicalJson({ ...good, ...change }))).toEqual(failed)
  })

  test.each([
    ['not canonical', '{"v":1, "iat":1769904000,"iss":"http://relay.test","sub":"msg_1"}'],
    ['with a member twice', '{"iat":1769904000,"iss":"http://relay.test","sub":"msg_2","sub":"msg_1","v":1}'],
    ['not an object', '[1]'],
    ['not JSON', 'statement'],
    ['empty', ''],
  ])('one that is %s fails', (_what, text) => {
    expect(judge(Buffer.from(text))).toEqual(['statement'])
  })

  test('one by a key revoked later holds only where the log proves it older than the revocation', () => {
    const { iat } = JSON.parse(Buffer.from(receipt.payload, 'base64url').toString())
    const leafIndex = Number(/\nindex (\d+)\n/.exec(receipt.header['tlog-proof'])?.[1])
    const judge = (revoked: { from: Date; leafIndex: number }, log: Pick<TrustMaterial, 'openCheckpoint'> = trust) => {
      const keys = trust.keys().map((key) => ({ ...key, revoked }))
      const { openCheckpoint } = log
      const findKey = (kid: string) => keys.find((key) => key.kid === kid)
      return failedIn(
        checksOf(verifyEvidence({ receipt: parsed(receipt) }, { ...trust, keys: () => keys, findKey, openCheckpoint })),
      )
    }
    const [before, after] = [new Date((iat - 1) * 1000), new Date((iat + 1) * 1000)]
    expect(judge({ from: after, leafIndex: leafIndex + 1 })).toEqual([])
    expect(judge({ from: after, leafIndex })).toEqual(['key_state'])
    expect(judge({ from: before, leafIndex: leafIndex + 1 })).toEqual(['key_state'])
    expect(judge({ from: after, leafIndex: leafIndex + 1 }, { openCheckpoint: undefined })).toEqual(['key_state'])
  })
})

describe('garbage', () => {
  const kinds: unknown[] = [null, true, 0, -1.5, '', 'msg_1', [], [[]], {}, { a: { b: [] } }]

  test.each(kinds.map((garbage) => [JSON.stringify(garbage), garbage]))('%s is no evidence', async (_text, garbage) => {
    expect(failedIn((await verify({ receipt: garbage })).checks)).toEqual(['format'])
    expect(failedIn((await verify({ receipt, payload: garbage })).checks)).toEqual(['payload_digest'])
    expect((await verify({ webhook: garbage, payload: garbage })).body).toMatchObject({ code: 'request_invalid' })
    for (const member of ['id', 'timestamp', 'signature'] as const) {
      const { status, body } = await verify(webhookWith({ [member]: garbage as string }))
      expect(status === 200 ? body.verdict : body.code).toMatch(/^(invalid|request_invalid)$/)
    }
    for (const member of Object.keys(receipt)) {
      expect((await verify({ receipt: { ...receipt, [member]: garbage } })).body.verdict, member).toBe('invalid')
    }
  })

  test('of any shape never makes the verifier throw, nor is it ever valid', () => {
    const text = fc.oneof(fc.string({ unit: 'binary' }), fc.base64String(), fc.constantFrom(...Object.values(receipt)))
    const alike = fc.record({
      ...{ message: text, protected: text, payload: text, signature: text },
      header: fc.record({ 'tlog-proof': text }),
    })
    const garbage = fc.oneof(fc.jsonValue(), alike) as fc.Arbitrary<JsonValue>
    fc.assert(
      fc.property(garbage, fc.uint8Array(), (value, payload) => {
        expect(verifyEvidence({ receipt: value, payload }, trust).verdict).toBe('invalid')
      }),
    )
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.string(), fc.uint8Array(), (id, timestamp, signature, payload) => {
        expect(verifyEvidence({ webhook: { id, timestamp, signature }, payload }, trust).verdict).toBe('invalid')
      }),
    )
  })

  test('no evidence at all is no valid verdict', async () => {
    expect((await verify({ payload: {} })).body).toMatchObject({ code: 'request_invalid' })
    expect(verifyEvidence({}, trust).verdict).toBe('invalid')
  })
})

/** What a stranger trusts: the keys and the log's verifier keys, as published over HTTP. */
async function publishedTrust(): Promise<TrustMaterial> {
  const { body } = await relay.call<{ keys: { kid: string; purpose: string; x: string; activated_at: string }[] }>(
    'GET',
    '/v1/keys',
    { key: null },
  )
  const keys = body.keys
    .filter(({ purpose }) => purpose === 'payload')
    .map(({ kid, x, activated_at }) => ({
      kid,
      publicKey: createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' }),
      validFrom: new Date(activated_at),
      validUntil: undefined,
      revoked: undefined,
    }))
  const vkeys = (await (await fetch(`${relay.url}/log/vkey`)).text()).trim().split('\n').map(parseVerifierKey)
  return {
    issuer: 'http://relay.test',
    keys: () => keys,
    findKey: (kid) => keys.find((key) => key.kid === kid),
    openCheckpoint: trustLog({ origin: 'relay.test/log', vkeys }),
  }
}

const parsed = (value: object): JsonValue => parseJson(Buffer.from(JSON.stringify(value)))

const webhookOf = ({ headers }: Arrived) => ({
  id: String(headers['webhook-id']),
  timestamp: String(headers['webhook-timestamp']),
  signature: String(headers['webhook-signature']),
})
const webhookWith = (change: Partial<ReturnType<typeof webhookOf>>) => ({
  webhook: { ...webhookOf(arrived), ...change },
  payload: canonical,
})

/** The receipt with members of its statement changed, and nothing signed again. */
function restated(receipt: MessageReceipt, change: object): MessageReceipt {
  const statement = JSON.parse(Buffer.from(receipt.payload, 'base64url').toString())
  return { ...receipt, payload: Buffer.from(canonicalJson({ ...statement, ...change })).toString('base64url') }
}

function withHeader(change: object): string {
  const header = JSON.parse(Buffer.from(receipt.protected, 'base64url').toString())
  return Buffer.from(JSON.stringify({ ...header, ...change })).toString('base64url')
}

function signedReceipt(statement: Uint8Array, kid: string, privateKey: KeyObject): MessageReceipt {
  const [header, payload] = [receiptHeader(kid), Buffer.from(statement).toString('base64url')]
  const signature = sign(null, Buffer.from(`${header}.${payload}`), privateKey).toString('base64url')
  return { message: 'msg_1', protected: header, payload, signature, header: { 'tlog-proof': '' } }
}
