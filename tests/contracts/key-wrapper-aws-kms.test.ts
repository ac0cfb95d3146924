import { readFileSync } from 'node:fs'
import { inspect } from 'node:util'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { type AwsKmsOptions, openAwsKmsKeyWrapper } from '../../src/adapters/key-wrapper-aws-kms.ts'
import { DataKeys, dataKeyContext } from '../../src/keyring/data-keys.ts'
import { generateKey, seedContext } from '../../src/keyring/keyring.ts'
import { type KmsCall, type KmsServer, startKmsServer } from '../support/kms-server.ts'
import { deadUrl } from '../support/receiver.ts'
import { keyWrapperContract } from './key-wrapper.ts'

let server: KmsServer
beforeAll(async () => {
  server = await startKmsServer()
})
afterAll(() => server.stop())

// The adapter is set up as in a deployment: by the environment.
beforeEach(() => {
  for (const [name, value] of Object.entries(server.environment)) vi.stubEnv(name, value)
  Object.assign(server.switches, { keyState: 'Enabled', fault: undefined, privateKeyForm: 'v1', keyPairs: 'generated' })
  server.calls.length = 0
  logged.length = 0
})
afterEach(() => {
  vi.unstubAllEnvs()
})

const logged: { facts: object; what: string }[] = []
const log = (facts: object, what: string) => void logged.push({ facts, what })
const logger = { isLevelEnabled: () => true, debug: log, info: log, warn: log, error: log }

const open = (options: Partial<AwsKmsOptions> = {}) => openAwsKmsKeyWrapper({ keyId: server.keyId, logger, ...options })

const seed = Uint8Array.from({ length: 32 }, (_, i) => 200 - i)
const context = { app: 'countersign', purpose: 'ed25519-payload', serial: '00' }

const operations = (): string[] => server.calls.map(({ operation }) => operation)
const refusedAs = (code: string) => expect.objectContaining({ name: 'KmsRefused', code })

keyWrapperContract('KMS', open)

keyWrapperContract('KMS whose private keys hold the public key too', () => {
  server.switches.privateKeyForm = 'v2'
  return open()
})

keyWrapperContract('KMS without Ed25519 key pairs', () => {
  server.switches.keyPairs = 'unsupported'
  return open()
})

describe('opening KMS', () => {
  it('takes an alias or an id and names the key by its ARN', async () => {
    for (const keyId of ['alias/countersign', server.keyId.slice(server.keyId.indexOf('/') + 1)]) {
      const { wrappingKey } = await (await open({ keyId })).wrap(seed, context)
      expect(wrappingKey).toBe(server.keyId)
    }
  })

  it('refuses a key that is disabled, is to be deleted, does not exist or cannot encrypt', async () => {
    server.switches.keyState = 'Disabled'
    await expect(open()).rejects.toEqual(refusedAs('kms_key_disabled'))
    server.switches.keyState = 'PendingDeletion'
    await expect(open()).rejects.toEqual(refusedAs('kms_key_state'))
    server.switches.keyState = 'Enabled'
    await expect(open({ keyId: 'alias/another' })).rejects.toEqual(refusedAs('kms_key_not_found'))
    await expect(open({ keyId: server.createKey({ usage: 'SIGN_VERIFY' }) })).rejects.toEqual(
      refusedAs('kms_key_unsuitable'),
    )
  })

  it('refuses a role that may generate but not decrypt', async () => {
    server.switches.fault = { kind: 'AccessDeniedException', after: 1, times: 1 }
    await expect(open()).rejects.toEqual(refusedAs('kms_access_denied'))
    expect(operations()).toEqual(['GenerateDataKey', 'Decrypt'])
  })

  it('refuses an endpoint where nobody listens', async () => {
    vi.stubEnv('AWS_ENDPOINT_URL_KMS', await deadUrl())
    await expect(open({ client: { maxAttempts: 1 } })).rejects.toEqual(refusedAs('kms_unreachable'))
  })

  it('refuses an environment without a Region or without credentials', async () => {
    for (const name of ['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']) vi.stubEnv(name, '/dev/null')
    vi.stubEnv('AWS_REGION', undefined)
    await expect(open()).rejects.toEqual(refusedAs('kms_region_missing'))
    vi.stubEnv('AWS_REGION', 'us-east-1')
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true')
    vi.stubEnv('AWS_ACCESS_KEY_ID', undefined)
    await expect(open()).rejects.toEqual(refusedAs('kms_credentials_missing'))
  })

  it('is not kept waiting by credentials that never come', async () => {
    const client = { credentials: () => new Promise<never>(() => {}) }
    const bounds = { attemptTimeoutMs: 10_000, deadlineMs: 50 }
    await expect(open({ client, bounds })).rejects.toEqual(refusedAs('kms_timeout'))
  })
})

