import { randomUUID } from 'node:crypto'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { crc32 } from 'node:zlib'
import { type CompletedPart, type GetObjectOutput, S3, type S3ClientConfig } from '@aws-sdk/client-s3'
import { OperatorError } from '../errors.ts'
import type { Clock } from '../ports/clock.ts'
import {
  type ByteRange,
  checkKey,
  checkPrefix,
  ObjectAbsent,
  type ObjectStat,
  type ObjectStore,
  type PutOptions,
} from '../ports/object-store.ts'
import { AwsRefusals, type Bounds, beforeDeadline, sdkSettings } from './aws.ts'

export interface S3Options {
  /** `S3_BUCKET`. */
  readonly bucket: string
  /** `S3_PREFIX`: what every key begins with in the bucket; empty, or ending in a slash. */
  readonly prefix: string
  /** Whether the bucket stands in the path of URLs, instead of in their host. */
  readonly pathStyle?: boolean
  readonly clock: Clock
  /** A deployment sets Region, endpoint and credentials by the SDK's own variables and files. */
  readonly client?: S3ClientConfig
  readonly bounds?: Bounds
}

/**
 * Opens a bucket, after trying on an object of its own all that the relay relies on: that it may list, write and read,
 * that a conditional put replaces nothing, and that the bucket has Object Lock. The object is made at the first start
 * and stays.
 *
 * Rejects, then and later, with {@link S3Refused}.
 */
export async function openS3ObjectStore(options: S3Options): Promise<ObjectStore> {
  const store = new S3ObjectStore(options)
  const retainUntil = new Date(options.clock.now().getTime() + 24 * 60 * 60 * 1000)
  // A role that may not list is told of a missing object that it may not see it; then nothing would ever be absent.
  await store.find('self-test/absent')
  await store.putIfAbsent(probeKey, probe, { retainUntil })
  if ((await store.putIfAbsent(probeKey, probe)) !== 'exists') {
    throw new S3Refused('s3_unsupported', 'If-None-Match was ignored')
  }
  const found = await store.find(probeKey)
  if (found === undefined || Buffer.compare(found, probe) !== 0) {
    throw new S3Refused('s3_damaged', `${probeKey} does not hold what the relay writes there`)
  }
  return store
}

const probeKey = 'self-test/probe'
const probe = Buffer.from('Countersign tries here whether it can use this bucket.\n')

/**
 * Objects in a bucket with Object Lock, and so with versions. S3 checks the CRC-32 of what it is sent, keeps it with the
 * object, and we check it on what comes back: against accidents on the way. Against malice there is the log itself.
 */
class S3ObjectStore implements ObjectStore {
  readonly #s3: S3
  readonly #bucket: string
  readonly #prefix: string
  readonly #bounds: Bounds

  constructor({ bucket, prefix, pathStyle = false, client, bounds = defaultBounds }: S3Options) {
    this.#bounds = bounds
    const settings = sdkSettings(bounds)
    // Bodies are read after a call has ended, so it is this that notices one that stalls.
    const requestHandler = { ...settings.requestHandler, socketTimeout: bounds.attemptTimeoutMs }
    this.#s3 = new S3({ ...settings, requestHandler, forcePathStyle: pathStyle, ...client })
    this.#bucket = bucket
    this.#prefix = prefix
  }

