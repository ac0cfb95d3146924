import { createPublicKey, generateKeyPairSync, timingSafeEqual } from 'node:crypto'
import { KMS, type KMSClientConfig } from '@aws-sdk/client-kms'
import { OperatorError } from '../errors.ts'
import type { KeyWrapper, WrapContext, WrappedKey } from '../ports/key-wrapper.ts'
import type { Logger } from '../ports/logger.ts'
import { AwsRefusals, type Bounds, beforeDeadline, sdkSettings } from './aws.ts'

export interface AwsKmsOptions {
  /** `KMS_KEY_ID`: the id, ARN or alias of a symmetric encryption key. */
  readonly keyId: string
  readonly logger: Logger
  /** For tests. A deployment sets Region, endpoint and credentials by the SDK's own variables and files. */
  readonly client?: KMSClientConfig
  readonly bounds?: Bounds
}

/**
 * Wraps under a symmetric key that never leaves AWS KMS. Opening it generates a data key that nobody will use and
 * unwraps it again, so a relay does not start without KMS, the key, or a permission that it will need later; asking
 * DescribeKey would show a key that is enabled and still may not be used.
 *
 * Rejects, then and later, with {@link KmsRefused}. The roles in keys/kms-policy.json suffice.
 */
export async function openAwsKmsKeyWrapper(options: AwsKmsOptions): Promise<KeyWrapper> {
  const call = connect(options)
  const named = new AwsKmsKeyWrapper(call, options.keyId, options.logger)
  const { plain, wrapped } = await named.generateDataKey(selfTest)
  // KMS answers with the ARN. It is used from here on, so that an alias which moves to another key moves nothing here.
  const wrapper = new AwsKmsKeyWrapper(call, wrapped.wrappingKey, options.logger)
  const unwrapped = await wrapper.unwrap(wrapped, selfTest)
  try {
    if (!timingSafeEqual(plain, unwrapped)) throw new KmsRefused('kms_answer_unusable', 'another data key came back')
    return wrapper
  } finally {
    plain.fill(0)
    unwrapped.fill(0)
  }
}

const selfTest: WrapContext = { app: 'countersign', purpose: 'self-test' }

/**
 * A blob is what KMS calls a ciphertext blob, a context its encryption context, which may hold no empty value. What
 * comes back in plain form is erased by us or by the caller, save for the base64 text that the SDK parsed it from,
 * which is left to the garbage collector.
 */
class AwsKmsKeyWrapper implements KeyWrapper {
  readonly #call: Call
  readonly #keyId: string
  readonly #logger: Logger
  #generatesKeyPairs = true

  constructor(call: Call, keyId: string, logger: Logger) {
    this.#call = call
    this.#keyId = keyId
    this.#logger = logger
  }