describe('a refusal by KMS', () => {
  it.each([
    ['AccessDeniedException', 'kms_access_denied'],
    ['DependencyTimeoutException', 'kms_unavailable'],
    ['DisabledException', 'kms_key_disabled'],
    ['ExpiredTokenException', 'kms_credentials_expired'],
    ['IncompleteSignatureException', 'kms_credentials_refused'],
    ['IncorrectKeyException', 'kms_wrong_key'],
    ['InvalidArnException', 'kms_key_not_found'],
    ['InvalidCiphertextException', 'kms_invalid_ciphertext'],
    ['InvalidKeyUsageException', 'kms_key_unsuitable'],
    ['InvalidSignatureException', 'kms_credentials_refused'],
    ['KMSInternalException', 'kms_unavailable'],
    ['KMSInvalidStateException', 'kms_key_state'],
    ['KeyUnavailableException', 'kms_unavailable'],
    ['LimitExceededException', 'kms_throttled'],
    ['MissingAuthenticationTokenException', 'kms_credentials_missing'],
    ['NotFoundException', 'kms_key_not_found'],
    ['ThrottlingException', 'kms_throttled'],
    ['UnknownOperationException', 'kms_unsupported'],
    ['UnrecognizedClientException', 'kms_credentials_refused'],
    ['UnsupportedOperationException', 'kms_unsupported'],
    ['ValidationException', 'kms_request_invalid'],
    ['silent', 'kms_timeout'],
    ['cut', 'kms_unreachable'],
    ['garbled', 'kms_answer_unusable'],
    ['error page', 'kms_error_page'],
  ] as const)('of the kind %s is told as %s, with what AWS said as its cause', async (kind, code) => {
    const bounds = { attemptTimeoutMs: 300, deadlineMs: 10_000 }
    const wrapper = await open({ bounds, client: { maxAttempts: 1 } })
    const wrapped = await wrapper.wrap(seed, context)
    server.switches.fault = { kind, times: 1 }
    const refusal = wrapper.unwrap(wrapped, context)
    await expect(refusal).rejects.toEqual(refusedAs(code))
    await expect(refusal).rejects.toHaveProperty('cause.message')
  })

  it('does not hold a part of the key, however it is looked at', async () => {
    const wrapper = await open()
    const wrapped = await wrapper.wrap(seed, context)
    server.switches.fault = { kind: 'garbled', times: 1 }
    const refusal = await wrapper.unwrap(wrapped, context).catch((error: unknown) => error)
    expect(refusal).toEqual(refusedAs('kms_answer_unusable'))
    const base64 = Buffer.from(seed).toString('base64')
    expect(inspect(refusal, { showHidden: true, depth: Number.POSITIVE_INFINITY })).not.toContain(base64.slice(0, 5))
  })
})

