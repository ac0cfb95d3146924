import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { openS3ObjectStore, type S3Options } from '../../src/adapters/object-store-s3.ts'
import { systemClock } from '../../src/ports/clock.ts'
import { deadUrl } from '../support/receiver.ts'
import { type S3Server, startS3Server } from '../support/s3-server.ts'
import { chunksOf, collect, keysOf, objectStoreContract, pattern } from './object-store.ts'

let server: S3Server
beforeAll(async () => {
  server = await startS3Server()
})
afterAll(() => server.stop())

// The adapter is set up as in a deployment: by the environment.
beforeEach(() => {
  for (const [name, value] of Object.entries(server.environment)) vi.stubEnv(name, value)
  const well = { objectLock: true, mayList: true, ignoresIfNoneMatch: false, pageKeys: 1000 }
  Object.assign(server.switches, { fault: undefined, ...well })
  server.calls.length = 0
})
afterEach(() => {
  vi.unstubAllEnvs()
})

const open = (options: Partial<S3Options> = {}) =>
  openS3ObjectStore({ bucket: server.bucket, prefix: '', clock: systemClock, ...options })

/** An opened store, and nothing in the server's list of calls. */
async function opened(options: Partial<S3Options> = {}) {
  const store = await open(options)
  server.calls.length = 0
  return store
}

const operations = (): string[] => server.calls.map(({ operation }) => operation)
const refusedAs = (code: string) => expect.objectContaining({ name: 'S3Refused', code })
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text)
const mebibyte = 1024 * 1024
const once = { client: { maxAttempts: 1 } }
const hasty = { bounds: { attemptTimeoutMs: 200, deadlineMs: 20_000 } }

objectStoreContract('a bucket', open)

objectStoreContract('a part of a bucket, listed in small pages', () => {
  server.switches.pageKeys = 2
  return open({ prefix: 'deployments/One_of.many/' })
})

describe('opening a bucket', () => {
  it('leaves one object behind, however often, which is retained', async () => {
    const prefix = 'opened/'
    for (let start = 0; start < 3; start++) await open({ prefix })
    const versions = server.versions('opened/self-test/probe')
    expect(versions).toHaveLength(1)
    expect(versions[0]?.retainUntil?.getTime()).toBeGreaterThan(Date.now())
  })

  it.each<[string, string, Partial<S3Server['switches']>]>([
    ['that has no Object Lock', 's3_lock_missing', { objectLock: false }],
    ['that tells nobody what is absent', 's3_access_denied', { mayList: false }],
    ['whose conditional puts replace', 's3_unsupported', { ignoresIfNoneMatch: true }],
    ['that may not be read', 's3_access_denied', { fault: { kind: 'AccessDenied', times: 1, operation: 'GetObject' } }],
    [
      'that may not be written',
      's3_access_denied',
      { fault: { kind: 'AccessDenied', times: 1, operation: 'PutObject' } },
    ],
    ['in another Region', 's3_wrong_region', { fault: { kind: 'PermanentRedirect', times: 1 } }],
    ['on a full disk', 's3_full', { fault: { kind: 'InsufficientStorage', times: 1, operation: 'PutObject' } }],
  ])('refuses one %s, in one sentence or two', async (_, code, switches) => {
    Object.assign(server.switches, switches)
    const refusal = open({ prefix: `${code}/` })
    await expect(refusal).rejects.toEqual(refusedAs(code))
    await expect(refusal).rejects.toThrow(/^[A-Z][^\n]+\. \(s3_\w+: [^\n]+\)$/)
  })

  it('refuses one that does not exist', async () => {
    await expect(open({ bucket: 'another' })).rejects.toEqual(refusedAs('s3_bucket_not_found'))
  })

  it('refuses one in which something else stands where it tries', async () => {
    const store = await open()
    await store.put('taken/self-test/probe', bytes('x'))
    await expect(open({ prefix: 'taken/' })).rejects.toEqual(refusedAs('s3_damaged'))
  })

  it('finds the bucket in the path, at an endpoint with one host name for all of them', async () => {
    vi.stubEnv('AWS_ENDPOINT_URL_S3', server.url.replace('127.0.0.1', 'localhost'))
    await open({ pathStyle: true })
    await expect(open(once)).rejects.toEqual(refusedAs('s3_unreachable'))
  })

  it('refuses an endpoint where nobody listens', async () => {
    vi.stubEnv('AWS_ENDPOINT_URL_S3', await deadUrl())
    await expect(open(once)).rejects.toEqual(refusedAs('s3_unreachable'))
  })

  it('refuses wrong credentials, a wrong Region, and none', async () => {
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'another')
    await expect(open()).rejects.toEqual(refusedAs('s3_credentials_refused'))
    vi.stubEnv('AWS_ACCESS_KEY_ID', 'test')
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'another')
    await expect(open()).rejects.toEqual(refusedAs('s3_credentials_refused'))
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', 'test')
    vi.stubEnv('AWS_REGION', 'eu-west-1')
    await expect(open()).rejects.toEqual(refusedAs('s3_wrong_region'))
    for (const name of ['AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE']) vi.stubEnv(name, '/dev/null')
    vi.stubEnv('AWS_REGION', undefined)
    await expect(open()).rejects.toEqual(refusedAs('s3_region_missing'))
    vi.stubEnv('AWS_REGION', 'us-east-1')
    vi.stubEnv('AWS_EC2_METADATA_DISABLED', 'true')
    vi.stubEnv('AWS_ACCESS_KEY_ID', undefined)
    await expect(open()).rejects.toEqual(refusedAs('s3_credentials_missing'))
  })
})

