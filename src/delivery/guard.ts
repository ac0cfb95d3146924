import { promises as dns, type LookupAddress } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import { networkInterfaces } from 'node:os'
import ipaddr from 'ipaddr.js'
import { RelayError } from '../errors.ts'

/**
 * Decides where the relay may connect to. Endpoints are URLs that tenants choose, so without it a tenant could make the
 * relay speak to its own database, its neighbours or the cloud's metadata service (server-side request forgery).
 *
 * A URL is judged three times: {@link checkUrl} on the text alone, {@link vetHost} on what its name means when the
 * endpoint is written, and {@link lookup} at every connection, where it counts: a name that was public yesterday may lead
 * to 127.0.0.1 today, so the addresses that were vetted are the very ones the socket connects to.
 */
export class EgressGuard {
  readonly #allowed: readonly Cidr[]
  readonly #allowHttp: boolean
  readonly #resolve: ResolveHost
  readonly #own: ReadonlySet<string>
  readonly #resolving = new Map<string, Promise<LookupAddress[]>>()

  /** Throws `RangeError` naming the first member of `allow` that is no CIDR. */
  constructor({
    allow = [],
    allowHttp = false,
    resolve = resolveBySystem,
    ownAddresses = interfaceAddresses(),
  }: EgressRules = {}) {
    this.#allowed = allow.map(parseCidr)
    this.#allowHttp = allowHttp
    this.#resolve = resolve
    this.#own = new Set(ownAddresses)
  }

  /**
   * Checks what the text of an endpoint's URL alone can tell, and returns it parsed.
   * Throws `endpoint_url_invalid` or `endpoint_address_forbidden`, with a `detail` that says which rule.
   */
  checkUrl(text: string): URL {
    if (text.length > maxUrlLength) throw invalid(`It is longer than ${maxUrlLength} characters.`)
    // The WHATWG parser silently drops tabs and line ends and turns "\" into "/". Whoever wrote one meant to hide a host.
    if (hiddenCharacters.test(text)) throw invalid('It holds a space, a control character or a backslash.')
    if (text.includes('#')) throw invalid('It has a fragment, which is never sent.')
    if (userinfo.test(text)) throw invalid('It has a user name or password.')
    const url = absolute.test(text) ? URL.parse(text) : null
    if (url === null) throw invalid('It is not an absolute URL.')
    if (url.href.length > maxUrlLength) throw invalid(`Written out it is longer than ${maxUrlLength} characters.`)
    if (url.protocol !== 'https:' && url.protocol !== 'http:') throw invalid('Its scheme is not https.')
    checkPort(url)
    const named = this.#checkHost(url)
    if (url.protocol === 'http:' && !this.#allowHttp && !named) {
      throw invalid('Its scheme is http. This relay delivers by https only.')
    }
    return url
  }

  /**
   * Resolves the host of an endpoint when it is written and throws `endpoint_address_forbidden` if it leads anywhere
   * forbidden. A name that does not resolve (in time) is accepted: the receiver may not be up yet, and every attempt
   * checks again.
   */
  async vetHost(hostname: string): Promise<void> {
    const host = withoutBrackets(hostname)
    if (isIP(host) !== 0) return this.checkAddress(host)
    const waited = Promise.withResolvers<undefined>()
    const timer = setTimeout(waited.resolve, vetTimeoutMs, undefined)
    try {
      await Promise.race([this.resolve(host), waited.promise])
    } catch (error) {
      if (!(error instanceof HostUnresolved)) throw error
    } finally {
      clearTimeout(timer)
    }
  }

  /**
   * Every address of a name, each vetted. Rejects with {@link HostUnresolved}, or with `endpoint_address_forbidden` if
   * even one is forbidden: a name that is public and private at once is an attack or a mistake, and never ours to sort.
   */
  async resolve(hostname: string): Promise<LookupAddress[]> {
    const addresses = await this.#resolveOnce(hostname)
    for (const { address } of addresses) this.#vet(address, 'The host name leads to an address that is')
    return addresses
  }

