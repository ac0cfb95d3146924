import type { JsonValue } from '../message/json.ts'
import { parseJsonPath, valueAt } from '../message/json-path.ts'
import type { Condition, Endpoint, EndpointOptions, Scalar } from '../tenant/records.ts'

/** Which of a tenant's endpoints a message is for, before their own wishes are asked. */
export type Audience =
  /** Whoever wants it: what a vendor posted. */
  | { readonly kind: 'all' }
  /** One endpoint, whatever it wants: its test. */
  | { readonly kind: 'only'; readonly endpointId: string }
  /** Who asks for this type by name, but for the endpoint that it is about: a notice. */
  | { readonly kind: 'subscribers'; readonly except: string }

export const everyone: Audience = { kind: 'all' }

/** Says which endpoints want a message. What an endpoint asks for is compiled once per version of its record. */
export class Subscriptions {
  readonly #compiled = new WeakMap<EndpointOptions, Wish>()

  wants({ id, options }: Endpoint, value: JsonValue | undefined, audience: Audience): boolean {
    if (audience.kind === 'only') return id === audience.endpointId
    if (audience.kind === 'subscribers' && (id === audience.except || options.events.length === 0)) return false
    if (options.events.length === 0 && options.filter.length === 0) return true
    const type = typeOf(value)
    const { events, conditions } = this.#compile(options)
    const globs = audience.kind === 'subscribers' ? events.filter(({ byName }) => byName) : events
    const asked = options.events.length === 0 || (type !== undefined && globs.some(({ glob }) => glob.test(type)))
    return asked && conditions.every((holds) => holds(value))
  }

  #compile(options: EndpointOptions): Wish {
    const known = this.#compiled.get(options)
    if (known !== undefined) return known
    const events = options.events.map((pattern) => ({
      glob: parseEventGlob(pattern),
      byName: !pattern.startsWith('*'),
    }))
    const compiled = { events, conditions: options.filter.map(compileCondition) }
    this.#compiled.set(options, compiled)
    return compiled
  }
}

interface Wish {
  /** `byName`: the pattern names at least the first segment, so whoever wrote it knew what would come. */
  readonly events: readonly { readonly glob: RegExp; readonly byName: boolean }[]
  readonly conditions: readonly ((value: JsonValue | undefined) => boolean)[]
}

/** The event type of a payload: its top-level `type`, if that is a string. */
const typeOf = (value: JsonValue | undefined): string | undefined => {
  const type = valueAt(value, ['type'])
  return typeof type === 'string' ? type : undefined
}

/**
 * A pattern over event types, whose segments are parted by dots: `*` stands for one segment, and at the end for one or
 * more. So `invoice.*` matches `invoice.paid` and `invoice.payment.failed`, and `*` every type. Throws `RangeError`.
 */
export function parseEventGlob(pattern: string): RegExp {
  if (pattern.length > 200 || !eventPattern.test(pattern)) {
    throw new RangeError('it is not a list of names of A-Z a-z 0-9 _ - : / or *, parted by dots, such as invoice.*')
  }
  const segments = pattern.split('.').map((name) => (name === '*' ? '[^.]+' : name))
  if (pattern.endsWith('*')) segments[segments.length - 1] = '.+'
  return new RegExp(`^${segments.join('\\.')}$`, 's')
}

const eventPattern = /^(\*|[\w:/-]+)(\.(\*|[\w:/-]+))*$/

/** Throws `RangeError` if the path is no singular JSONPath. */
export function compileCondition(condition: Condition): (value: JsonValue | undefined) => boolean {
  const path = parseJsonPath(condition.path)
  const holds = judge(condition)
  return (value) => holds(valueAt(value, path))
}

/** Numbers compare by value and strings by code unit; nothing is converted, so `"10"` is not 10. */
function judge(condition: Condition): (found: JsonValue | undefined) => boolean {
  if ('equals' in condition) return (found) => found === condition.equals
  if ('in' in condition) return (found) => condition.in.includes(found as Scalar)
  if ('not' in condition) return (found) => found !== condition.not
  if ('exists' in condition) return (found) => (found !== undefined) === condition.exists
  if ('gt' in condition) return (found) => typeof found === 'number' && found > condition.gt
  return (found) => typeof found === 'number' && found < condition.lt
}
