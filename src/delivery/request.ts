import { createHmac } from 'node:crypto'
import type { Keyring } from '../keyring/keyring.ts'
import { httpSigningInput, type SigningInput, webhookSigningInput } from '../keyring/signing-input.ts'
import type { Endpoint, HmacSecret } from '../tenant/records.ts'
import type { Freight } from './delivery.ts'

/** The headers of one attempt, and the kid of the key that signed it. */
export interface ForwardedRequest {
  readonly headers: Readonly<Record<string, string>>
  readonly kid: string
}

/** Which attempt of which message: numbered from 1, and signed for the time it is made. */
export interface AttemptFacts {
  readonly messageId: string
  readonly number: number
  readonly at: Date
  /** What this delivery was replayed by, or null. */
  readonly replay: string | null
}

/**
 * The headers that go with the payload (DESIGN.md section 2). Everyone gets `v1a` by the active key; what an endpoint
 * asked for beside it costs that endpoint alone.
 */
export async function forwardedRequest(
  keyring: Keyring,
  { url, options, secrets }: Endpoint,
  { payload, contentType, sha256, receipt }: Freight,
  { messageId, number, at, replay }: AttemptFacts,
): Promise<ForwardedRequest> {
  const { rfc9421, hmac, retiringKey } = options.signatures
  const timestampS = Math.floor(at.getTime() / 1000)
  const input = webhookSigningInput(messageId, timestampS, payload)
  const [active, retiring] = retiringKey
    ? await Promise.all([keyring.sign(() => input), keyring.signRetiring(input)])
    : [await keyring.sign(() => input), undefined]
  let signatures = `v1a,${base64(active.signature)}`
  if (retiring !== undefined) signatures += ` v1a,${base64(retiring.signature)}`
  if (hmac) for (const signature of hmacSignatures(secrets.hmac, input, at)) signatures += ` ${signature}`
  const headers: SentHeaders = {
    ...secrets.headers, // first, so that none can stand in for one of ours
    'content-type': contentType,
    'content-digest': `sha-256=:${base64(sha256)}:`,
    'webhook-id': messageId,
    'webhook-timestamp': String(timestampS),
    'webhook-signature': signatures,
    'webhook-key-id': retiring === undefined ? active.kid : `${active.kid} ${retiring.kid}`,
    'webhook-receipt': receipt,
    'webhook-attempt': String(number),
  }
  if (replay !== null) headers['webhook-replay'] = replay
  if (rfc9421) Object.assign(headers, await httpSignature(keyring, url, headers, timestampS))
  return { headers, kid: active.kid }
}

type SentHeaders = Record<SignedField, string> & Record<string, string>

/** Standard Webhooks `v1`: HMAC-SHA256 by each secret that is in use, over what `v1a` signs. */
const hmacSignatures = (secrets: readonly HmacSecret[], input: SigningInput, at: Date): string[] =>
  secrets
    .filter(({ until }) => until === null || Date.parse(until) > at.getTime())
    .map(({ secret }) => {
      const key = Buffer.from(secret.slice('whsec_'.length), 'base64')
      return `v1,${createHmac('sha256', key).update(input).digest('base64')}`
    })

type SignedField = 'content-type' | 'content-digest' | 'webhook-id' | 'webhook-timestamp'

/** RFC 9421, one signature under the label that every library expects. */
async function httpSignature(
  keyring: Keyring,
  url: string,
  headers: Readonly<Record<SignedField, string>>,
  createdS: number,
): Promise<Record<string, string>> {
  const fields: Record<SignedField, string> = {
    'content-type': headers['content-type'],
    'content-digest': headers['content-digest'],
    'webhook-id': headers['webhook-id'],
    'webhook-timestamp': headers['webhook-timestamp'],
  }
  let parameters = ''
  const { signature } = await keyring.sign((kid) => {
    const base = httpSigningInput({ url: new URL(url), fields, createdS, kid })
    parameters = base.parameters
    return base.input
  })
  return { 'signature-input': `sig1=${parameters}`, signature: `sig1=:${base64(signature)}:` }
}

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64')
