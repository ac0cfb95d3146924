import { homedir } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'
import { parseCidr } from './delivery/guard.ts'
import { defaultScheduleMs, parseSchedule } from './delivery/schedule.ts'
import { OperatorError } from './errors.ts'
import { parseWitnesses, type WitnessAddress } from './log/witnesses.ts'

/**
 * What a deployment can set, read once from the environment. This page is the manual: each member names its variable,
 * its unit and its default. A value that cannot be understood is refused at start, naming the variable.
 */
export interface Config {
  /** `ROLE`: `ingress` accepts, answers and administers, and leaves deliveries to others; `delivery` forwards, and serves
   *  only /healthz, /readyz and /metrics; `all` (the default) is both. All share DATABASE_URL. */
  role: Role
  /** `WORKERS`: relay processes on this machine that share PORT, default 1. With more, a primary starts them, and starts
   *  another for one that dies; SIGHUP or SIGUSR2 replaces them one at a time. */
  workers: number
  /** `PORT`, default 8080. 0 lets the system choose (tests). */
  port: number
  /** `HOST`, default 127.0.0.1. */
  host: string
  /** `PUBLIC_URL`: how others reach the relay; the issuer of every statement and, with `/log`, the origin of the log.
   *  Fixed once the log exists. Default: what the log was created with, else `http://localhost:<PORT>`. */
  publicUrl: string | undefined
  /** `DATA_DIR`, default `./data`: embedded PostgreSQL, the local wrapping key, the object store of kind `fs`. */
  dataDir: string
  /** `DATABASE_URL`: PostgreSQL 15 or later. Absent: embedded PostgreSQL in DATA_DIR. */
  databaseUrl: string | undefined
  /** `DATABASE_POOL`: connections to PostgreSQL, default 8. */
  databasePool: number
  /** `KEY_WRAPPER`: `local` (a key file in DATA_DIR; not for production) or `aws-kms`, which needs KMS_KEY_ID and takes
   *  region, endpoint and credentials from the AWS SDK's own variables. */
  keyWrapper: 'local' | 'aws-kms'
  /** `KMS_KEY_ID`: id, ARN or alias of a symmetric KMS key. */
  kmsKeyId: string | undefined
  /** `KEY_POLICY`: how keys live, default `keys/policy.json` of the program. */
  keyPolicy: string
  /** `OBJECT_STORE`: `fs` (a folder in DATA_DIR) or `s3`, which needs S3_BUCKET and takes region, endpoint and credentials
   *  from the AWS SDK's own variables. */
  objectStore: 'fs' | 's3'
  /** `S3_BUCKET`: a bucket that was made with Object Lock. */
  s3Bucket: string | undefined
  /** `S3_PREFIX`: the folder in the bucket, for more than one relay in it; default none. Here with its last slash. */
  s3Prefix: string
  /** Whether the bucket stands in the path of URLs, not in their host: so if AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL
   *  names a store that is not AWS, as such stores mostly have one host name. */
  s3PathStyle: boolean
  /** `EGRESS_ALLOW`: comma-separated CIDRs that deliveries may go to although they are private, loopback or link-local.
   *  Default: none; but a relay on embedded PostgreSQL, the `local` wrapper and a loopback HOST allows loopback. */
  egressAllow: string[]
  /** `TRUSTED_PROXIES`: comma-separated CIDRs of the proxies in front of the relay. A call that comes from one of them is
   *  recorded with the last address in its X-Forwarded-For that is not another of them. Default: none, and the header is
   *  not looked at. */
  trustedProxies: string[]
  /** `COUNTERSIGN_ADMIN_KEY`: the first admin key. Absent: one is made at first start and printed once. */
  adminKey: string | undefined
  /** `RETRY_SCHEDULE`: delays between attempts, e.g. `5s,5m,30m,2h,5h,10h,14h,20h,24h` (the default). Milliseconds here. */
  retrySchedule: readonly number[]
  /** `MAX_PAYLOAD_BYTES`, default 1 MiB (1048576); at most 16 MiB. */
  maxPayloadBytes: number
  /** `MAX_QUEUE`: posts being accepted at once beyond which further ones are answered 503, default 5000. */
  maxQueue: number
  /** `DELIVERY_CONCURRENCY`: attempts in flight in this process, default 256. */
  deliveryConcurrency: number
  /** `DELIVERY_LEASE_S`: seconds after which deliveries of a process that died are taken over, default 60; at least 20.
   *  A process that lives renews what it holds, so attempts may take longer. */
  deliveryLeaseS: number
  /** `PAUSE_AFTER_DAYS`: an endpoint that has failed for so long without a success is paused, default 5. */
  pauseAfterDays: number
  /** `WITNESSES`: who is asked to cosign each published checkpoint, as `<vkey> <url>`, separated by commas or line ends;
   *  the URL is what comes before `/add-checkpoint`: http or https, to any address, private ones too, or to a name with
   *  a domain. Default: nobody. */
  witnesses: WitnessAddress[]
  /** `WITNESS_QUORUM`: how many of them must have cosigned a checkpoint before it is published. Default 0: it is
   *  published with the cosignatures that came in time. Receipts are answered at once either way. */
  witnessQuorum: number
  /** `LOG_LEVEL`: trace, debug, info (default), warn, error, fatal, silent. */
  logLevel: string
}

