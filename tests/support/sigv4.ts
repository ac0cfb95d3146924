import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'

/** The credentials that our imitations of AWS know. */
export const credentials = { accessKeyId: 'test', secretAccessKey: 'test' }
export const region = 'us-east-1'

/** What makes the AWS SDK, in this process or another, sign as our imitations want it. */
export const signingEnvironment = {
  AWS_REGION: region,
  AWS_ACCESS_KEY_ID: credentials.accessKeyId,
  AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
}

/** For every answer: the SDK corrects its clock by this header, and Node's own would not move with a test's clock. */
export const dateHeader = () => ({ date: new Date().toUTCString() })

/**
 * Verifies the signature of a request as AWS does (Signature Version 4), and that it covers the headers in `needed`.
 * Returns the name of what AWS would refuse, or undefined.
 */
export function refusedSignature(request: IncomingMessage, body: Buffer, service: string, needed: readonly string[]) {
  const { authorization, 'x-amz-date': at = '' } = request.headers
  if (authorization === undefined) return 'missing'
  const [, accessKeyId, day = '', inRegion = '', forService, names = '', signature = ''] =
    form.exec(authorization) ?? []
  const signed = names.split(';')
  if (!needed.every((name) => signed.includes(name))) return 'incomplete'
  if (!String(at).startsWith(`${day}T`)) return 'incomplete'
  const seconds = Date.parse(String(at).replace(/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z/, '$1-$2-$3T$4:$5:$6Z')) / 1000
  if (!(Math.abs(seconds - Date.now() / 1000) <= 15 * 60)) return 'skewed'
  if (accessKeyId !== credentials.accessKeyId) return 'unknown'
  if (inRegion !== region) return 'elsewhere'

  const payloadHash = String(request.headers['x-amz-content-sha256'] ?? sha256(body))
  if (/^[0-9a-f]{64}$/.test(payloadHash) && payloadHash !== sha256(body)) return 'altered'
  const [path = '/', query = ''] = (request.url ?? '/').split('?')
  const headers = signed.map((name) => `${name}:${String(request.headers[name]).trim().replace(/ +/g, ' ')}\n`)
  const canonical = [request.method, path, canonicalQuery(query), headers.join(''), names, payloadHash].join('\n')
  const scope = [day, inRegion, forService, 'aws4_request']
  const stringToSign = ['AWS4-HMAC-SHA256', at, scope.join('/'), sha256(canonical)].join('\n')
  const key = scope.reduce<string | Buffer>(
    (secret, part) => hmac(secret, String(part)),
    `AWS4${credentials.secretAccessKey}`,
  )
  const right = timingSafeEqual(hmac(key, stringToSign), Buffer.from(signature, 'hex'))
  return right && forService === service ? undefined : 'wrong'
}

const form =
  /^AWS4-HMAC-SHA256 Credential=([^/, ]+)\/(\d{8})\/([a-z0-9-]+)\/([a-z0-9]+)\/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$/

/** Sorted by name, and each name with its sign of equality. The SDK has encoded them as AWS wants it. */
const canonicalQuery = (query: string): string =>
  query
    .split('&')
    .filter(Boolean)
    .map((pair) => (pair.includes('=') ? pair : `${pair}=`))
    .sort()
    .join('&')

const sha256 = (data: string | Buffer): string => createHash('sha256').update(data).digest('hex')
const hmac = (key: string | Buffer, data: string): Buffer => createHmac('sha256', key).update(data).digest()