  /** {@link resolve} in the shape that `net.connect` and `tls.connect` take as `lookup`. IP literals never get here. */
  readonly lookup: LookupFunction = (hostname, options, callback) => {
    this.resolve(hostname).then(
      (addresses) => {
        const [first] = addresses
        if (options.all || first === undefined) callback(null, addresses)
        else callback(null, first.address, first.family)
      },
      (error: Error) => callback(error, []),
    )
  }

  /** Throws `endpoint_address_forbidden` unless {@link isAllowed}. */
  checkAddress(address: string): void {
    this.#vet(address, `${address} is`)
  }

  isAllowed(address: string): boolean {
    return this.#objection(address) === undefined
  }

  #vet(address: string, subject: string): void {
    const objection = this.#objection(address)
    // What a name resolves to is not the tenant's to learn, so the address itself goes to the logger only.
    if (objection !== undefined) throw forbidden(`${subject} ${objection}.`, address)
  }

  /** Why an address is refused, or `undefined`. In doubt it is refused. */
  #objection(address: string): string | undefined {
    // ipaddr.js reads more forms than the system does. Only the plain one is an address here; zones are link-local.
    if (isIP(address) === 0 || address.includes('%')) return 'not a plain IP address'
    const parsed = ipaddr.parse(address)
    const range: string = parsed.range()
    // These carry an IPv4 address that some router will unpack. No CIDR lifts the rule: write the IPv4 CIDR instead.
    if (embedding.has(range) || isIPv4Compatible(parsed)) return 'an IPv6 address that embeds an IPv4 address'
    if (this.#names(parsed)) return undefined
    if (range !== 'unicast') return `not public (${range})`
    if (parsed.kind() === 'ipv6' && !parsed.match(globalUnicast)) return 'outside the public IPv6 range 2000::/3'
    if (cloudServices.has(address)) return 'an internal service of a cloud provider'
    if (this.#own.has(address)) return "the relay's own"
    return undefined
  }

  /** Whether `EGRESS_ALLOW` holds this address. */
  #names(address: Address): boolean {
    return this.#allowed.some(([network, bits]) => network.kind() === address.kind() && address.match(network, bits))
  }

  /** Checks the host as the WHATWG parser left it. True if `EGRESS_ALLOW` names it: a literal or localhost. */
  #checkHost(url: URL): boolean {
    const host = withoutBrackets(url.hostname)
    if (isIP(host) !== 0) {
      this.checkAddress(host)
      return this.#names(ipaddr.parse(host))
    }
    if (host === 'localhost') {
      if (this.isAllowed('127.0.0.1') || this.isAllowed('::1')) return true
      throw forbidden('localhost is the relay itself.', host)
    }
    if (host.endsWith('.')) throw invalid('Its host name ends in a dot.')
    if (!host.includes('.')) throw invalid('Its host name has no domain.')
    if (privateSuffix.test(host)) throw forbidden('Its host name is only meaningful inside a network.', host)
    if (host.length > 253 || !hostName.test(host)) throw invalid('Its host name is not one the DNS can hold.')
    return false
  }

  /** One look-up per name at a time: a name whose servers hang must not occupy every thread the system resolver has. */
  #resolveOnce(hostname: string): Promise<LookupAddress[]> {
    const running = this.#resolving.get(hostname)
    if (running !== undefined) return running
    const asked = this.#askResolver(hostname).finally(() => this.#resolving.delete(hostname))
    this.#resolving.set(hostname, asked)
    return asked
  }

  async #askResolver(hostname: string): Promise<LookupAddress[]> {
    let addresses: LookupAddress[]
    try {
      addresses = await this.#resolve(hostname)
    } catch (cause) {
      throw new HostUnresolved(hostname, { cause })
    }
    if (addresses.length === 0) throw new HostUnresolved(hostname)
    return addresses
  }
}

