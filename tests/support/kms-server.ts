import { createCipheriv, createDecipheriv, createHash, generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto'
import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { parseArgs } from 'node:util'
import { dateHeader, refusedSignature, region, signingEnvironment } from './sigv4.ts'

/**
 * A server of ours that speaks the JSON 1.1 protocol of AWS KMS, as far as a key wrapper needs it. Its ciphertexts are
 * real, and bound to their key and encryption context; its refusals have the names and statuses of AWS; its faults are
 * those of a network. Keys live as long as the server.
 *
 * `node tests/support/kms-server.ts --port 4599` runs it alone and prints the environment a relay needs to use it.
 */
export interface KmsServer {
  readonly url: string
  /** The ARN of a symmetric key. `alias/countersign` means it too. */
  readonly keyId: string
  /** What makes the AWS SDK, in this process or another, use this server and this key. */
  readonly environment: Readonly<Record<string, string>>
  /** Every operation asked for, oldest first, refused ones and repetitions included. */
  readonly calls: KmsCall[]
  readonly switches: KmsSwitches
  /** Makes one more key and returns its ARN. */
  createKey(kind?: Partial<Pick<KmsKey, 'usage' | 'multiRegion'>>): string
  stop(): Promise<void>
}

export interface KmsCall {
  readonly operation: string
  readonly input: KmsInput
}

export interface KmsSwitches {
  keyState: 'Enabled' | 'Disabled' | 'PendingDeletion'
  /** Strikes `times` requests, `after` so many have passed: an error by its AWS name, or a fault of the wire. */
  fault: Fault | undefined
  /** The form of generated private keys: PKCS#8 version 1, or version 2, which holds the public key too. */
  privateKeyForm: 'v1' | 'v2'
  /** How the endpoint takes a wish for an Ed25519 key pair. */
  keyPairs: 'generated' | 'unsupported' | 'unknown spec' | 'error page'
}

interface Fault {
  readonly kind: keyof typeof namedErrors | WireFault
  readonly times: number
  readonly after?: number
}

/** silent: never answers · stalled: never ends its answer · cut: ends the connection within its answer ·
 *  garbled: the answer is not quite JSON · error page: 500 with HTML. */
export type WireFault = 'silent' | 'stalled' | 'cut' | 'garbled' | 'error page'

interface KmsKey {
  readonly arn: string
  readonly material: Buffer
  readonly usage: 'ENCRYPT_DECRYPT' | 'SIGN_VERIFY'
  readonly multiRegion: boolean
}

interface KmsInput {
  readonly KeyId?: string
  readonly KeySpec?: string
  readonly KeyPairSpec?: string
  readonly NumberOfBytes?: number
  readonly EncryptionContext?: Record<string, string>
}

/** What KMS calls blobs, as base64. Kept out of {@link KmsInput}, so that recorded calls hold no secrets. */
interface KmsBlobs {
  readonly Plaintext?: string | undefined
  readonly CiphertextBlob?: string | undefined
}

export async function startKmsServer({ port = 0 } = {}): Promise<KmsServer> {
  const keys = new Map<string, KmsKey>()
  const calls: KmsCall[] = []
  const switches: KmsSwitches = {
    keyState: 'Enabled',
    fault: undefined,
    privateKeyForm: 'v1',
    keyPairs: 'generated',
  }
  const createKey: KmsServer['createKey'] = ({ usage = 'ENCRYPT_DECRYPT', multiRegion = false } = {}) => {
    const id = multiRegion ? `mrk-${randomBytes(16).toString('hex')}` : randomUUID()
    const arn = `arn:aws:kms:${region}:111122223333:key/${id}`
    const key = { arn, material: randomBytes(32), usage, multiRegion }
    keys.set(arn, key).set(id, key)
    return arn
  }
  const keyId = createKey()
  keys.set('alias/countersign', keys.get(keyId) as KmsKey)

  const server = createServer(async (request, response) => {
    const body: Buffer[] = []
    for await (const chunk of request) body.push(chunk)
    const operation = /^TrentService\.(\w+)$/.exec(String(request.headers['x-amz-target']))?.[1] ?? ''
    try {
      const refused = refusedSignature(request, Buffer.concat(body), 'kms', ['host', 'x-amz-date', 'x-amz-target'])
      if (refused !== undefined) throw new KmsError(signatureRefusals[refused], `the signature is ${refused}`)
      const { Plaintext, CiphertextBlob, ...input } = JSON.parse(String(Buffer.concat(body))) as KmsInput & KmsBlobs
      calls.push({ operation, input })
      const fault = takeFault(switches)
      if (fault !== undefined && fault in namedErrors) throw new KmsError(fault as keyof typeof namedErrors)
      const answer = () => perform(operation, input, { Plaintext, CiphertextBlob }, keys, switches)
      send(response, 200, fault === 'silent' || fault === 'error page' ? {} : answer(), fault as WireFault | undefined)
    } catch (error) {
      if (error instanceof ErrorPage) return send(response, 500, {}, 'error page')
      const { code, message } = error instanceof KmsError ? error : new KmsError('KMSInternalException', String(error))
      send(response, namedErrors[code], { __type: code, message }, undefined)
    }
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const environment = {
    KEY_WRAPPER: 'aws-kms',
    KMS_KEY_ID: keyId,
    AWS_ENDPOINT_URL_KMS: url,
    ...signingEnvironment,
  }
  const stop = async () => {
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
  }
  return { url, keyId, environment, calls, switches, createKey, stop }
}

/** The errors of KMS that the server makes, or can be told to make, with their HTTP statuses. */
const namedErrors = {
  AccessDeniedException: 400,
  DependencyTimeoutException: 503,
  DisabledException: 400,
  ExpiredTokenException: 400,
  IncompleteSignatureException: 400,
  IncorrectKeyException: 400,
  InvalidArnException: 400,
  InvalidCiphertextException: 400,
  InvalidKeyUsageException: 400,
  InvalidSignatureException: 400,
  KMSInternalException: 500,
  KMSInvalidStateException: 400,
  KeyUnavailableException: 500,
  LimitExceededException: 400,
  MissingAuthenticationTokenException: 400,
  NotFoundException: 400,
  ThrottlingException: 400,
  UnrecognizedClientException: 400,
  UnknownOperationException: 400,
  UnsupportedOperationException: 400,
  ValidationException: 400,
} as const

class KmsError extends Error {
  readonly code: keyof typeof namedErrors

  constructor(code: keyof typeof namedErrors, message = `${code} by a switch`) {
    super(message)
    this.code = code
  }
}

class ErrorPage extends Error {}

/** By which name KMS refuses a request that is not signed as it should. */
const signatureRefusals = {
  missing: 'MissingAuthenticationTokenException',
  incomplete: 'IncompleteSignatureException',
  skewed: 'InvalidSignatureException',
  unknown: 'UnrecognizedClientException',
  elsewhere: 'InvalidSignatureException',
  altered: 'InvalidSignatureException',
  wrong: 'InvalidSignatureException',
} as const

function takeFault(switches: KmsSwitches): Fault['kind'] | undefined {
  const { fault } = switches
  if (fault === undefined) return undefined
  const { kind, times, after = 0 } = fault
  switches.fault = after > 0 ? { kind, times, after: after - 1 } : times > 1 ? { kind, times: times - 1 } : undefined
  return after > 0 ? undefined : kind
}

function send(response: ServerResponse, status: number, answer: object, fault: WireFault | undefined): void {
  const text = JSON.stringify(answer)
  const headers = { 'content-type': 'application/x-amz-json-1.1', 'x-amzn-requestid': randomUUID(), ...dateHeader() }
  switch (fault) {
    case 'silent':
      return
    case 'error page':
      response.writeHead(500, { 'content-type': 'text/html', ...dateHeader() }).end('<!doctype html><title>500</title>')
      return
    case 'garbled':
      // The last value loses its first quote, so that a JSON parser quotes the value when it complains.
      response.writeHead(status, headers).end(text.replace(/:"([^"]*"})$/, ':$1'))
      return
    case 'stalled':
    case 'cut':
      response.writeHead(status, { ...headers, 'content-length': text.length })
      response.write(text.slice(0, -5), () => fault === 'cut' && response.destroy())
      return
    default:
      response.writeHead(status, headers).end(text)
  }
}

function perform(
  operation: string,
  input: KmsInput,
  { Plaintext, CiphertextBlob }: KmsBlobs,
  keys: ReadonlyMap<string, KmsKey>,
  switches: KmsSwitches,
): object {
  const context = checkContext(input.EncryptionContext)
  // Stricter than KMS, which decrypts under whatever key a ciphertext names unless KeyId pins one.
  const key = keys.get(input.KeyId ?? '')
  if (key === undefined) throw new KmsError('NotFoundException', `Key ${JSON.stringify(input.KeyId)} does not exist`)
  if (operation === 'DescribeKey') return { KeyMetadata: describe(key, switches) }
  if (switches.keyState === 'Disabled') throw new KmsError('DisabledException', `${key.arn} is disabled.`)
  if (switches.keyState === 'PendingDeletion') {
    throw new KmsError('KMSInvalidStateException', `${key.arn} is pending deletion.`)
  }
  if (key.usage !== 'ENCRYPT_DECRYPT') throw new KmsError('InvalidKeyUsageException', `${key.arn} is for SIGN_VERIFY.`)
  const encrypt = (plain: Uint8Array): string => encryptUnder(key, plain, context).toString('base64')
  const KeyId = key.arn

  switch (operation) {
    case 'Encrypt': {
      const plain = required('Plaintext', Plaintext)
      if (plain.length > 4096) throw invalid('Plaintext', 'Member must have length less than or equal to 4096')
      return { CiphertextBlob: encrypt(plain), EncryptionAlgorithm: 'SYMMETRIC_DEFAULT', KeyId }
    }
    case 'Decrypt': {
      const blob = parseBlob(required('CiphertextBlob', CiphertextBlob))
      if (!keys.has(blob.arn)) throw new KmsError('InvalidCiphertextException', '')
      if (blob.arn !== key.arn) throw new KmsError('IncorrectKeyException', 'the ciphertext is of another key')
      const plain = decryptUnder(key, blob, context)
      return { EncryptionAlgorithm: 'SYMMETRIC_DEFAULT', KeyId, Plaintext: plain.toString('base64') }
    }
    case 'GenerateDataKey':
    case 'GenerateDataKeyWithoutPlaintext': {
      if (input.KeySpec !== 'AES_256') throw invalid('KeySpec', 'Member must be AES_256, the only one of this server')
      const plain = randomBytes(32)
      const seen = operation === 'GenerateDataKey' ? { Plaintext: plain.toString('base64') } : {}
      return { CiphertextBlob: encrypt(plain), KeyId, ...seen }
    }
    case 'GenerateDataKeyPair':
    case 'GenerateDataKeyPairWithoutPlaintext': {
      if (switches.keyPairs === 'error page') throw new ErrorPage()
      if (switches.keyPairs === 'unsupported') throw new KmsError('UnsupportedOperationException')
      if (switches.keyPairs === 'unknown spec' || input.KeyPairSpec !== 'ECC_NIST_EDWARDS25519') {
        throw invalid('KeyPairSpec', 'Member must satisfy enum value set')
      }
      const { publicKey, privateKey } = generateKeyPair(switches.privateKeyForm)
      const seen = operation === 'GenerateDataKeyPair' ? { PrivateKeyPlaintext: privateKey.toString('base64') } : {}
      const { KeyPairSpec } = input
      const PrivateKeyCiphertextBlob = encrypt(privateKey)
      const KeyMaterialId = createHash('sha256').update(key.material).digest('hex')
      return {
        KeyId,
        KeyMaterialId,
        KeyPairSpec,
        PrivateKeyCiphertextBlob,
        PublicKey: publicKey.toString('base64'),
        ...seen,
      }
    }
    default:
      throw new KmsError('UnknownOperationException', operation)
  }
}

const invalid = (name: string, why: string): KmsError =>
  new KmsError(
    'ValidationException',
    `1 validation error detected: Value at '${name}' failed to satisfy constraint: ${why}`,
  )

function required(name: string, base64: string | undefined): Buffer {
  if (base64 === undefined || base64 === '') throw invalid(name, 'Member must not be empty')
  return Buffer.from(base64, 'base64')
}

/** A JSON array of sorted pairs. KMS takes neither empty names nor empty values. */
function checkContext(context: Record<string, string> = {}): Buffer {
  const pairs = Object.entries(context).sort(([a], [b]) => (a < b ? -1 : 1))
  if (pairs.some(([name, value]) => name === '' || value === '')) {
    throw new KmsError('ValidationException', 'Invalid EncryptionContext')
  }
  return Buffer.from(JSON.stringify(pairs))
}

/** `0x01 ‖ length of the ARN ‖ ARN ‖ nonce (12) ‖ AES-256-GCM ciphertext ‖ tag (16)`, with the context as additional
 *  data. KMS has a form of its own, which is not documented. */
function encryptUnder(key: KmsKey, plain: Uint8Array, context: Buffer): Buffer {
  const nonce = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key.material, nonce)
  cipher.setAAD(context)
  const sealed = [nonce, cipher.update(plain), cipher.final(), cipher.getAuthTag()]
  return Buffer.concat([Uint8Array.of(1, key.arn.length), Buffer.from(key.arn), ...sealed])
}

interface Blob {
  readonly arn: string
  readonly sealed: Buffer
}

function parseBlob(bytes: Buffer): Blob {
  const sealed = bytes.subarray(2 + (bytes[1] ?? 0))
  if (bytes[0] !== 1 || sealed.length < 12 + 16) throw new KmsError('InvalidCiphertextException', '')
  return { arn: bytes.toString('latin1', 2, 2 + (bytes[1] ?? 0)), sealed }
}

function decryptUnder(key: KmsKey, { sealed }: Blob, context: Buffer): Buffer {
  const decipher = createDecipheriv('aes-256-gcm', key.material, sealed.subarray(0, 12))
  decipher.setAAD(context)
  decipher.setAuthTag(sealed.subarray(-16))
  try {
    return Buffer.concat([decipher.update(sealed.subarray(12, -16)), decipher.final()])
  } catch {
    throw new KmsError('InvalidCiphertextException', '')
  }
}

const describe = ({ arn, usage, multiRegion }: KmsKey, { keyState }: KmsSwitches): object => ({
  Arn: arn,
  KeyId: arn.slice(arn.indexOf('/') + 1),
  Enabled: keyState === 'Enabled',
  KeyState: keyState,
  KeyUsage: usage,
  KeySpec: usage === 'ENCRYPT_DECRYPT' ? 'SYMMETRIC_DEFAULT' : 'ECC_NIST_EDWARDS25519',
  MultiRegion: multiRegion,
})

/** RFC 5958 version 2 is version 1 with the public key behind it, in an implicit context tag 1. */
function generateKeyPair(form: 'v1' | 'v2'): { publicKey: Buffer; privateKey: Buffer } {
  const pair = generateKeyPairSync('ed25519')
  const publicKey = pair.publicKey.export({ format: 'der', type: 'spki' })
  const v1 = pair.privateKey.export({ format: 'der', type: 'pkcs8' })
  if (form === 'v1') return { publicKey, privateKey: v1 }
  const head = Buffer.from('3051020101', 'hex')
  const tail = Buffer.concat([Buffer.from('812100', 'hex'), publicKey.subarray(-32)])
  return { publicKey, privateKey: Buffer.concat([head, v1.subarray(5), tail]) }
}

if (import.meta.main) {
  const { port } = parseArgs({ options: { port: { type: 'string', default: '0' } } }).values
  const { environment } = await startKmsServer({ port: Number(port) })
  for (const [name, value] of Object.entries(environment)) console.log(`export ${name}=${value}`)
}