describe('a fault of S3', () => {
  const repeated = ['SlowDown', 'InternalError', 'ServiceUnavailable', 'cut before', 'cut after', 'silent'] as const

  it.each(repeated)('of the kind %s is outlasted by every call', async (kind) => {
    const store = await opened(hasty)
    const key = `outlasts/${kind.toLowerCase().replace(' ', '-')}`
    const strike = () => Object.assign(server.switches, { fault: { kind, times: 1 } })
    strike()
    await store.put(key, bytes('x'))
    strike()
    expect(await store.find(key)).toEqual(bytes('x'))
    strike()
    expect(await store.stat(key)).toEqual({ bytes: 1 })
    strike()
    expect(await keysOf(store, key)).toEqual([key])
    strike()
    await store.delete(key)
    expect(await store.find(key)).toBeUndefined()
    expect(operations()).toHaveLength(11)
  })

  it.each([
    ['AccessDenied', 's3_access_denied'],
    ['BadDigest', 's3_damaged'],
    ['ExpiredToken', 's3_credentials_expired'],
    ['InsufficientStorage', 's3_full'],
    ['InternalError', 's3_unavailable'],
    ['NoSuchBucket', 's3_bucket_not_found'],
    ['NotImplemented', 's3_unsupported'],
    ['PermanentRedirect', 's3_wrong_region'],
    ['SignatureDoesNotMatch', 's3_credentials_refused'],
    ['SlowDown', 's3_throttled'],
    ['silent', 's3_timeout'],
    ['cut before', 's3_unreachable'],
  ] as const)('of the kind %s is told as %s, with what AWS said as its cause', async (kind, code) => {
    const store = await opened({ ...hasty, ...once })
    server.switches.fault = { kind, times: 1 }
    const refusal = store.put('refused', bytes('x'))
    await expect(refusal).rejects.toEqual(refusedAs(code))
    await expect(refusal).rejects.toHaveProperty('cause.message')
  })

  it('ends at the deadline', async () => {
    const store = await opened({ bounds: { attemptTimeoutMs: 60_000, deadlineMs: 300 } })
    server.switches.fault = { kind: 'silent', times: 100 }
    await expect(store.put('late', bytes('x'))).rejects.toEqual(refusedAs('s3_timeout'))
  })

  it('is not outlasted for ever', async () => {
    const store = await opened({ client: { maxAttempts: 3 } })
    server.switches.fault = { kind: 'SlowDown', times: 100 }
    await expect(store.put('slow', bytes('x'))).rejects.toEqual(refusedAs('s3_throttled'))
    expect(operations()).toHaveLength(3)
  })

  it('that a repetition would not mend is not repeated: a disk is full, and then is not', async () => {
    const store = await opened()
    server.switches.fault = { kind: 'InsufficientStorage', times: 1 }
    await expect(store.put('grown', bytes('x'))).rejects.toEqual(refusedAs('s3_full'))
    expect(operations()).toEqual(['PutObject'])
    expect(await store.find('grown')).toBeUndefined()
    await store.put('grown', bytes('x'))
    expect(await store.find('grown')).toEqual(bytes('x'))
  })
})