/** What a process of the relay does; each kind may run any number of times on one database. */
export type Role = 'all' | 'ingress' | 'delivery'

/** A variable that cannot be understood. The message names it. */
export class ConfigError extends OperatorError {
  override readonly name = 'ConfigError'
}

const mostWorkers = 32

const adminKeyPattern = /^cs_[a-z0-9]{8,32}_[A-Za-z0-9]{32,}$/

export function readConfig(env: NodeJS.ProcessEnv): Config {
  for (const name of Object.keys(env)) {
    if (name.startsWith('COUNTERSIGN_') && name !== 'COUNTERSIGN_ADMIN_KEY') {
      throw new ConfigError(`${name} is not a variable Countersign knows. Did you mean COUNTERSIGN_ADMIN_KEY?`)
    }
  }
  const port = wholeNumber(env, 'PORT', 8080, 0, 65535)
  const host = env.HOST || '127.0.0.1'
  const databaseUrl = env.DATABASE_URL || undefined
  if (databaseUrl !== undefined && !/^postgres(ql)?:\/\//.test(databaseUrl)) {
    throw new ConfigError('DATABASE_URL must start with postgres:// or postgresql://')
  }
  const keyWrapper = oneOf(env, 'KEY_WRAPPER', ['local', 'aws-kms'])
  const kmsKeyId = env.KMS_KEY_ID || undefined
  if (keyWrapper === 'aws-kms' && kmsKeyId === undefined) throw new ConfigError('KEY_WRAPPER=aws-kms needs KMS_KEY_ID')
  const objectStore = oneOf(env, 'OBJECT_STORE', ['fs', 's3'])
  const s3Bucket = env.S3_BUCKET || undefined
  if (objectStore === 's3' && s3Bucket === undefined) throw new ConfigError('OBJECT_STORE=s3 needs S3_BUCKET')
  const adminKey = env.COUNTERSIGN_ADMIN_KEY || undefined
  if (adminKey !== undefined && !adminKeyPattern.test(adminKey)) {
    throw new ConfigError(
      'COUNTERSIGN_ADMIN_KEY must be cs_ + 8 to 32 of a-z0-9 + _ + at least 32 of A-Za-z0-9 (value not shown)',
    )
  }
  const egressAllow = cidrs(env, 'EGRESS_ALLOW')
  if (env.EGRESS_ALLOW === undefined && databaseUrl === undefined && keyWrapper === 'local' && isLoopback(host)) {
    egressAllow.push('127.0.0.0/8', '::1/128')
  }
  const witnesses = understood('WITNESSES', () => parseWitnesses(env.WITNESSES ?? ''))
  return {
    role: oneOf(env, 'ROLE', ['all', 'ingress', 'delivery']),
    workers: wholeNumber(env, 'WORKERS', 1, 1, mostWorkers),
    port,
    host,
    publicUrl: publicUrl(env.PUBLIC_URL),
    dataDir: resolvePath(env.DATA_DIR || './data'),
    databaseUrl,
    databasePool: wholeNumber(env, 'DATABASE_POOL', 8, 2, 100),
    keyWrapper,
    kmsKeyId,
    keyPolicy: resolvePath(env.KEY_POLICY || join(import.meta.dirname, '../keys/policy.json')),
    objectStore,
    s3Bucket,
    s3Prefix: s3Prefix(env.S3_PREFIX),
    s3PathStyle: Boolean(env.AWS_ENDPOINT_URL_S3 || env.AWS_ENDPOINT_URL),
    egressAllow,
    trustedProxies: cidrs(env, 'TRUSTED_PROXIES'),
    adminKey,
    retrySchedule: env.RETRY_SCHEDULE
      ? understood('RETRY_SCHEDULE', () => parseSchedule(env.RETRY_SCHEDULE ?? ''))
      : defaultScheduleMs,
    maxPayloadBytes: wholeNumber(env, 'MAX_PAYLOAD_BYTES', 1_048_576, 1, 16_777_216),
    maxQueue: wholeNumber(env, 'MAX_QUEUE', 5000, 1, 1_000_000),
    deliveryConcurrency: wholeNumber(env, 'DELIVERY_CONCURRENCY', 256, 1, 10_000),
    deliveryLeaseS: wholeNumber(env, 'DELIVERY_LEASE_S', 60, 20, 3600),
    pauseAfterDays: wholeNumber(env, 'PAUSE_AFTER_DAYS', 5, 1, 365),
    witnesses,
    witnessQuorum: wholeNumber(env, 'WITNESS_QUORUM', 0, 0, witnesses.length),
    logLevel: oneOf(env, 'LOG_LEVEL', ['info', 'trace', 'debug', 'warn', 'error', 'fatal', 'silent']),
  }
}

