import { afterAll, afterEach, beforeAll } from 'vitest'
import { openAwsKmsKeyWrapper } from '../../src/adapters/key-wrapper-aws-kms.ts'
import { type KmsServer, startKmsServer } from '../support/kms-server.ts'
import { keyWrapperContract } from './key-wrapper.ts'
let server: KmsServer
beforeAll(async () => { server = await startKmsServer() })
afterAll(() => server.stop())
const logger = { debug() {}, info() {}, warn() {}, error() {} }
keyWrapperContract('KMS', () => openAwsKmsKeyWrapper({ keyId: server.keyId, logger, client: { endpoint: server.url, region: 'us-east-1', credentials: { accessKeyId: 'test', secretAccessKey: 'test' } } }))
