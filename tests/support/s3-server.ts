import { createHash, randomUUID } from 'node:crypto'
import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { crc32 } from 'node:zlib'
import { dateHeader, refusedSignature, signingEnvironment } from './sigv4.ts'

/**
 * A server of ours that speaks the REST protocol of AWS S3, as far as an object store needs it: one bucket with versions
 * and Object Lock, conditional puts, CRC-32 checksums, multipart uploads, ranges and lists in pages. It verifies every
 * signature; its refusals have the names and statuses of AWS; its faults are those of a network and a disk. Objects live
 * as long as the server.
 */
export interface S3Server {
  readonly url: string
  readonly bucket: string
  /** What makes a relay, in this process or another, use this server and its bucket. */
  readonly environment: Readonly<Record<string, string>>
  /** Every operation asked for, oldest first, refused ones and repetitions included. */
  readonly calls: S3Call[]
  readonly switches: S3Switches
  /** All that was ever stored under this name in the bucket, oldest first. */
  versions(name: string): readonly Version[]
  /** Multipart uploads that were neither completed nor aborted. */
  readonly openUploads: number
  stop(): Promise<void>
}

export interface S3Call {
  readonly operation: string
  /** Of the object in the bucket; empty for the bucket itself. */
  readonly name: string
}

export interface S3Switches {
  /** Strikes `times` calls of `operation`, or of any, `after` so many have passed. */
  fault: Fault | undefined
  /** Whether the bucket was made with Object Lock. */
  objectLock: boolean
  /** Without it, what is absent answers 403 instead of 404, as AWS does to a role without s3:ListBucket. */
  mayList: boolean
  /** As some imitations of S3 do. */
  ignoresIfNoneMatch: boolean
  /** Keys in one page of a list, at most. */
  pageKeys: number
}

interface Fault {
  readonly kind: keyof typeof namedErrors | WireFault
  readonly times: number
  readonly after?: number
  readonly operation?: string
}

/** silent: never answers · cut before: the connection ends and nothing was done · cut after: it was done, and no answer
 *  came · cut within: the connection ends in the middle of the body · stalled: the body never ends · altered: one bit of
 *  the body is another · error in 200: the status says yes and the body no. */
export type WireFault = 'silent' | 'cut before' | 'cut after' | 'cut within' | 'stalled' | 'altered' | 'error in 200'

interface Version {
  readonly id: string
  /** Absent: a delete marker. */
  readonly bytes?: Buffer
  readonly etag: string
  readonly checksum?: string
  readonly metadata: Readonly<Record<string, string>>
  readonly retainUntil?: Date
}

interface Upload {
  readonly name: string
  readonly metadata: Version['metadata']
  readonly parts: Map<number, { bytes: Buffer; etag: string; checksum: string }>
}