describe('a conditional put', () => {
  it('whose answer was lost says that it stored, once it finds its own object in the way', async () => {
    const store = await opened()
    server.switches.fault = { kind: 'cut after', times: 1 }
    expect(await store.putIfAbsent('lost/answer', bytes('mine'))).toBe('stored')
    expect(operations()).toEqual(['PutObject', 'PutObject', 'HeadObject'])
    expect(server.versions('lost/answer')).toHaveLength(1)
  })

  it('that was cut off before it was done says what is there, even of the same bytes', async () => {
    const store = await opened()
    await store.putIfAbsent('taken', bytes('same'))
    server.switches.fault = { kind: 'cut before', times: 1 }
    expect(await store.putIfAbsent('taken', bytes('same'))).toBe('exists')
  })

  it('is repeated while others write the same object', async () => {
    const store = await opened()
    server.switches.fault = { kind: 'ConditionalRequestConflict', times: 3 }
    expect(await store.putIfAbsent('contended', bytes('x'))).toBe('stored')
    server.switches.fault = { kind: 'ConditionalRequestConflict', times: 100 }
    await expect(store.putIfAbsent('contended', bytes('x'))).rejects.toEqual(refusedAs('s3_conflict'))
  })
})

describe('retention', () => {
  it('is COMPLIANCE until the time given, on the version that was put', async () => {
    const store = await open()
    const retainUntil = new Date(Date.now() + 60_000)
    await store.putIfAbsent('kept/checkpoint', bytes('first'), { retainUntil })
    await store.put('kept/checkpoint', bytes('second'))
    await store.delete('kept/checkpoint')
    const [first, second, marker] = server.versions('kept/checkpoint')
    expect(first).toMatchObject({ bytes: Buffer.from('first'), retainUntil })
    expect(second).not.toHaveProperty('retainUntil')
    expect(marker).not.toHaveProperty('bytes')
  })
})