export interface EgressRules {
  /** `EGRESS_ALLOW`: CIDRs that may be reached although they are not public. */
  allow?: readonly string[] | undefined
  /** Whether plain http may be used to any host, and not only to addresses that `allow` names. */
  allowHttp?: boolean | undefined
  /** All addresses of a name; rejects or is empty if it has none. Default: the system resolver. */
  resolve?: ResolveHost | undefined
  /** Addresses of the relay itself, refused even if public. Default: those of its network interfaces. */
  ownAddresses?: Iterable<string> | undefined
}

export type ResolveHost = (hostname: string) => Promise<LookupAddress[]>

/** A name without an address: told apart from a forbidden one, since it may heal by itself. */
export class HostUnresolved extends Error {
  override readonly name = 'HostUnresolved'

  constructor(hostname: string, options?: ErrorOptions) {
    super(`${hostname} does not resolve`, options)
  }
}

const resolveBySystem: ResolveHost = (hostname) => dns.lookup(hostname, { all: true })

const interfaceAddresses = (): string[] =>
  Object.values(networkInterfaces()).flatMap((addresses = []) => addresses.map(({ address }) => address))

type Address = ipaddr.IPv4 | ipaddr.IPv6
type Cidr = readonly [network: Address, bits: number]

export function parseCidr(text: string): Cidr {
  const address = text.slice(0, Math.max(0, text.lastIndexOf('/')))
  if (isIP(address) === 0 || !ipaddr.isValidCIDR(text)) {
    throw new RangeError(`${JSON.stringify(text)} is not a CIDR such as 10.0.0.0/8 or fd00::/8`)
  }
  return ipaddr.parseCIDR(text)
}

const maxUrlLength = 2048
const vetTimeoutMs = 3000
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones to refuse
const hiddenCharacters = /[\u0000-\u0020\u007f\\]/
const userinfo = /^[^/?]*(\/+[^/?]*)?@/
const absolute = /^[a-z]+:\/\/[^/?]/i
const hostName = /^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/
/** RFC 6761, RFC 6762, RFC 8375, and the two that networks made up before ICANN reserved `.internal`. */
const privateSuffix = /\.(localhost|local|internal|home\.arpa|localdomain|lan)$/

/** ipaddr.js names of the ranges that carry an IPv4 address: mapped, translated, NAT64 (RFC 6052, 8215), 6to4, Teredo. */
const embedding = new Set(['ipv4Mapped', 'rfc6145', 'rfc6052', '6to4', 'teredo'])
const globalUnicast = ipaddr.parseCIDR('2000::/3')
/** Azure's metadata and DNS service, which stands at an address that looks public. The others are link-local or private. */
const cloudServices = new Set(['168.63.129.16'])

/** RFC 4291 §2.5.5.1, deprecated, which ipaddr.js takes for unicast: `::7f00:1`. `::` and `::1` are no such addresses. */
const isIPv4Compatible = (address: Address): boolean =>
  'parts' in address && address.range() === 'unicast' && address.parts.slice(0, 6).every((part) => part === 0)

function checkPort(url: URL): void {
  const port = Number(url.port || (url.protocol === 'https:' ? 443 : 80))
  const usual = port === 443 || port === 80 || port >= 1024
  if (!usual || refusedPorts.has(port)) throw invalid(`Port ${port} is not one this relay delivers to.`)
}

/** Ports from 1024 up where something other than a web server listens: what a forged request could harm, and what
 *  the Fetch standard calls bad ports. */
const refusedPorts = new Set([
  ...[1433, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 3659, 4045, 4190, 5060, 5061, 5432],
  ...[5672, 5900, 5984, 6000, 6379, 6443, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 8500, 9042, 9092, 9100, 9200],
  ...[9300, 10080, 10250, 10255, 11211, 26379, 27017, 27018],
])

const withoutBrackets = (hostname: string): string => (hostname.startsWith('[') ? hostname.slice(1, -1) : hostname)

const invalid = (detail: string): RelayError => new RelayError('endpoint_url_invalid', { detail })
const forbidden = (detail: string, cause: string): RelayError =>
  new RelayError('endpoint_address_forbidden', { detail, cause })
