/**
 * What the adapters of AWS services have in common: bounds, a deadline that holds, and one sentence for each thing that
 * AWS, its SDK or the network refuse.
 */
export interface Bounds {
  /** One HTTP attempt, until the head of its answer. */
  readonly attemptTimeoutMs: number
  /** One call: finding credentials, every attempt, the waits between them and reading the answer. */
  readonly deadlineMs: number
}

/** For the constructor of a client: calls are repeated by the SDK after throttling, 5xx and lost connections, with
 *  growing random waits in between. */
export const sdkSettings = ({ attemptTimeoutMs }: Bounds) => ({
  retryMode: 'standard',
  maxAttempts: 5,
  // Without throwOnRequestTimeout the SDK would only write a warning, to the console.
  requestHandler: { connectionTimeout: 2000, requestTimeout: attemptTimeoutMs, throwOnRequestTimeout: true },
})

/** Rejects with a `TimeoutError` when the deadline is over; `operation` is aborted then. */
export async function beforeDeadline<T>(
  { deadlineMs }: Bounds,
  operation: (within: { abortSignal: AbortSignal }) => Promise<T>,
): Promise<T> {
  const aborter = new AbortController()
  // The SDK heeds the signal in most places; looking for credentials is not one of them.
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(() => {
    const reason = new DOMException(`nothing came of it in ${deadlineMs} ms`, 'TimeoutError')
    aborter.abort(reason)
    late.reject(reason)
  }, deadlineMs)
  try {
    return await Promise.race([operation({ abortSignal: aborter.signal }), late.promise])
  } finally {
    clearTimeout(timer)
  }
}

/** By what an operator does about it: the sentence, and then the names that AWS, the SDK and Node have for it. */
type Refusal = readonly [sentence: string, ...names: string[]]