describe('reading', () => {
  const whole = pattern(3 * mebibyte)

  it.each(['cut within', 'stalled'] as const)('goes on where the body was %s, with the same object', async (kind) => {
    const store = await opened(hasty)
    await store.put('resumed', whole)
    for (const range of [undefined, { from: 1000 }, { from: 5, to: 2 * mebibyte }]) {
      server.calls.length = 0
      server.switches.fault = { kind, times: 2 }
      const seen = await collect(store.read('resumed', range))
      expect(Buffer.compare(seen, whole.subarray(range?.from, (range?.to ?? whole.length) + 1))).toBe(0)
      expect(operations()).toEqual(['GetObject', 'GetObject', 'GetObject'])
    }
  })

  it('goes on however often, as long as something comes each time', async () => {
    const store = await opened()
    await store.put('piecemeal', whole)
    server.switches.fault = { kind: 'cut within', times: 8 }
    expect(Buffer.compare((await store.find('piecemeal')) ?? new Uint8Array(), whole)).toBe(0)
  })

  it('gives up on bodies that end again and again', async () => {
    const store = await opened(hasty)
    await store.put('hopeless', bytes('x'))
    server.switches.fault = { kind: 'cut within', times: 100 }
    await expect(store.find('hopeless')).rejects.toEqual(refusedAs('s3_unreachable'))
    expect(operations().filter((operation) => operation === 'GetObject')).toHaveLength(4)
  })

  it('refuses what was altered on the way, also when the body was cut off as well', async () => {
    const store = await opened()
    await store.put('altered', whole)
    server.switches.fault = { kind: 'altered', times: 1 }
    await expect(store.find('altered')).rejects.toEqual(refusedAs('s3_damaged'))
    const cutThenAltered = async () => {
      let seen = 0
      for await (const chunk of store.read('altered')) {
        if (seen === 0) server.switches.fault = { kind: 'altered', times: 1 }
        seen += chunk.length
      }
    }
    server.switches.fault = { kind: 'cut within', times: 1 }
    await expect(cutThenAltered()).rejects.toEqual(refusedAs('s3_damaged'))
    expect(await store.find('altered')).toEqual(whole)
  })

  it('does not mix an object with the one that replaced it', async () => {
    const store = await opened()
    await store.put('mixed', whole)
    server.switches.fault = { kind: 'cut within', times: 1 }
    const reading = async () => {
      let seen = 0
      for await (const chunk of store.read('mixed')) {
        if (seen === 0) await store.put('mixed', whole.toReversed())
        seen += chunk.length
      }
    }
    await expect(reading()).rejects.toEqual(refusedAs('s3_precondition'))
  })
})

describe('writing in parts', () => {
  const whole = pattern(18 * mebibyte)
  const write = async (key: string, options: Partial<S3Options> = {}) => {
    const store = await opened(options)
    await store.write(key, chunksOf(whole, mebibyte))
    return store
  }

  it('sends parts of 8 MiB, and what is smaller as one object', async () => {
    const store = await write('parts/of-eight')
    const parts = ['CreateMultipartUpload', 'UploadPart', 'UploadPart', 'UploadPart', 'CompleteMultipartUpload']
    expect(operations()).toEqual(parts)
    server.calls.length = 0
    await store.write('parts/none', chunksOf(whole.subarray(0, 1000), 10))
    expect(operations()).toEqual(['PutObject'])
  })

  it.each(['CreateMultipartUpload', 'UploadPart', 'CompleteMultipartUpload'])(
    'outlasts faults of %s, and leaves one whole object',
    async (operation) => {
      for (const kind of ['SlowDown', 'cut before', 'cut after'] as const) {
        const key = `outlasting/${operation}/${kind}`.toLowerCase().replace(' ', '-')
        server.switches.fault = { kind, times: 1, operation }
        const store = await write(key)
        expect(server.switches.fault).toBeUndefined()
        expect(Buffer.compare((await store.find(key)) ?? new Uint8Array(), whole)).toBe(0)
        expect(server.versions(key)).toHaveLength(1)
      }
    },
  )

  it('takes no error for success because of its status', async () => {
    server.switches.fault = { kind: 'error in 200', times: 1, operation: 'CompleteMultipartUpload' }
    const store = await write('parts/error-in-200')
    expect(await store.stat('parts/error-in-200')).toEqual({ bytes: whole.length })
  })

  it.each(['UploadPart', 'CompleteMultipartUpload'])('aborts the upload when %s is refused', async (operation) => {
    const before = server.openUploads
    server.switches.fault = { kind: 'InsufficientStorage', times: 1, operation }
    await expect(write('parts/refused')).rejects.toEqual(refusedAs('s3_full'))
    expect(server.openUploads).toBe(before)
    expect(server.versions('parts/refused')).toEqual([])
  })

  it('says so when the upload was aborted by another', async () => {
    server.switches.fault = { kind: 'NoSuchUpload', times: 1, operation: 'CompleteMultipartUpload' }
    await expect(write('parts/aborted')).rejects.toEqual(refusedAs('s3_upload_absent'))
  })
})
