declare const exact: unique symbol

/**
 * The exact bytes that a payload key may sign. There are three makers, and what each makes starts differently, so a
 * signature over one kind can never pass for another: a v1a input starts `msg_`, a JWS input `eyJ`, and an RFC 9421
 * base `"`. Anything else is refused here, which is what "the keys sign nothing else" means in code.
 */
export type SigningInput = Uint8Array & { readonly [exact]: 'signing input' }

/** Standard Webhooks: `id.timestamp.body`. `timestampS` is unix seconds. */
export function webhookSigningInput(messageId: string, timestampS: number, body: Uint8Array): SigningInput {
  if (messageId.includes('.') || !Number.isSafeInteger(timestampS)) throw new TypeError('id or timestamp out of form')
  const head = Buffer.from(`${messageId}.${timestampS}.`, 'latin1')
  return admit(Buffer.concat([head, body]), 'msg_')
}

/** RFC 7515 §5.1: `base64url(protected).base64url(payload)`, both already encoded. */
export const jwsSigningInput = (protectedHeader: string, payload: string): SigningInput =>
  admit(Buffer.from(`${protectedHeader}.${payload}`, 'latin1'), 'eyJ')

/** A request as RFC 9421 sees it: the method is POST. */
export interface SignedRequest {
  readonly url: URL
  /** The header fields that are signed, names in lower case, in order. */
  readonly fields: Readonly<Record<string, string>>
  /** Unix seconds. */
  readonly createdS: number
  readonly kid: string
}

/**
 * RFC 9421 §2.5: the signature base, and the value of `signature-input` that says what it covers. The components are
 * those that the common libraries agree on: `@query` only where there is one, no `@target-uri`, which they build in
 * different ways, and no parameter `alg`, which some refuse (§3.3.7 takes the algorithm from the key).
 */
export function httpSigningInput({ url, fields, createdS, kid }: SignedRequest): {
  input: SigningInput
  parameters: string
} {
  const components = {
    '@method': 'POST',
    '@authority': url.host, // the URL parser has put it into lower case, without the default port (§2.2.3)
    '@path': url.pathname,
    ...(url.search !== '' && { '@query': url.search }),
    ...fields,
  }
  const names = Object.keys(components).map((name) => `"${name}"`)
  const parameters = `(${names.join(' ')});created=${createdS};keyid="${kid}";tag="webhook-relay"`
  const lines = Object.entries(components).map(([name, value]) => `"${name}": ${value}`)
  const base = [...lines, `"@signature-params": ${parameters}`].join('\n')
  return { input: admit(Buffer.from(base, 'latin1'), '"'), parameters }
}

function admit(bytes: Buffer, prefix: 'msg_' | 'eyJ' | '"'): SigningInput {
  if (bytes.toString('latin1', 0, prefix.length) !== prefix) {
    throw new TypeError(`a signing input must start with ${prefix}`)
  }
  return bytes as Uint8Array as SigningInput
}
