import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openAwsKmsKeyWrapper } from '../../src/adapters/key-wrapper-aws-kms.ts'
import { keyWrapperContract } from '../contracts/key-wrapper.ts'

// moto imitates AWS and has never heard of us. It generates no key pairs, answering 500 with a page of HTML, so signing
// keys take the other way: a seed made here, under Encrypt. It heeds neither disabled keys nor policies, and runs the
// names and values of a context together, so it proves the wire and that way, and no more.
const present = spawnSync('moto_server', ['--help'], { stdio: 'ignore' }).status === 0
if (!present) console.warn('LOUD SKIP: moto_server is not installed (pip install "moto[server]"), so KMS is only ours')

describe.runIf(present)('against moto', () => {
  let moto: ChildProcess
  let endpoint: string
  let keyId: string
  beforeAll(async () => {
    moto = spawn('moto_server', ['-p', '0'], { stdio: ['ignore', 'ignore', 'pipe'] })
    endpoint = await listening(moto)
    keyId = await createKey(endpoint)
  })
  afterAll(async () => {
    const ended = once(moto, 'exit')
    moto.kill()
    await ended
  })

  const logger = { debug() {}, info() {}, warn() {}, error() {} }
  const open = () => {
    const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
    // The error page is not worth repeating: every opened wrapper meets it once.
    return openAwsKmsKeyWrapper({ keyId, logger, client: { endpoint, region, credentials, maxAttempts: 1 } })
  }

  keyWrapperContract('the KMS of moto', open, { runsContextsTogether: true })

  test('the wrapping key is named by the ARN that moto gave it', async () => {
    expect((await (await open()).wrap(Uint8Array.of(1), { app: 'countersign' })).wrappingKey).toBe(keyId)
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

/** The ARN of a new symmetric key. The relay itself creates no keys, so this is asked without the SDK. */
async function createKey(endpoint: string): Promise<string> {
  const answer = await fetch(endpoint, {
    method: 'POST',
    headers: {
      'content-type': 'application/x-amz-json-1.1',
      'x-amz-target': 'TrentService.CreateKey',
      authorization: `AWS4-HMAC-SHA256 Credential=test/20260101/${region}/kms/aws4_request, SignedHeaders=host, Signature=0`,
    },
    body: '{}',
  })
  const { KeyMetadata } = (await answer.json()) as { KeyMetadata: { Arn: string } }
  return KeyMetadata.Arn
}
