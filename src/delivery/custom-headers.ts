/** Names that a tenant may give a header of its own, in lower case. */
const allowed = /^(?:authorization|api-key|user-agent|x-[a-z0-9][a-z0-9-]{0,60})$/

/** Of those, what proxies and servers take as told by a proxy they trust, or act on by themselves. */
const refused =
  /^x-(?:forwarded-.*|real-ip|client-ip|original-.*|rewrite-url|http-method.*|method-override|aws-.*|amz.*|google-.*|countersign-.*|webhook-.*)$/

/** RFC 9110 §5.5, visible ASCII and spaces within: what every server takes alike. */
const fieldValue = /^[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?$/

const mostHeaders = 20

/** Names and values together, in bytes: many servers take 8 KiB of headers in all, and ours come on top. */
const mostBytes = 6 * 1024

/**
 * The custom headers after a change: null removes one, names are put into lower case. Throws `RangeError` with the name
 * of what cannot be sent, and never with a value.
 */
export function changeHeaders(
  before: Readonly<Record<string, string>>,
  change: Readonly<Record<string, string | null>>,
): Record<string, string> {
  const headers = new Map(Object.entries(before))
  for (const [given, value] of Object.entries(change)) {
    const name = given.toLowerCase()
    if (value === null) headers.delete(name)
    else headers.set(checked(name, value), value)
  }
  const bytes = [...headers].reduce((sum, [name, value]) => sum + name.length + value.length, 0)
  if (headers.size > mostHeaders) throw new RangeError(`there are more than ${mostHeaders} headers`)
  if (bytes > mostBytes) throw new RangeError(`the headers are longer than ${mostBytes} bytes together`)
  return Object.fromEntries(headers)
}

function checked(name: string, value: string): string {
  if (!allowed.test(name) || refused.test(name)) {
    throw new RangeError(
      `${JSON.stringify(name.slice(0, 64))} is not a header to choose: authorization, api-key, user-agent and x-… are, but none that proxies set`,
    )
  }
  if (!fieldValue.test(value)) throw new RangeError(`the value of ${name} is not 1 to 4096 visible ASCII characters`)
  return name
}