  async put(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<void> {
    await this.#put(key, bytes, options)
  }

  async putIfAbsent(key: string, bytes: Uint8Array, options: PutOptions = {}): Promise<'stored' | 'exists'> {
    const mark = { [markName]: randomUUID() }
    try {
      await this.#put(key, bytes, options, { IfNoneMatch: '*', Metadata: mark })
      return 'stored'
    } catch (error) {
      if (!refusedAs(error, 's3_precondition')) throw error
      // An answer may have been lost, and the call repeated by the SDK: then what is in the way is our own object.
      return (await this.#isOurs(key, mark)) ? 'stored' : 'exists'
    }
  }

  async find(key: string): Promise<Uint8Array | undefined> {
    const chunks: Uint8Array[] = []
    try {
      for await (const chunk of this.read(key)) chunks.push(chunk)
      return new Uint8Array(Buffer.concat(chunks))
    } catch (error) {
      if (error instanceof ObjectAbsent) return undefined
      throw error
    }
  }

  async stat(key: string): Promise<ObjectStat | undefined> {
    const head = await this.#head(key)
    return head && { bytes: present(head.ContentLength) }
  }

  /** A body that was cut off or stalled is taken up again where it ended, unless the object was replaced since. */
  async *read(key: string, { from, to }: ByteRange = { from: 0 }): AsyncGenerator<Uint8Array> {
    const first = await this.#get(key, from, to)
    const end = from + present(first.ContentLength)
    // S3 has a checksum of the whole object only, and none at all for what others put there in parts.
    const isWhole = from === 0 && !first.ContentRange
    const expected = isWhole && first.ChecksumType !== 'COMPOSITE' ? first.ChecksumCRC32 : undefined
    let checksum = 0
    let at = from
    for (let answer = first, failures = 0; ; answer = await this.#get(key, at, end - 1, first.ETag)) {
      try {
        for await (const chunk of answer.Body as Readable) {
          yield chunk
          checksum = crc32(chunk, checksum)
          at += chunk.length
          failures = 0
        }
        if (at < end) throw new Error('the body ended early')
      } catch (error) {
        if (++failures > maxResumes) throw this.#refusal(error)
      }
      if (at >= end) break
    }
    if (expected !== undefined && expected !== encodeCrc32(checksum)) throw new S3Refused('s3_damaged', key)
  }

  async write(key: string, chunks: AsyncIterable<Uint8Array>): Promise<void> {
    const parts = inParts(chunks)
    const { value: first = new Uint8Array() } = await parts.next()
    if (first.length < partBytes) return this.put(key, first)
    await this.#writeParts(key, first, parts)
  }

  async delete(key: string): Promise<void> {
    const object = this.#object(key)
    await this.#call((within) => this.#s3.deleteObject(object, within))
  }

  async *list(prefix: string, after?: string): AsyncGenerator<string> {
    checkPrefix(prefix)
    const where = { Bucket: this.#bucket, Prefix: this.#prefix + prefix }
    let from: { StartAfter: string } | { ContinuationToken: string } | object =
      after === undefined ? {} : { StartAfter: this.#prefix + after }
    for (;;) {
      const page = await this.#call((within) => this.#s3.listObjectsV2({ ...where, ...from }, within))
      for (const { Key } of page.Contents ?? []) yield present(Key).slice(this.#prefix.length)
      if (!page.IsTruncated) return
      from = { ContinuationToken: present(page.NextContinuationToken) }
    }
  }

  async #put(
    key: string,
    bytes: Uint8Array,
    { retainUntil }: PutOptions,
    condition: { IfNoneMatch?: string; Metadata?: Record<string, string> } = {},
  ): Promise<void> {
    const lock = retainUntil && ({ ObjectLockMode: 'COMPLIANCE', ObjectLockRetainUntilDate: retainUntil } as const)
    const checksum = { ChecksumAlgorithm: 'CRC32', ChecksumCRC32: encodeCrc32(crc32(bytes)) } as const
    const input = { ...this.#object(key), Body: bytes, ...checksum, ...lock, ...condition }
    for (let conflicts = 0; ; ) {
      try {
        await this.#call((within) => this.#s3.putObject(input, within))
        return
      } catch (error) {
        // Somebody is writing the same object at this moment. S3 asks for a repetition, and the SDK does not.
        if (!refusedAs(error, 's3_conflict') || ++conflicts > maxConflicts) throw error
        await delay(50 * 2 ** conflicts)
      }
    }
  }

  /** One part in flight, one being filled. A process that dies in between leaves parts behind that nobody sees; a rule
   *  of the bucket's lifecycle (AbortIncompleteMultipartUpload) removes them. */
  async #writeParts(key: string, first: Uint8Array, others: AsyncIterable<Uint8Array>): Promise<void> {
    const object = this.#object(key)
    const mark = { [markName]: randomUUID() }
    const checksums = { ChecksumAlgorithm: 'CRC32', ChecksumType: 'FULL_OBJECT' } as const
    const created = await this.#call((within) =>
      this.#s3.createMultipartUpload({ ...object, ...checksums, Metadata: mark }, within),
    )
    const upload = { ...object, UploadId: present(created.UploadId) }
    const parts: CompletedPart[] = []
    let checksum = 0
    const send = async (bytes: Uint8Array): Promise<void> => {
      const part = { PartNumber: parts.length + 1, ChecksumCRC32: encodeCrc32(crc32(bytes)) }
      if (part.PartNumber > maxParts)
        throw new RangeError(`${key} is larger than ${maxParts} parts of ${partBytes} bytes`)
      const { ETag } = await this.#call((within) => this.#s3.uploadPart({ ...upload, ...part, Body: bytes }, within))
      parts.push({ ...part, ETag: present(ETag) })
      checksum = crc32(bytes, checksum)
    }
    try {
      await send(first)
      for await (const bytes of others) await send(bytes)
      const whole = { ChecksumCRC32: encodeCrc32(checksum), ChecksumType: checksums.ChecksumType }
      const completed = { ...upload, ...whole, MultipartUpload: { Parts: parts } }
      await this.#call((within) => this.#s3.completeMultipartUpload(completed, within))
    } catch (error) {
      // The upload is gone because it was completed, and the answer lost; or somebody aborted it.
      if (refusedAs(error, 's3_upload_absent') && (await this.#isOurs(key, mark))) return
      await this.#call((within) => this.#s3.abortMultipartUpload(upload, within)).catch(() => undefined)
      throw error
    }
  }

  async #get(key: string, from: number, to?: number, etag?: string): Promise<GetObjectOutput> {
    const range = from > 0 || to !== undefined ? { Range: `bytes=${from}-${to ?? ''}` } : {}
    const input = { ...this.#object(key), ...range, ChecksumMode: 'ENABLED', ...(etag && { IfMatch: etag }) } as const
    try {
      return await this.#call((within) => this.#s3.getObject(input, within))
    } catch (error) {
      if (refusedAs(error, 's3_absent')) throw new ObjectAbsent(key)
      if (!refusedAs(error, 's3_range')) throw error
      if (from === 0) return { ContentLength: 0, Body: [] as never } // of an empty object there is no range
      throw new RangeError(`${key} has no byte at ${from}`)
    }
  }

  async #head(key: string) {
    const object = this.#object(key)
    try {
      return await this.#call((within) => this.#s3.headObject(object, within))
    } catch (error) {
      if (refusedAs(error, 's3_absent')) return undefined
      throw error
    }
  }

  async #isOurs(key: string, mark: Record<string, string>): Promise<boolean> {
    return (await this.#head(key))?.Metadata?.[markName] === mark[markName]
  }

  #object(key: string): { Bucket: string; Key: string } {
    checkKey(key)
    return { Bucket: this.#bucket, Key: this.#prefix + key }
  }

  async #call<Answer>(operation: (within: { abortSignal: AbortSignal }) => Promise<Answer>): Promise<Answer> {
    try {
      return await beforeDeadline(this.#bounds, operation)
    } catch (error) {
      throw this.#refusal(error)
    }
  }

  #refusal(error: unknown): S3Refused {
    const { code, name, cause } = refusals.read(error)
    const aboutLock = name === 'InvalidRequest' && /object ?lock/i.test(cause.message) // S3 has no name for it
    return new S3Refused(aboutLock ? 's3_lock_missing' : code, name, cause)
  }
}

const defaultBounds: Bounds = { attemptTimeoutMs: 10_000, deadlineMs: 30_000 }
/** Held in memory of an object that is being written. S3 takes parts from 5 MiB on, and 10,000 of an object: 78 GiB. */
const partBytes = 8 * 1024 * 1024
const maxParts = 10_000
/** Failures in a row, without a byte in between, after which a body is given up on. */
const maxResumes = 3
const maxConflicts = 5

/** Metadata of an object that says which call wrote it. */
const markName = 'written-by'

/** Big-endian and in base64, as S3 writes it. */
function encodeCrc32(checksum: number): string {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(checksum)
  return bytes.toString('base64')
}

/** The same bytes in pieces of `partBytes`, the last of which may be smaller. */
async function* inParts(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let part = Buffer.allocUnsafe(partBytes)
  let filled = 0
  for await (const chunk of chunks) {
    for (let taken = 0; taken < chunk.length; ) {
      const piece = chunk.subarray(taken, taken + partBytes - filled)
      part.set(piece, filled)
      filled += piece.length
      taken += piece.length
      if (filled < partBytes) continue
      yield part
      part = Buffer.allocUnsafe(partBytes)
      filled = 0
    }
  }
  if (filled > 0) yield part.subarray(0, filled)
}

function present<Member>(member: Member | undefined): Member {
  if (member === undefined) throw new S3Refused('s3_answer_unusable', 'the answer lacks a member')
  return member
}

/** What only S3 refuses, and, where an answer has no body, the status alone. */
const refusals = new AwsRefusals('S3', {
  s3_access_denied: [
    'S3 denies this process the operation. Allow its role s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject, ' +
      's3:PutObjectRetention, s3:DeleteObject and s3:AbortMultipartUpload on what is in it.',
    ...['AccessDenied', 'AllAccessDisabled', 'AccountProblem', '403'],
  ],
  s3_bucket_not_found: [
    'S3 has no such bucket. Check S3_BUCKET, and that AWS_REGION is the Region of the bucket.',
    ...['NoSuchBucket', 'InvalidBucketName'],
  ],
  s3_wrong_region: [
    'The bucket is in another Region. Set AWS_REGION to the Region of the bucket.',
    ...['PermanentRedirect', 'TemporaryRedirect', 'AuthorizationHeaderMalformed', '301'],
  ],
  s3_lock_missing: [
    'The bucket has no Object Lock, so what is published there could be destroyed. Use one that was made with it.',
    'ObjectLockConfigurationNotFoundError',
  ],
  s3_unsupported: [
    'This S3 endpoint does not do what the relay needs: conditional puts, checksums and Object Lock. Use another.',
    ...['NotImplemented', 'MethodNotAllowed'],
  ],
  s3_full: [
    'The object store is full. Give it more room; the relay then goes on where it was.',
    ...['InsufficientStorage', 'QuotaExceeded', 'XMinioStorageFull', '507'],
  ],
  s3_damaged: [
    'Bytes were changed on their way to S3, in it, or on their way back. Look for a proxy on the way, and restore an ' +
      'object of which this is always said.',
    ...['BadDigest', 'InvalidDigest', 'XAmzContentSHA256Mismatch', 'XAmzContentChecksumMismatch'],
  ],
  s3_conflict: [
    'Others are writing the same object at the same time. Try again.',
    ...['ConditionalRequestConflict', 'OperationAborted'],
  ],
  s3_precondition: ['The object was made or replaced by another meanwhile. Try again.', 'PreconditionFailed', '412'],
  s3_absent: ['S3 has no such object.', 'NoSuchKey', 'NotFound', '404'],
  s3_upload_absent: [
    'The upload was ended by another, or by a rule of the bucket. Write the object again.',
    'NoSuchUpload',
  ],
  s3_range: ['The object has no such bytes.', 'InvalidRange', '416'],
})

export type S3Refusal = Parameters<typeof refusals.tell>[0]

/** S3 did not do what it was asked. The message is the sentence of the table, and then what was refused. */
export class S3Refused extends OperatorError {
  override readonly name = 'S3Refused'
  readonly code: S3Refusal

  constructor(code: S3Refusal, what: string, cause?: Error) {
    super(refusals.tell(code, what), { cause })
    this.code = code
  }
}

const refusedAs = (error: unknown, code: S3Refusal): boolean => error instanceof S3Refused && error.code === code
