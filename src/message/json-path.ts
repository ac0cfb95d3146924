import type { JsonValue } from './json.ts'

/** A singular query of JSONPath (RFC 9535 §2.3.5.1): member names and indices from the root to one value, or to none. */
export type JsonPath = readonly (string | number)[]

/** What is longer, or has more segments, is no path to anything in a payload. */
const maxPathLength = 512
const maxSegments = 32

/**
 * Parses a singular query such as `$.data.items[0]['net amount']`: dots, brackets and both kinds of quotes as RFC 9535
 * writes them, and nothing that could select several values. Throws `RangeError` that says where the path goes wrong.
 */
export function parseJsonPath(text: string): JsonPath {
  const wrong = (at: number) =>
    new RangeError(`it is no singular JSONPath (RFC 9535) from character ${at + 1} on, such as $.data['id'] or $[0]`)
  if (text.length > maxPathLength || !text.isWellFormed()) throw wrong(maxPathLength)
  if (!text.startsWith('$')) throw wrong(0)
  const path: (string | number)[] = []
  for (let at = 1; at < text.length; ) {
    segment.lastIndex = at
    const { groups } = segment.exec(text) ?? {}
    const name = groups?.member ?? unquote(groups?.double) ?? unquote(groups?.single)
    const index = groups?.index === undefined ? undefined : Number(groups.index)
    const found = name ?? index
    if (found === undefined || path.length === maxSegments) throw wrong(at)
    if (typeof found === 'number' && !Number.isSafeInteger(found)) throw wrong(at)
    path.push(found)
    at = segment.lastIndex
  }
  return path
}

/** The value at `path`, or undefined if there is none. An index below 0 counts from the end. */
export function valueAt(value: JsonValue | undefined, path: JsonPath): JsonValue | undefined {
  let here = value
  for (const step of path) {
    if (typeof step === 'number') here = Array.isArray(here) ? here.at(step) : undefined
    else if (typeof here !== 'object' || here === null || Array.isArray(here)) return undefined
    else here = Object.hasOwn(here, step) ? here[step] : undefined
  }
  return here
}

/** The productions of RFC 9535 §2.5.1.1 and §2.3: blank space may stand before a segment, not within its brackets. */
const blank = String.raw`[ \t\n\r]*`
const member = String.raw`\.(?<member>[A-Za-z_\u{80}-\u{d7ff}\u{e000}-\u{10ffff}][\w\u{80}-\u{d7ff}\u{e000}-\u{10ffff}]*)`
const index = String.raw`\[(?<index>0|-?[1-9]\d*)\]`
const hex = String.raw`(?:[\dA-CEFa-cef][\dA-Fa-f]{3}|[Dd][0-7][\dA-Fa-f]{2}|[Dd][89ABab][\dA-Fa-f]{2}\\u[Dd][C-Fc-f][\dA-Fa-f]{2})`
const quoted = (name: string, quote: string): string =>
  String.raw`\[${quote}(?<${name}>(?:[^\\${quote}\u{0}-\u{1f}]|\\(?:[bfnrt/\\${quote}]|u${hex}))*)${quote}\]`
const segment = new RegExp(`${blank}(?:${member}|${index}|${quoted('double', '"')}|${quoted('single', "'")})`, 'uy')

const unquote = (inner: string | undefined): string | undefined =>
  inner?.replace(/\\(?:u([\dA-Fa-f]{4})|(.))/g, (_, code?: string, letter = '') =>
    code === undefined ? (controls[letter] ?? letter) : String.fromCharCode(Number.parseInt(code, 16)),
  )

const controls: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' }