/** One request, read. */
interface Request {
  readonly operation: string
  readonly name: string
  readonly query: URLSearchParams
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

interface Answer {
  readonly status: number
  readonly headers?: Record<string, string | number>
  readonly body?: Buffer | string
}

export async function startS3Server({ port = 0 } = {}): Promise<S3Server> {
  const calls: S3Call[] = []
  const switches: S3Switches = {
    fault: undefined,
    objectLock: true,
    mayList: true,
    ignoresIfNoneMatch: false,
    pageKeys: 1000,
  }
  const store = new Store(switches)
  const server = createServer(async (incoming, response) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk)
    const body = Buffer.concat(chunks)
    const url = new URL(incoming.url ?? '/', 'http://s3')
    const [, inBucket = '', ...segments] = url.pathname.split('/').map(decodeURIComponent)
    const name = segments.join('/')
    const operation = operationOf(incoming.method ?? '', name, url.searchParams)
    calls.push({ operation, name })
    const fault = takeFault(switches, operation)
    if (fault === 'silent') return
    if (fault === 'cut before') return void response.destroy()
    let answer: Answer
    try {
      const refused = refusedSignature(incoming, body, 's3', ['host', 'x-amz-date', 'x-amz-content-sha256'])
      if (refused !== undefined) throw new S3Error(signatureRefusals[refused])
      if (inBucket !== bucket) throw new S3Error('NoSuchBucket')
      if (fault !== undefined && fault in namedErrors) throw new S3Error(fault as keyof typeof namedErrors)
      answer = store.perform({ operation, name, query: url.searchParams, headers: incoming.headers, body })
    } catch (error) {
      const { code, message } = error instanceof S3Error ? error : new S3Error('InternalError', String(error))
      answer = { status: namedErrors[code], body: errorDocument(code, message) }
    }
    if (fault === 'error in 200') answer = { status: 200, body: errorDocument('InternalError', 'after the status') }
    send(response, answer, incoming.method === 'HEAD', fault as WireFault | undefined)
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  return {
    ...{ url, bucket, calls, switches },
    environment: { OBJECT_STORE: 's3', S3_BUCKET: bucket, AWS_ENDPOINT_URL_S3: url, ...signingEnvironment },
    versions: (name) => store.versions(name),
    get openUploads() {
      return store.openUploads
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

const bucket = 'countersign-test'

/** The errors of S3 that the server makes, or can be told to make, with their HTTP statuses. */
const namedErrors = {
  AccessDenied: 403,
  AuthorizationHeaderMalformed: 400,
  BadDigest: 400,
  ConditionalRequestConflict: 409,
  EntityTooSmall: 400,
  ExpiredToken: 400,
  InsufficientStorage: 507,
  InternalError: 500,
  InvalidAccessKeyId: 403,
  InvalidArgument: 400,
  InvalidPart: 400,
  InvalidRange: 416,
  InvalidRequest: 400,
  MissingSecurityHeader: 400,
  NoSuchBucket: 404,
  NoSuchKey: 404,
  NoSuchUpload: 404,
  NotImplemented: 501,
  PermanentRedirect: 301,
  PreconditionFailed: 412,
  RequestTimeTooSkewed: 403,
  ServiceUnavailable: 503,
  SignatureDoesNotMatch: 403,
  SlowDown: 503,
  XAmzContentSHA256Mismatch: 400,
} as const

class S3Error extends Error {
  readonly code: keyof typeof namedErrors

  constructor(code: keyof typeof namedErrors, message = `${code} by a switch`) {
    super(message)
    this.code = code
  }
}

/** By which name S3 refuses a request that is not signed as it should. */
const signatureRefusals = {
  missing: 'AccessDenied',
  incomplete: 'MissingSecurityHeader',
  skewed: 'RequestTimeTooSkewed',
  unknown: 'InvalidAccessKeyId',
  elsewhere: 'AuthorizationHeaderMalformed',
  altered: 'XAmzContentSHA256Mismatch',
  wrong: 'SignatureDoesNotMatch',
} as const

function operationOf(method: string, name: string, query: URLSearchParams): string {
  const upload = query.has('uploadId')
  switch (`${method} ${name === '' ? 'bucket' : 'object'}`) {
    case 'GET bucket':
      return query.get('list-type') === '2' ? 'ListObjectsV2' : ''
    case 'GET object':
      return 'GetObject'
    case 'HEAD object':
      return 'HeadObject'
    case 'PUT object':
      return upload ? 'UploadPart' : 'PutObject'
    case 'POST object':
      return upload ? 'CompleteMultipartUpload' : query.has('uploads') ? 'CreateMultipartUpload' : ''
    case 'DELETE object':
      return upload ? 'AbortMultipartUpload' : 'DeleteObject'
    default:
      return ''
  }
}

function takeFault(switches: S3Switches, operation: string): Fault['kind'] | undefined {
  const { fault } = switches
  if (fault === undefined || (fault.operation !== undefined && fault.operation !== operation)) return undefined
  const { kind, times, after = 0 } = fault
  if (after > 0) switches.fault = { ...fault, after: after - 1 }
  else switches.fault = times > 1 ? { ...fault, times: times - 1 } : undefined
  return after > 0 ? undefined : kind
}

function send(response: ServerResponse, answer: Answer, isHead: boolean, fault: WireFault | undefined): void {
  const body = Buffer.from(answer.body ?? '')
  const headers = {
    'x-amz-request-id': randomUUID(),
    'content-length': body.length,
    ...dateHeader(),
    ...answer.headers,
  }
  switch (fault) {
    case 'cut after':
      response.destroy()
      return
    case 'cut within':
    case 'stalled':
      response.writeHead(answer.status, headers)
      response.write(body.subarray(0, body.length / 2), () => fault === 'cut within' && response.destroy())
      return
    case 'altered':
      body[body.length >> 1] = (body[body.length >> 1] ?? 0) ^ 1
  }
  response.writeHead(answer.status, headers).end(isHead ? undefined : body)
}

/** The bucket. */
class Store {
  readonly #switches: S3Switches
  readonly #objects = new Map<string, Version[]>()
  readonly #uploads = new Map<string, Upload>()

  constructor(switches: S3Switches) {
    this.#switches = switches
  }

  versions(name: string): readonly Version[] {
    return this.#objects.get(name) ?? []
  }

  get openUploads(): number {
    return this.#uploads.size
  }

  perform(request: Request): Answer {
    switch (request.operation) {
      case 'PutObject':
        return this.#put(request)
      case 'GetObject':
      case 'HeadObject':
        return this.#get(request)
      case 'DeleteObject':
        return this.#delete(request)
      case 'ListObjectsV2':
        return this.#list(request)
      case 'CreateMultipartUpload':
        return this.#createUpload(request)
      case 'UploadPart':
        return this.#putPart(request)
      case 'CompleteMultipartUpload':
        return this.#completeUpload(request)
      case 'AbortMultipartUpload':
        this.#uploads.delete(this.#upload(request).id)
        return { status: 204 }
      default:
        throw new S3Error('NotImplemented', 'the server does not know this operation')
    }
  }

  #put({ name, headers, body }: Request): Answer {
    const checksum = checkedSum(headers, body)
    const retainUntil = this.#retention(headers)
    if (headers['if-none-match'] !== undefined && !this.#switches.ignoresIfNoneMatch) {
      if (headers['if-none-match'] !== '*') throw new S3Error('NotImplemented', 'If-None-Match takes * only')
      if (this.#current(name) !== undefined) throw new S3Error('PreconditionFailed', 'there is one')
    }
    return this.#store(name, {
      bytes: body,
      etag: etagOf(body),
      checksum,
      metadata: metadataOf(headers),
      ...retainUntil,
    })
  }

  #store(name: string, stored: Omit<Version, 'id'>): Answer {
    const version = { id: randomUUID(), ...stored }
    this.#objects.set(name, [...this.versions(name), version])
    return { status: 200, headers: { etag: version.etag, 'x-amz-version-id': version.id } }
  }

  #retention(headers: IncomingHttpHeaders): { retainUntil?: Date } {
    const { 'x-amz-object-lock-mode': mode, 'x-amz-object-lock-retain-until-date': until } = headers
    if (mode === undefined && until === undefined) return {}
    if (!this.#switches.objectLock) throw new S3Error('InvalidRequest', 'Bucket is missing Object Lock Configuration')
    const retainUntil = new Date(String(until))
    if (mode !== 'COMPLIANCE' || !(retainUntil.getTime() > Date.now())) {
      throw new S3Error('InvalidArgument', 'The retain until date must be in the future!')
    }
    return { retainUntil }
  }

  #get({ name, query, headers }: Request): Answer {
    const wanted = query.get('versionId')
    const version = wanted ? this.versions(name).find(({ id }) => id === wanted) : this.#current(name)
    if (version?.bytes === undefined) throw new S3Error(this.#switches.mayList ? 'NoSuchKey' : 'AccessDenied')
    const { bytes, etag, checksum, metadata } = version
    if (headers['if-match'] !== undefined && headers['if-match'] !== etag) throw new S3Error('PreconditionFailed')
    const described = {
      etag,
      'x-amz-version-id': version.id,
      'accept-ranges': 'bytes',
      ...Object.fromEntries(Object.entries(metadata).map(([key, value]) => [`x-amz-meta-${key}`, value])),
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? '')
    if (range === null) {
      const asked = headers['x-amz-checksum-mode'] === 'ENABLED' && checksum !== undefined
      const sum = asked ? { 'x-amz-checksum-crc32': checksum, 'x-amz-checksum-type': 'FULL_OBJECT' } : {}
      return { status: 200, headers: { ...described, ...sum }, body: bytes }
    }
    const from = Number(range[1])
    const to = Math.min(range[2] ? Number(range[2]) : Number.POSITIVE_INFINITY, bytes.length - 1)
    if (from >= bytes.length) throw new S3Error('InvalidRange', 'The requested range is not satisfiable')
    const contentRange = { 'content-range': `bytes ${from}-${to}/${bytes.length}` }
    return { status: 206, headers: { ...described, ...contentRange }, body: bytes.subarray(from, to + 1) }
  }

  #delete({ name, query }: Request): Answer {
    const wanted = query.get('versionId')
    if (wanted === null) {
      this.#store(name, { etag: '', metadata: {} })
      return { status: 204 }
    }
    const version = this.versions(name).find(({ id }) => id === wanted)
    if ((version?.retainUntil?.getTime() ?? 0) > Date.now())
      throw new S3Error('AccessDenied', 'object is WORM protected')
    this.#objects.set(
      name,
      this.versions(name).filter(({ id }) => id !== wanted),
    )
    return { status: 204 }
  }

  #list({ query }: Request): Answer {
    const prefix = query.get('prefix') ?? ''
    const after = query.get('continuation-token') ?? query.get('start-after') ?? ''
    const names = [...this.#objects.keys()]
      .filter((name) => name.startsWith(prefix) && name > after && this.#current(name))
      .sort()
    const page = names.slice(0, Math.min(Number(query.get('max-keys') ?? 1000), this.#switches.pageKeys))
    const next =
      page.length < names.length && `<NextContinuationToken>${xml(page.at(-1) ?? '')}</NextContinuationToken>`
    const contents = page.map((name) => {
      const { bytes, etag } = this.#current(name) as Version
      return `<Contents><Key>${xml(name)}</Key><Size>${bytes?.length}</Size><ETag>${xml(etag)}</ETag></Contents>`
    })
    const truncated = `<IsTruncated>${next !== false}</IsTruncated>${next || ''}`
    return document('ListBucketResult', `<Name>${bucket}</Name>${contents.join('')}${truncated}`)
  }

  #createUpload({ name, headers }: Request): Answer {
    if (headers['x-amz-checksum-algorithm'] !== 'CRC32' || headers['x-amz-checksum-type'] !== 'FULL_OBJECT') {
      throw new S3Error('NotImplemented', 'of checksums, the server knows CRC32 over the whole object')
    }
    const id = randomUUID()
    this.#uploads.set(id, { name, metadata: metadataOf(headers), parts: new Map() })
    const where = `<Bucket>${bucket}</Bucket><Key>${xml(name)}</Key>`
    return document('InitiateMultipartUploadResult', `${where}<UploadId>${id}</UploadId>`)
  }

  #putPart(request: Request): Answer {
    const { upload } = this.#upload(request)
    const part = {
      bytes: request.body,
      etag: etagOf(request.body),
      checksum: checkedSum(request.headers, request.body),
    }
    upload.parts.set(Number(request.query.get('partNumber')), part)
    return { status: 200, headers: { etag: part.etag, 'x-amz-checksum-crc32': part.checksum } }
  }

  #completeUpload(request: Request): Answer {
    const { id, upload } = this.#upload(request)
    const listed = [...String(request.body).matchAll(/<Part>(.*?)<\/Part>/gs)].map(([, part = '']) => ({
      number: Number(textOf(part, 'PartNumber')),
      etag: textOf(part, 'ETag'),
      checksum: textOf(part, 'ChecksumCRC32'),
    }))
    const parts = listed.map(({ number, etag, checksum }, index) => {
      const part = upload.parts.get(number)
      if (number !== index + 1 || part?.etag !== etag || part.checksum !== checksum) throw new S3Error('InvalidPart')
      if (number < listed.length && part.bytes.length < leastPartBytes) throw new S3Error('EntityTooSmall')
      return part
    })
    if (parts.length === 0) throw new S3Error('InvalidRequest', 'there is no part')
    const bytes = Buffer.concat(parts.map((part) => part.bytes))
    const checksum = encodeCrc32(bytes)
    if (request.headers['x-amz-checksum-crc32'] !== checksum) throw new S3Error('BadDigest', 'of the whole object')
    this.#uploads.delete(id)
    const etag = etagOf(Buffer.concat(parts.map((part) => Buffer.from(part.etag.slice(1, -1), 'hex'))))
    const numbered = etag.replace(/"$/, `-${parts.length}"`)
    this.#store(upload.name, { bytes, etag: numbered, checksum, metadata: upload.metadata })
    return document('CompleteMultipartUploadResult', `<Key>${xml(upload.name)}</Key><ETag>${xml(numbered)}</ETag>`)
  }

  #upload({ name, query }: Request): { id: string; upload: Upload } {
    const id = query.get('uploadId') ?? ''
    const upload = this.#uploads.get(id)
    if (upload?.name !== name) throw new S3Error('NoSuchUpload', 'The upload may have been aborted or completed.')
    return { id, upload }
  }

  #current(name: string): Version | undefined {
    const version = this.versions(name).at(-1)
    return version?.bytes && version
  }
}

/** Of all parts of an object but the last. */
const leastPartBytes = 5 * 1024 * 1024

/** Stricter than S3, which also takes bytes without a checksum, unless they come with Object Lock. */
function checkedSum(headers: IncomingHttpHeaders, body: Buffer): string {
  const given = headers['x-amz-checksum-crc32']
  if (given === undefined) throw new S3Error('InvalidRequest', 'x-amz-checksum-crc32 is missing')
  const checksum = encodeCrc32(body)
  if (given !== checksum) throw new S3Error('BadDigest', 'The CRC32 you specified did not match')
  return checksum
}

function encodeCrc32(bytes: Buffer): string {
  const sum = Buffer.alloc(4)
  sum.writeUInt32BE(crc32(bytes))
  return sum.toString('base64')
}

const etagOf = (bytes: Buffer): string => `"${createHash('md5').update(bytes).digest('hex')}"`

const metadataOf = (headers: IncomingHttpHeaders): Record<string, string> =>
  Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      name.startsWith('x-amz-meta-') ? [[name.slice('x-amz-meta-'.length), String(value)]] : [],
    ),
  )

const textOf = (document: string, tag: string): string =>
  (new RegExp(`<${tag}>(.*?)</${tag}>`).exec(document)?.[1] ?? '').replaceAll('&quot;', '"')

const xml = (text: string): string =>
  text.replace(/[&<>"]/g, (char) => `&${{ '&': 'amp', '<': 'lt', '>': 'gt', '"': 'quot' }[char]};`)

const document = (root: string, content: string): Answer => ({
  status: 200,
  headers: { 'content-type': 'application/xml' },
  body: `<?xml version="1.0" encoding="UTF-8"?>\n<${root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">${content}</${root}>`,
})

const errorDocument = (code: string, message: string): string =>
  `<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>${code}</Code><Message>${xml(message)}</Message></Error>`