describe('a call to KMS', () => {
  it.each(['ThrottlingException', 'KMSInternalException', 'cut', 'silent', 'error page'] as const)(
    'is repeated after the fault %s until it succeeds',
    async (kind) => {
      const wrapper = await open({ bounds: { attemptTimeoutMs: 300, deadlineMs: 20_000 } })
      server.calls.length = 0
      server.switches.fault = { kind, times: 2 }
      const wrapped = await wrapper.wrap(seed, context)
      expect(operations()).toEqual(['Encrypt', 'Encrypt', 'Encrypt'])
      expect(await wrapper.unwrap(wrapped, context)).toEqual(seed)
    },
  )

  it('is repeated a bounded number of times', async () => {
    const wrapper = await open({ client: { maxAttempts: 3 } })
    server.calls.length = 0
    server.switches.fault = { kind: 'KMSInternalException', times: 100 }
    await expect(wrapper.wrap(seed, context)).rejects.toEqual(refusedAs('kms_unavailable'))
    expect(operations()).toHaveLength(3)
  })

  it('is not repeated when KMS says no', async () => {
    const wrapper = await open()
    server.calls.length = 0
    server.switches.fault = { kind: 'AccessDeniedException', times: 1 }
    await expect(wrapper.wrap(seed, context)).rejects.toEqual(refusedAs('kms_access_denied'))
    expect(operations()).toEqual(['Encrypt'])
  })

  it.each(['silent', 'stalled'] as const)('ends at its deadline when the answer is %s', async (kind) => {
    const wrapped = await (await open()).wrap(seed, context)
    const wrapper = await open({ bounds: { attemptTimeoutMs: 60_000, deadlineMs: 300 } })
    server.switches.fault = { kind, times: 100 }
    await expect(wrapper.unwrap(wrapped, context)).rejects.toEqual(refusedAs('kms_timeout'))
  })

  it('carries 1 to 4096 bytes', async () => {
    const wrapper = await open()
    await expect(wrapper.wrap(new Uint8Array(), context)).rejects.toThrow(RangeError)
    await expect(wrapper.wrap(new Uint8Array(4097), context)).rejects.toThrow(RangeError)
    const most = new Uint8Array(4096).fill(7)
    expect(await wrapper.unwrap(await wrapper.wrap(most, context), context)).toEqual(most)
  })

  it('to decrypt pins the key and the context, so that another key of the account is refused', async () => {
    const wrapper = await open()
    const { blob } = await (await open({ keyId: server.createKey() })).wrap(seed, context)
    server.calls.length = 0
    const swapped = wrapper.unwrap({ blob, wrappingKey: server.keyId }, context)
    await expect(swapped).rejects.toEqual(refusedAs('kms_wrong_key'))
    expect(server.calls).toEqual([{ operation: 'Decrypt', input: { KeyId: server.keyId, EncryptionContext: context } }])
  })

  it('reads what a multi-Region key wrapped in another Region, and no other key of that Region', async () => {
    const elsewhere = ({ blob, wrappingKey }: { blob: Uint8Array; wrappingKey: string }) => ({
      blob,
      wrappingKey: wrappingKey.replace('us-east-1', 'eu-west-1'),
    })
    const moved = await open({ keyId: server.createKey({ multiRegion: true }) })
    expect(await moved.unwrap(elsewhere(await moved.wrap(seed, context)), context)).toEqual(seed)
    const fixed = await open()
    const refused = fixed.unwrap(elsewhere(await fixed.wrap(seed, context)), context)
    await expect(refused).rejects.toEqual(refusedAs('kms_wrong_key'))
  })
})

