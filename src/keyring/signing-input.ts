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

function admit(bytes: Buffer, prefix: 'msg_' | 'eyJ'): SigningInput {
  if (bytes.toString('latin1', 0, prefix.length) !== prefix) {
    throw new TypeError(`a signing input must start with ${prefix}`)
  }
  return bytes as Uint8Array as SigningInput
}