  /** `plain` is 1 to 4096 bytes, the most that KMS encrypts itself. */
  async wrap(plain: Uint8Array, context: WrapContext): Promise<WrappedKey> {
    if (plain.length < 1 || plain.length > maxPlainBytes) {
      throw new RangeError(`KMS wraps 1 to ${maxPlainBytes} bytes, not ${plain.length}`)
    }
    const input = { KeyId: this.#keyId, Plaintext: plain, EncryptionContext: context }
    const { CiphertextBlob, KeyId } = await this.#call((kms, within) => kms.encrypt(input, within))
    return { blob: present(CiphertextBlob), wrappingKey: present(KeyId) }
  }

  async unwrap({ blob, wrappingKey }: WrappedKey, context: WrapContext): Promise<Uint8Array> {
    if (withoutRegion(wrappingKey) !== withoutRegion(this.#keyId)) {
      throw new KmsRefused('kms_wrong_key', `wrapped under ${wrappingKey}, but KMS_KEY_ID is ${this.#keyId}`)
    }
    // Without KeyId, KMS would take whatever key the blob names, in any account that lets us.
    const input = { KeyId: this.#keyId, CiphertextBlob: blob, EncryptionContext: context }
    const { Plaintext } = await this.#call((kms, within) => kms.decrypt(input, within))
    return present(Plaintext)
  }

  async generateDataKey(context: WrapContext): Promise<{ plain: Uint8Array; wrapped: WrappedKey }> {
    const input = { KeyId: this.#keyId, KeySpec: 'AES_256', EncryptionContext: context } as const
    const answer = await this.#call((kms, within) => kms.generateDataKey(input, within))
    const wrapped = { blob: present(answer.CiphertextBlob), ...wrappedBy(answer) }
    return { plain: present(answer.Plaintext), wrapped }
  }

  /** Made in KMS, so that this process has never seen the private half before it first unwraps it; or made here, where
   *  the endpoint generates no Ed25519 key pairs. Which of the two is found out once. */
  async generateSigningKey(context: WrapContext): Promise<{ publicKey: Uint8Array; wrapped: WrappedKey }> {
    if (!this.#generatesKeyPairs) return this.#wrapSeedMadeHere(context)
    const spec = { KeyPairSpec: 'ECC_NIST_EDWARDS25519', EncryptionContext: context } as const
    const input = { KeyId: this.#keyId, ...spec }
    const answer = await this.#call((kms, within) => kms.generateDataKeyPairWithoutPlaintext(input, within)).catch(
      (error: unknown) => {
        if (error instanceof KmsRefused && meansNoKeyPairs.has(error.code)) return error
        throw error
      },
    )
    if (answer instanceof KmsRefused) {
      // The reason may be another, such as a bad context or an outage. Then Encrypt is refused too, that is what the
      // caller hears, and nothing is remembered.
      const made = await this.#wrapSeedMadeHere(context)
      this.#generatesKeyPairs = false
      this.#logger.warn(
        { code: answer.code },
        'KMS generates no Ed25519 key pairs here: seeds are made in this process',
      )
      return made
    }
    const wrapped = { blob: present(answer.PrivateKeyCiphertextBlob), ...wrappedBy(answer) }
    return { publicKey: rawPublicKey(present(answer.PublicKey)), wrapped }
  }

  async #wrapSeedMadeHere(context: WrapContext): Promise<{ publicKey: Uint8Array; wrapped: WrappedKey }> {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519')
    const pkcs8 = privateKey.export({ format: 'der', type: 'pkcs8' })
    try {
      const wrapped = await this.wrap(pkcs8.subarray(-32), context)
      return { publicKey: rawPublicKey(publicKey.export({ format: 'der', type: 'spki' })), wrapped }
    } finally {
      pkcs8.fill(0)
    }
  }
}

const maxPlainBytes = 4096

/** A multi-Region key is one key with an ARN in each Region, so a relay that moved reads what it wrapped before. */
const withoutRegion = (arn: string): string => arn.replace(/^(arn:[^:]+:kms:)[^:]+(:\d+:key\/mrk-)/, '$1*$2')

/** 32 raw bytes of an Ed25519 key in SubjectPublicKeyInfo (RFC 8410 §4). */
function rawPublicKey(spki: Uint8Array): Uint8Array {
  let type: string | undefined
  try {
    type = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' }).asymmetricKeyType
  } catch {}
  if (type !== 'ed25519') throw new KmsRefused('kms_answer_unusable', 'the public key is not an Ed25519 key')
  return new Uint8Array(spki.subarray(-32))
}

function present<Member>(member: Member | undefined): Member {
  if (member === undefined) throw new KmsRefused('kms_answer_unusable', 'the answer lacks a member')
  return member
}

type Call = <Answer>(operation: (kms: KMS, within: { abortSignal: AbortSignal }) => Promise<Answer>) => Promise<Answer>

/** All five operations may be repeated: the worst that remains is a key that nobody will use. */
function connect({ client, bounds = { attemptTimeoutMs: 3000, deadlineMs: 15_000 } }: AwsKmsOptions): Call {
  const kms = new KMS({ ...sdkSettings(bounds), ...client })
  return async (operation) => {
    try {
      return await beforeDeadline(bounds, (within) => operation(kms, within))
    } catch (error) {
      const { code, name, cause } = refusals.read(error)
      throw new KmsRefused(code, name, cause)
    }
  }
}

/** What only KMS refuses. */
const refusals = new AwsRefusals('KMS', {
  kms_access_denied: [
    'KMS denies this process the operation. Allow its role what keys/kms-policy.json allows, with that context.',
    ...['AccessDeniedException', 'AccessDenied', 'NotAuthorized', 'OptInRequired'],
  ],
  kms_key_disabled: ['The KMS key is disabled. Enable it, and find out who disabled it.', 'DisabledException'],
  kms_key_not_found: [
    'KMS has no such key. Check KMS_KEY_ID and that AWS_REGION is the Region of the key.',
    ...['NotFoundException', 'InvalidArnException', 'InvalidAliasNameException'],
  ],
  kms_key_state: [
    'The KMS key cannot be used in its state. If its deletion is scheduled, cancel that at once and enable the key.',
    'KMSInvalidStateException',
  ],
  kms_key_unsuitable: [
    'The KMS key is of the wrong kind. KMS_KEY_ID must name a symmetric key for encryption and decryption.',
    'InvalidKeyUsageException',
  ],
  kms_invalid_ciphertext: [
    'The wrapped key was altered, or wrapped for another context. Restore its row from a backup.',
    'InvalidCiphertextException',
  ],
  kms_wrong_key: [
    'The wrapped key belongs to another KMS key. Set KMS_KEY_ID to the key that wrapped it, or re-wrap.',
    'IncorrectKeyException',
  ],
  kms_request_invalid: [
    'KMS does not accept the request as formed. Check KMS_KEY_ID; otherwise this is a fault of the relay.',
    ...['ValidationException', 'ValidationError', 'SerializationException', 'InvalidGrantTokenException'],
    'DryRunOperationException',
  ],
  kms_unsupported: [
    'This KMS endpoint or key does not support the operation. Check AWS_ENDPOINT_URL_KMS and the kind of the key.',
    ...['UnsupportedOperationException', 'UnknownOperationException', 'InvalidAction'],
  ],
})

export type KmsRefusal = Parameters<typeof refusals.tell>[0]

/** KMS did not do what it was asked. The message is the sentence of the table, and then what was refused. */
export class KmsRefused extends OperatorError {
  override readonly name = 'KmsRefused'
  readonly code: KmsRefusal

  constructor(code: KmsRefusal, what: string, cause?: Error) {
    super(refusals.tell(code, what), { cause })
    this.code = code
  }
}

/** How endpoints say that they generate no Ed25519 key pairs: with a name for it, by not knowing the spec, or, as some
 *  imitations of KMS do, by failing with a page of HTML. */
const meansNoKeyPairs: ReadonlySet<KmsRefusal> = new Set(['kms_unsupported', 'kms_request_invalid', 'kms_error_page'])

/** The key by its ARN, and which of its materials it was: KMS says so of what it generates, and not of what it encrypts. */
const wrappedBy = ({ KeyId, KeyMaterialId }: { KeyId?: string | undefined; KeyMaterialId?: string | undefined }) => ({
  wrappingKey: present(KeyId),
  ...(KeyMaterialId !== undefined && { version: KeyMaterialId }),
})