describe('a signing key', () => {
  it('is generated in KMS, without its private half', async () => {
    const wrapper = await open()
    server.calls.length = 0
    await wrapper.generateSigningKey(context)
    expect(server.calls).toMatchObject([
      {
        operation: 'GenerateDataKeyPairWithoutPlaintext',
        input: { KeyPairSpec: 'ECC_NIST_EDWARDS25519', EncryptionContext: context },
      },
    ])
    expect(logged).toEqual([])
  })

  it.each(['unsupported', 'unknown spec', 'error page'] as const)(
    'is made here where KMS answers %s, which is said and asked once',
    async (keyPairs) => {
      server.switches.keyPairs = keyPairs
      const wrapper = await open({ client: { maxAttempts: 1 } })
      server.calls.length = 0
      await wrapper.generateSigningKey(context)
      await wrapper.generateSigningKey(context)
      expect(operations()).toEqual(['GenerateDataKeyPairWithoutPlaintext', 'Encrypt', 'Encrypt'])
      expect(logged).toHaveLength(1)
    },
  )

  it('is not made here because of a moment in which KMS refuses everything', async () => {
    const wrapper = await open({ client: { maxAttempts: 1 } })
    server.switches.fault = { kind: 'error page', times: 2 }
    await expect(wrapper.generateSigningKey(context)).rejects.toEqual(refusedAs('kms_error_page'))
    server.calls.length = 0
    await wrapper.generateSigningKey(context)
    expect(operations()).toEqual(['GenerateDataKeyPairWithoutPlaintext'])
    expect(logged).toEqual([])
  })

  it.each(['AccessDeniedException', 'KMSInternalException', 'ThrottlingException', 'cut', 'garbled'] as const)(
    'is not made here because of the fault %s',
    async (kind) => {
      const wrapper = await open({ client: { maxAttempts: 1 } })
      server.calls.length = 0
      server.switches.fault = { kind, times: 1 }
      await expect(wrapper.generateSigningKey(context)).rejects.toEqual(expect.objectContaining({ name: 'KmsRefused' }))
      expect(operations()).toEqual(['GenerateDataKeyPairWithoutPlaintext'])
    },
  )
})

describe('keys/kms-policy.json', () => {
  const policy = JSON.parse(readFileSync(new URL('../../keys/kms-policy.json', import.meta.url), 'utf8')) as Policy
  const rotation = 'arn:aws:iam::111122223333:role/countersign-rotation'
  const signer = 'arn:aws:iam::111122223333:role/countersign-signer'
  const administrator = 'arn:aws:iam::111122223333:role/countersign-key-administrator'
  const deployment = 'https://relay.example.com'
  const generatedAt = new Date(0)
  const mayGenerate = { rotation: true, signer: false }
  const mayDecrypt = { rotation: false, signer: true }
  const whoMay = (call: KmsCall) => ({ rotation: allows(policy, rotation, call), signer: allows(policy, signer, call) })

  /** What the relay asks of KMS in its life, as recorded by the server. */
  async function recordLife(): Promise<KmsCall[]> {
    const wrapper = await open()
    server.calls.length = 0
    const keys = new DataKeys(wrapper, deployment)
    for (const tenantId of ['', 'ten_1']) {
      const context = dataKeyContext(deployment, tenantId)
      await wrapper.wrap(await wrapper.unwrap(await keys.generate(tenantId), context), context) // it is re-wrapped
    }
    for (const purpose of ['payload', 'log'] as const) {
      const { record, wrapped } = await generateKey(wrapper, purpose, deployment, { generatedAt, activatedAt: null })
      const context = seedContext(deployment, purpose, record.serial)
      await wrapper.wrap(await wrapper.unwrap(wrapped, context), context)
    }
    return [...server.calls]
  }

  it('lets the rotation role do all that generates and wraps, and the signer role all that unwraps, but neither both', async () => {
    for (const call of await recordLife()) {
      expect({ call, ...whoMay(call) }).toEqual({ call, ...(call.operation === 'Decrypt' ? mayDecrypt : mayGenerate) })
    }
  })

  it('allows the two roles no operation that the relay does not use', async () => {
    const used = new Set((await recordLife()).map(({ operation }) => `kms:${operation}`))
    const roles = policy.Statement.filter(
      ({ Effect, Principal }) =>
        Effect === 'Allow' && list(Principal.AWS).some((who) => who === rotation || who === signer),
    )
    expect(new Set(roles.flatMap(({ Action }) => list(Action)))).toEqual(used)
  })

  it('lets both roles open KMS, so that a process with either starts', async () => {
    await open()
    expect(operations()).toEqual(['GenerateDataKey', 'Decrypt'])
    for (const call of server.calls) expect(whoMay(call)).toEqual({ rotation: true, signer: true })
  })

  it('allows nothing once any pair of the context is another, missing or added', async () => {
    for (const call of await recordLife()) {
      const context = call.input.EncryptionContext ?? {}
      const lies: Record<string, string>[] = [{}, { ...context, more: 'x' }]
      for (const name of ['app', 'deployment', 'purpose']) {
        const { [name]: _, ...without } = context
        lies.push(without, { ...context, [name]: 'another' })
      }
      for (const lie of lies) {
        const lying = { ...call, input: { ...call.input, EncryptionContext: lie } }
        expect({ lying, ...whoMay(lying) }).toEqual({ lying, rotation: false, signer: false })
      }
    }
  })

  it('lets nobody see a generated private key, use another kind of key, or use the key to administer it', async () => {
    const [call] = (await recordLife()).filter(({ operation }) => operation === 'GenerateDataKeyPairWithoutPlaintext')
    if (call === undefined) throw new Error('no key pair was generated')
    const seen = { ...call, operation: 'GenerateDataKeyPair' }
    const other = { ...call, input: { ...call.input, KeyPairSpec: 'ECC_NIST_P256' } }
    for (const lie of [seen, other]) expect(whoMay(lie)).toEqual({ rotation: false, signer: false })
    for (const used of await recordLife()) expect(allows(policy, administrator, used)).toBe(false)
    const action = (operation: string) => ({ operation, input: {} })
    for (const operation of ['CreateGrant', 'ScheduleKeyDeletion', 'DisableKey', 'PutKeyPolicy']) {
      expect(whoMay(action(operation)), operation).toEqual({ rotation: false, signer: false })
    }
    for (const operation of ['CreateGrant', 'ScheduleKeyDeletion', 'DisableKey']) {
      expect(allows(policy, administrator, action(operation)), operation).toBe(false)
    }
    expect(allows(policy, administrator, action('PutKeyPolicy'))).toBe(true)
  })
})

