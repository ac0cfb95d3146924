import { RelayError } from '../errors.ts'

declare const exact: unique symbol

/** The bytes of a payload exactly as they were posted: hashed, stored and forwarded so, never looked into. Only
 *  {@link takeExactly} makes one. */
export type ExactPayload = Uint8Array & { readonly [exact]: 'exact payload' }

/**
 * Takes a body as it came, of whatever media type its sender says it is. Throws `payload_empty`, and
 * `media_type_unsupported` for a Content-Type that is none: receivers are sent the very same header.
 */
export function takeExactly(raw: Uint8Array, contentType: string | undefined) {
  if (raw.length === 0) throw new RelayError('payload_empty', { offset: 0 })
  const stated = contentType ?? unstated
  if (stated.length > maxContentTypeLength || !mediaType.test(stated)) throw new RelayError('media_type_unsupported')
  return { payload: raw as ExactPayload, contentType: stated, value: undefined }
}

/** A recipient may assume this where nothing is said (RFC 9110 §8.3). */
const unstated = 'application/octet-stream'

const maxContentTypeLength = 255

const token = "[\\w!#$%&'*+.^`|~-]+"
const quoted = '"(?:[\\t !#-\\[\\]-~]|\\\\[\\t -~])*"'

/** RFC 9110 §8.3.1: `type/subtype` and parameters, in ASCII. */
const mediaType = new RegExp(`^${token}/${token}(?:[ \\t]*;[ \\t]*(?:${token}=(?:${token}|${quoted}))?)*$`)
