import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openAwsKmsKeyWrapper } from '../../src/adapters/key-wrapper-aws-kms.ts'
import { openS3ObjectStore } from '../../src/adapters/object-store-s3.ts'
import { systemClock } from '../../src/ports/clock.ts'
import { keyWrapperContract } from '../contracts/key-wrapper.ts'
import { objectStoreContract } from '../contracts/object-store.ts'

// moto imitates AWS and has never heard of us. Of KMS, it generates no key pairs, answering 500 with a page of HTML, so signing
// keys take the other way: a seed made here, under Encrypt. It heeds neither disabled keys nor policies, and runs the
// names and values of a context together, so it proves the wire and that way, and no more. Of S3, it keeps
// what is retained; it verifies neither signatures nor the checksums that come with bytes.
const present = spawnSync('moto_server', ['--help'], { stdio: 'ignore' }).status === 0
if (!present)
  console.warn('LOUD SKIP: moto_server is not installed (pip install "moto[server]"), so KMS and S3 are only ours')

describe.runIf(present)('against moto', () => {
  let moto: ChildProcess
  let endpoint: string
  let keyId: string
  beforeAll(async () => {
    moto = spawn('moto_server', ['-p', '0'], { stdio: ['ignore', 'ignore', 'pipe'] })
    endpoint = await listening(moto)
    keyId = await createKey(endpoint)
    await createBucket(endpoint, 'with-lock', { 'x-amz-bucket-object-lock-enabled': 'true' })
    await createBucket(endpoint, 'without-lock')
  })
  afterAll(async () => {
    const ended = once(moto, 'exit')
    moto.kill()
    await ended
  })

  const logger = { isLevelEnabled: () => false, debug() {}, info() {}, warn() {}, error() {} }
  const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
  const open = () => {
    // The error page is not worth repeating: every opened wrapper meets it once.
    return openAwsKmsKeyWrapper({ keyId, logger, client: { endpoint, region, credentials, maxAttempts: 1 } })
  }

  keyWrapperContract('the KMS of moto', open, { runsContextsTogether: true })

  test('the wrapping key is named by the ARN that moto gave it', async () => {
    expect((await (await open()).wrap(Uint8Array.of(1), { app: 'countersign' })).wrappingKey).toBe(keyId)
  })

  const openBucket = (bucket = 'with-lock') =>
    openS3ObjectStore({ bucket, prefix: 'relay/', clock: systemClock, client: { endpoint, region, credentials } })

  objectStoreContract('the S3 of moto', openBucket)

  test('a bucket that moto made without Object Lock is refused', async () => {
    await expect(openBucket('without-lock')).rejects.toMatchObject({ code: 's3_lock_missing' })
  })

  test('what is to be retained cannot be destroyed, and is still there after it was replaced and deleted', async () => {
    const store = await openBucket()
    await store.put('kept', Uint8Array.of(1), { retainUntil: new Date(Date.now() + 60_000) })
    const object = `${endpoint}/with-lock/relay/kept`
    const version = (await signed(object, { method: 'HEAD' })).headers.get('x-amz-version-id')
    await store.put('kept', Uint8Array.of(2))
    await store.delete('kept')
    expect(await store.find('kept')).toBeUndefined()
    const destroyed = await signed(`${object}?versionId=${version}`, { method: 'DELETE' })
    expect(destroyed.status).toBe(403)
    const kept = await signed(`${object}?versionId=${version}`)
    expect(new Uint8Array(await kept.arrayBuffer())).toEqual(Uint8Array.of(1))
  })
})

const region = 'us-east-1'

/** Resolves with the address in moto's greeting. Rejects if moto ends first. */
async function listening(moto: ChildProcess): Promise<string> {
  if (moto.stderr === null) throw new Error('moto has no stderr')
  for await (const line of createInterface(moto.stderr)) {
    const url = /Running on (http:\S+)/.exec(line)?.[1]
    if (url === undefined) continue
    moto.stderr.resume()
    return url
  }
  throw new Error('moto ended before it listened')
}

/** A request that moto takes for signed: it looks at the names in it only. */
const signed = (url: string, { service = 's3', headers = {}, ...init }: RequestInit & { service?: string } = {}) =>
  fetch(url, {
    ...init,
    headers: {
      authorization: `AWS4-HMAC-SHA256 Credential=test/20260101/${region}/${service}/aws4_request, SignedHeaders=host, Signature=0`,
      ...headers,
    },
  } as RequestInit)

async function createBucket(endpoint: string, bucket: string, headers: Record<string, string> = {}): Promise<void> {
  expect((await signed(`${endpoint}/${bucket}`, { method: 'PUT', headers })).status).toBe(200)
}

/** The ARN of a new symmetric key. The relay itself creates no keys, so this is asked without the SDK. */
async function createKey(endpoint: string): Promise<string> {
  const answer = await signed(endpoint, {
    method: 'POST',
    service: 'kms',
    headers: { 'content-type': 'application/x-amz-json-1.1', 'x-amz-target': 'TrentService.CreateKey' },
    body: '{}',
  })
  const { KeyMetadata } = (await answer.json()) as { KeyMetadata: { Arn: string } }
  return KeyMetadata.Arn
}