interface Policy {
  readonly Statement: readonly Statement[]
}

interface Statement {
  readonly Sid: string
  readonly Effect: 'Allow' | 'Deny'
  readonly Principal: { readonly AWS: string | string[] }
  readonly Action: string | string[]
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, string | string[]>>>>
}

/** As AWS evaluates a key policy, for the operators ours uses: a Deny that applies wins; without an Allow, no. */
function allows({ Statement }: Policy, principal: string, { operation, input }: KmsCall): boolean {
  const facts = new Map<string, string[]>()
  for (const [name, value] of Object.entries(input.EncryptionContext ?? {})) {
    facts.set(`kms:EncryptionContext:${name}`, [value])
    facts.set('kms:EncryptionContextKeys', [...(facts.get('kms:EncryptionContextKeys') ?? []), name])
  }
  if (input.KeyPairSpec !== undefined) facts.set('kms:DataKeyPairSpec', [input.KeyPairSpec])
  const matches = (pattern: string, text: string) =>
    pattern.endsWith('*') ? text.startsWith(pattern.slice(0, -1)) : pattern === text
  const applying = Statement.filter(
    ({ Principal, Action, Condition = {} }) =>
      list(Principal.AWS).some((pattern) => matches(pattern, principal)) &&
      list(Action).some((pattern) => matches(pattern, `kms:${operation}`)) &&
      Object.entries(Condition).every(([operator, wishes]) =>
        Object.entries(wishes).every(([name, values]) => holds(operator, facts.get(name), list(values))),
      ),
  )
  return applying.length > 0 && applying.every(({ Effect }) => Effect === 'Allow')
}

function holds(operator: string, fact: readonly string[] | undefined, values: readonly string[]): boolean {
  switch (operator) {
    case 'StringEquals':
      return fact?.length === 1 && values.includes(fact[0] as string)
    case 'ForAllValues:StringEquals':
      return (fact ?? []).every((member) => values.includes(member))
    case 'Null':
      return values.includes(String(fact === undefined))
    case 'NumericGreaterThanEquals':
      return fact?.length === 1 && Number(fact[0]) >= Number(values[0])
    default:
      throw new Error(`the policy uses the operator ${operator}, which this test does not know`)
  }
}

const list = (one: string | readonly string[]): readonly string[] => (typeof one === 'string' ? [one] : one)