function cidrs(env: NodeJS.ProcessEnv, name: string): string[] {
  const found = (env[name] ?? '')
    .split(',')
    .map((cidr) => cidr.trim())
    .filter(Boolean)
  understood(name, () => found.map(parseCidr))
  return found
}

/** A parser's own sentence, with the variable it is about. */
function understood<T>(name: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    if (error instanceof RangeError) throw new ConfigError(`${name}: ${error.message}`)
    throw error
  }
}

export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || /^127\.\d+\.\d+\.\d+$/.test(host)

function wholeNumber(env: NodeJS.ProcessEnv, name: string, absent: number, least: number, most: number): number {
  const text = env[name]
  if (text === undefined || text === '') return absent
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN
  if (!(value >= least && value <= most)) {
    throw new ConfigError(`${name} must be a whole number from ${least} to ${most}, not ${JSON.stringify(text)}`)
  }
  return value
}

/** The first of `values` is the default. */
function oneOf<T extends string>(env: NodeJS.ProcessEnv, name: string, values: readonly [T, ...T[]]): T {
  const text = env[name] || values[0]
  const value = values.find((candidate) => candidate === text)
  if (value === undefined)
    throw new ConfigError(`${name} must be one of ${values.join(', ')}, not ${JSON.stringify(text)}`)
  return value
}

function publicUrl(text: string | undefined): string | undefined {
  if (!text) return undefined
  const url = URL.parse(text)
  const plain =
    url && (url.protocol === 'http:' || url.protocol === 'https:') && !url.username && !url.search && !url.hash
  if (!plain)
    throw new ConfigError(`PUBLIC_URL must be an http or https URL without query, not ${JSON.stringify(text)}`)
  return url.href.replace(/\/+$/, '')
}

function s3Prefix(text: string | undefined): string {
  if (!text) return ''
  if (!/^[\w.-]+(\/[\w.-]+)*\/?$/.test(text) || text.length > 256) {
    throw new ConfigError(`S3_PREFIX must be a path of letters, digits, "_", "-" and ".", not ${JSON.stringify(text)}`)
  }
  return text.replace(/\/?$/, '/')
}

function resolvePath(path: string): string {
  return isAbsolute(path) ? path : path.startsWith('~/') ? resolve(homedir(), path.slice(2)) : resolve(path)
}