/** What every service refuses alike. `{service}` and `{SERVICE}` stand for its name in prose and in variables. */
const shared = {
  throttled: [
    '{service} is throttling this account. Try again later, and ask AWS for a higher request quota if it lasts.',
    ...['ThrottlingException', 'Throttling', 'ThrottledException', 'TooManyRequestsException'],
    ...['LimitExceededException', 'SlowDown', 'RequestLimitExceeded'],
  ],
  unavailable: [
    '{service} is not available. Try again later, and see the health page of AWS for the Region.',
    ...['KeyUnavailableException', 'DependencyTimeoutException', 'KMSInternalException', 'InternalError'],
    ...['InternalFailure', 'ServiceUnavailable', 'ServiceUnavailableException'],
  ],
  credentials_missing: [
    'There are no AWS credentials. Give the process a role, or set the variables of the AWS SDK.',
    ...['CredentialsProviderError', 'TokenProviderError', 'MissingAuthenticationToken'],
    ...['MissingAuthenticationTokenException', 'MissingSecurityHeader'],
  ],
  credentials_expired: [
    'The AWS credentials have expired. Renew them, or use a role, which renews itself.',
    ...['ExpiredTokenException', 'ExpiredToken'],
  ],
  credentials_refused: [
    'AWS does not accept the credentials. Check the access key and its secret, and the clock of this machine.',
    ...['UnrecognizedClientException', 'InvalidClientTokenId', 'InvalidSignatureException', 'SignatureDoesNotMatch'],
    ...['IncompleteSignatureException', 'IncompleteSignature', 'RequestExpired', 'RequestTimeTooSkewed'],
    ...['InvalidAccessKeyId', 'InvalidToken'],
  ],
  region_missing: ['There is no AWS Region. Set AWS_REGION to the Region to use {service} in.', 'RegionMissing'],
  timeout: [
    '{service} did not answer in time. Check the route to its endpoint: NAT, VPC endpoint, security groups, proxy.',
    ...['ETIMEDOUT', 'TimeoutError', 'AbortError', 'RequestTimeout', 'RequestTimeoutException'],
  ],
  unreachable: [
    '{service} cannot be reached. Check AWS_REGION, AWS_ENDPOINT_URL_{SERVICE}, name resolution and the network.',
    ...['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'EHOSTUNREACH', 'ENETUNREACH', 'ENOTFOUND', 'EAI_AGAIN'],
  ],
  certificate_refused: [
    'The endpoint of {service} shows a certificate that is not trusted. Check for a proxy, and the clock of this machine.',
    ...['CERT_HAS_EXPIRED', 'CERT_NOT_YET_VALID', 'ERR_TLS_CERT_ALTNAME_INVALID', 'SELF_SIGNED_CERT_IN_CHAIN'],
    ...['DEPTH_ZERO_SELF_SIGNED_CERT', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY'],
  ],
  error_page: [
    'An error page came instead of an answer. Check AWS_ENDPOINT_URL_{SERVICE} and proxies on the way to {service}.',
    'ErrorPage',
  ],
  answer_unusable: [
    'The answer is not one that {service} gives. Check AWS_ENDPOINT_URL_{SERVICE} and proxies on the way to {service}.',
    'SyntaxError',
  ],
  failed: ['{service} failed in a way the relay does not know. See the cause, and report it.'],
} as const satisfies Record<string, Refusal>

type AwsService = 'KMS' | 'S3'
type SharedCode<Service extends AwsService> = `${Lowercase<Service>}_${keyof typeof shared}`

/** The table of one service: its own refusals, and those that all share under its name. */
export class AwsRefusals<Service extends AwsService, Own extends string> {
  readonly #service: Service
  readonly #sentences = new Map<string, string>()
  readonly #codes = new Map<string, Own | SharedCode<Service>>()

  constructor(service: Service, own: Readonly<Record<Own, Refusal>>) {
    this.#service = service
    const spell = (text: string) => text.replaceAll('{service}', service).replaceAll('{SERVICE}', service)
    for (const [name, refusal] of Object.entries(shared))
      this.#add(this.#shared(name as keyof typeof shared), refusal, spell)
    for (const [code, refusal] of Object.entries<Refusal>(own)) this.#add(code as Own, refusal)
  }

  /** The sentence of this code, and then what was refused. */
  tell(code: Own | SharedCode<Service>, what: string): string {
    return `${this.#sentences.get(code)} (${code}: ${what})`
  }

  /**
   * Reads an error of the SDK. `cause` is fit to be logged: the error itself is not passed on, since it holds the raw
   * answer, and the message of a parse error quotes from it, which may be from a key.
   */
  read(error: unknown): { code: Own | SharedCode<Service>; name: string; cause: Error } {
    const failed = this.#shared('failed')
    if (!(error instanceof Error)) return { code: failed, name: typeof error, cause: new Error(typeof error) }
    const { code, $metadata } = error as SdkError
    const serverFailed = ($metadata?.httpStatusCode ?? 0) >= 500
    let name = typeof code === 'string' ? code : error.name
    if (error.message === 'Region is missing') name = 'RegionMissing' // the SDK has no name for it
    if (error instanceof SyntaxError && serverFailed) name = 'ErrorPage'
    const known =
      this.#codes.get(name) ?? this.#codes.get(error.name) ?? this.#codes.get(`${$metadata?.httpStatusCode}`)
    const quotes = error instanceof SyntaxError || error instanceof TypeError
    const facts = [error.name, quotes ? undefined : error.message, $metadata?.requestId]
    const cause = new Error(facts.filter(Boolean).join(': '))
    return { code: known ?? (serverFailed ? this.#shared('unavailable') : failed), name, cause }
  }

  #shared(name: keyof typeof shared): SharedCode<Service> {
    return `${this.#service.toLowerCase() as Lowercase<Service>}_${name}`
  }

  #add(code: Own | SharedCode<Service>, [sentence, ...names]: Refusal, spell = (text: string) => text): void {
    this.#sentences.set(code, spell(sentence))
    for (const name of names) this.#codes.set(name, code)
  }
}

interface SdkError extends Error {
  readonly code?: unknown
  readonly $metadata?: { readonly httpStatusCode?: number; readonly requestId?: string }
}
