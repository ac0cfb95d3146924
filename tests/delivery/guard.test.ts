import type { LookupAddress } from 'node:dns'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { EgressGuard, HostUnresolved, type ResolveHost } from '../../src/delivery/guard.ts'
import { RelayError } from '../../src/errors.ts'

const strict = new EgressGuard()
const open = new EgressGuard({ allow: ['127.0.0.0/8', '::1/128'], allowHttp: true })

describe('the URL of an endpoint', () => {
  it.each([
    'https://example.com/hooks?a=1',
    'https://example.com:8443/',
    'https://example.com:1024',
    'https://user-agent.example.com/@path',
    'https://xn--bcher-kva.example/',
    'https://bücher.example/',
    'https://93.184.216.34/',
    'https://[2606:4700::1111]/',
    `https://example.com/${'a'.repeat(2028)}`,
  ])('is accepted: %s', (url) => {
    expect(strict.checkUrl(url).href).toBe(new URL(url).href)
  })

  it.each([
    ['', 'empty'],
    ['example.com', 'no scheme'],
    ['https:example.com', 'no slashes'],
    ['https:///example.com', 'an empty authority'],
    ['ftp://example.com/', 'another scheme'],
    ['file:///etc/passwd', 'a file'],
    ['http://example.com/', 'http'],
    ['https://user@example.com/', 'a user name'],
    ['https://user:secret@example.com/', 'a password'],
    ['https://@example.com/', 'an empty user name'],
    ['https://example.com\\@127.0.0.1/', 'a backslash'],
    ['https://example.com/#', 'an empty fragment'],
    ['https://example.com/#a', 'a fragment'],
    [' https://example.com/', 'a leading space'],
    ['https://exa\tmple.com/', 'a tab'],
    ['https://example.com/\r\nhost: x', 'a line end'],
    ['https://example.com:22/', 'port 22'],
    ['https://example.com:25/', 'port 25'],
    ['https://example.com:81/', 'port 81'],
    ['https://example.com:0/', 'port 0'],
    ['https://example.com:65536/', 'no port at all'],
    ['https://example.com:6379/', 'the port of Redis'],
    ['https://example.com:5432/', 'the port of PostgreSQL'],
    ['https://example.com:11211/', 'the port of memcached'],
    ['https://example.com:2375/', 'the port of Docker'],
    ['https://intranet/', 'a single label'],
    ['https://example.com./', 'a trailing dot'],
    ['https://localhost./', 'a trailing dot'],
    ['https://[fe80::1%25eth0]/', 'a zone'],
    ['https://exa,mple.com/', 'a character no name has'],
    [`https://${'a'.repeat(64)}.example.com/`, 'a label too long'],
    [`https://${'a.'.repeat(126)}example/`, 'a name too long'],
    [`https://example.com/${'a'.repeat(2029)}`, 'one character too many'],
    [`https://example.com/${'ü'.repeat(500)}`, 'too long once percent-encoded'],
  ])('is invalid: %j, %s', (url) => {
    expect(codeOf(() => strict.checkUrl(url))).toBe('endpoint_url_invalid')
  })

  it.each([
    'https://localhost/',
    'https://LOCALHOST:8443/',
    'https://printer.local/',
    'https://metadata.google.internal/',
    'https://app.localhost/',
    'https://nas.home.arpa/',
    'https://127.0.0.1/',
    'https://2130706433/',
    'https://0x7f.1/',
    'https://0x7f000001/',
    'https://017700000001/',
    'https://127.1/',
    'https://①②⑦.0.0.1/',
    'https://127。0。0。1/',
    'https://0/',
    'https://169.254.169.254/latest/meta-data/',
    'https://[::1]/',
    'https://[::]/',
    'https://[::ffff:127.0.0.1]/',
    'https://[::ffff:7f00:1]/',
    'https://[::127.0.0.1]/',
    'https://[64:ff9b::7f00:1]/',
    'https://[2002:7f00:1::]/',
    'https://[fd00:ec2::254]/',
  ])('leads to a forbidden address: %s', (url) => {
    expect(codeOf(() => strict.checkUrl(url))).toBe('endpoint_address_forbidden')
  })

  it('may be http where the deployment allows http, or names the address', () => {
    expect(open.checkUrl('http://example.com/').protocol).toBe('http:')
    const onlyNamed = new EgressGuard({ allow: ['127.0.0.0/8'] })
    expect(onlyNamed.checkUrl('http://127.0.0.1:9000/').port).toBe('9000')
    expect(onlyNamed.checkUrl('http://localhost:9000/').port).toBe('9000')
    expect(codeOf(() => onlyNamed.checkUrl('http://93.184.216.34/'))).toBe('endpoint_url_invalid')
    expect(codeOf(() => onlyNamed.checkUrl('http://example.com/'))).toBe('endpoint_url_invalid')
  })

  it('may name localhost only where loopback is allowed', () => {
    expect(open.checkUrl('https://localhost/').hostname).toBe('localhost')
    expect(codeOf(() => open.checkUrl('https://localhost./'))).toBe('endpoint_url_invalid')
  })

  it('is refused in every spelling of an IPv4 address that is not public', () => {
    const octet = fc.integer({ min: 0, max: 255 })
    const privateAddress = fc.oneof(
      fc.tuple(fc.constantFrom(0, 10, 127, 224, 239, 240, 255), octet, octet, octet),
      fc.tuple(fc.constant(192), fc.constant(168), octet, octet),
      fc.tuple(fc.constant(172), fc.integer({ min: 16, max: 31 }), octet, octet),
      fc.tuple(fc.constant(169), fc.constant(254), octet, octet),
      fc.tuple(fc.constant(100), fc.integer({ min: 64, max: 127 }), octet, octet),
    )
    fc.assert(
      fc.property(privateAddress, fc.constantFrom(10, 16, 8), fc.integer({ min: 1, max: 4 }), (octets, base, parts) => {
        const url = `https://${spell(octets, base, parts)}/`
        expect(
          codeOf(() => strict.checkUrl(url)),
          url,
        ).toBe('endpoint_address_forbidden')
      }),
    )
  })
})

describe('an address', () => {
  it.each(['1.1.1.1', '8.8.8.8', '93.184.216.34', '172.15.0.1', '172.32.0.1', '2606:4700::1111', '2a00:1450::1'])(
    'that is public is allowed: %s',
    (address) => {
      expect(strict.isAllowed(address)).toBe(true)
    },
  )

  it.each([
    ...['0.0.0.0', '0.1.2.3', '10.0.0.1', '100.64.0.1', '100.100.100.200', '127.0.0.1', '127.255.255.255'],
    ...['169.254.169.254', '172.16.0.1', '172.31.255.255', '192.0.0.1', '192.0.2.1', '192.88.99.1', '192.168.1.1'],
    ...['198.18.0.1', '198.51.100.1', '203.0.113.1', '224.0.0.1', '240.0.0.1', '255.255.255.255', '168.63.129.16'],
    ...['192.31.196.1', '192.52.193.1', '192.175.48.1', '::', '::1', '::7f00:1', '::ffff:127.0.0.1', '::ffff:8.8.8.8'],
    ...['::ffff:0:7f00:1', '64:ff9b::a00:1', '64:ff9b:1::1', '100::1', '100:0:0:1::1', '2001::1', '2001:2::1'],
    ...['2001:10::1', '2001:20::1', '2001:db8::1', '3fff::1', '2002:a00:1::', '5f00::1', 'fc00::1', 'fd00:ec2::254'],
    ...['fe80::1', 'fe80::1%eth0', '2606:4700::1%eth0', 'fec0::1', 'ff02::1', '4000::1'],
    ...['', 'localhost', '127.1', '0x7f.0.0.1', '010.0.0.1', '1.1.1.1 ', '[::1]', '1.1.1.1/32'],
  ])('that is not is refused: %s', (address) => {
    expect(strict.isAllowed(address)).toBe(false)
    expect(codeOf(() => strict.checkAddress(address))).toBe('endpoint_address_forbidden')
  })

  it('that is private is allowed by a CIDR of its own family, to its last bit', () => {
    const guard = new EgressGuard({ allow: ['10.1.0.0/16', 'fd00::/8'] })
    expect(guard.isAllowed('10.1.255.255')).toBe(true)
    expect(guard.isAllowed('10.2.0.0')).toBe(false)
    expect(guard.isAllowed('fdff::1')).toBe(true)
    expect(guard.isAllowed('fc00::1')).toBe(false)
    expect(guard.isAllowed('127.0.0.1')).toBe(false)
  })

  it('that embeds an IPv4 address stays refused whatever is allowed', () => {
    const guard = new EgressGuard({ allow: ['::/0', '0.0.0.0/0'] })
    for (const address of ['::ffff:127.0.0.1', '::7f00:1', '64:ff9b::1', '2002::1', '2001::1']) {
      expect(guard.isAllowed(address), address).toBe(false)
    }
    expect(guard.isAllowed('::1')).toBe(true)
  })

  it("that is the relay's own is refused, public or not", () => {
    expect(new EgressGuard({ ownAddresses: ['1.1.1.1'] }).isAllowed('1.1.1.1')).toBe(false)
  })

  it.each(['', '10.0.0.1', '10.0.0.0/33', '10.0.0.0/', '10/8', 'fd00::/129', '0x0a.0.0.0/8', 'all'])(
    'range that is no CIDR is refused at start: %j',
    (cidr) => {
      expect(() => new EgressGuard({ allow: [cidr] })).toThrow(RangeError)
    },
  )
})

describe('the host of an endpoint', () => {
  it('is refused when even one of its addresses is forbidden', async () => {
    const guard = new EgressGuard({ resolve: answers([['1.1.1.1', '10.0.0.1']]) })
    await expect(guard.vetHost('example.com')).rejects.toMatchObject({ code: 'endpoint_address_forbidden' })
  })

  it('is refused as a literal without asking the resolver', async () => {
    await expect(strict.vetHost('[::1]')).rejects.toMatchObject({ code: 'endpoint_address_forbidden' })
    await expect(strict.vetHost('1.1.1.1')).resolves.toBeUndefined()
  })

  it('is accepted when it is public, and when it does not resolve yet', async () => {
    await new EgressGuard({ resolve: answers([['1.1.1.1', '2606:4700::1']]) }).vetHost('example.com')
    await new EgressGuard({ resolve: () => Promise.reject(new Error('ENOTFOUND')) }).vetHost('example.com')
    await new EgressGuard({ resolve: answers([[]]) }).vetHost('example.com')
  })

  it('is not told to the tenant by address', async () => {
    const guard = new EgressGuard({ resolve: answers([['10.11.12.13']]) })
    const refusal = await guard.vetHost('example.com').catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(RelayError)
    expect((refusal as RelayError).details.detail).not.toContain('10.11.12.13')
  })
})

describe('the lookup of a connection', () => {
  it('vets again every time, so a name that turns private is refused', async () => {
    const guard = new EgressGuard({ resolve: answers([['1.1.1.1'], ['127.0.0.1']]) })
    expect(await look(guard, 'example.com')).toEqual([{ address: '1.1.1.1', family: 4 }])
    await expect(look(guard, 'example.com')).rejects.toMatchObject({ code: 'endpoint_address_forbidden' })
  })

  it('tells a name without address from a forbidden one', async () => {
    await expect(look(new EgressGuard({ resolve: answers([[]]) }), 'example.com')).rejects.toThrow(HostUnresolved)
    const failing = new EgressGuard({ resolve: () => Promise.reject(new Error('SERVFAIL')) })
    await expect(look(failing, 'example.com')).rejects.toThrow(HostUnresolved)
  })

  it('asks the resolver once for attempts at the same moment, and anew for the next', async () => {
    let asked = 0
    const guard = new EgressGuard({
      resolve: async () => {
        asked++
        return [{ address: '1.1.1.1', family: 4 }]
      },
    })
    await Promise.all([look(guard, 'example.com'), look(guard, 'example.com')])
    expect(asked).toBe(1)
    await look(guard, 'example.com')
    expect(asked).toBe(2)
  })

  it('gives one address to a caller that asks for one', () => {
    const guard = new EgressGuard({ resolve: answers([['1.1.1.1', '2606:4700::1']]) })
    const one = new Promise((resolve, reject) =>
      guard.lookup('example.com', {}, (error, address, family) => (error ? reject(error) : resolve([address, family]))),
    )
    return expect(one).resolves.toEqual(['1.1.1.1', 4])
  })
})

function codeOf(act: () => unknown): string | undefined {
  try {
    act()
  } catch (error) {
    if (error instanceof RelayError) return error.code
    throw error
  }
  return undefined
}

/** A resolver that answers with these addresses, one list a question. */
function answers(lists: string[][]): ResolveHost {
  const rest = [...lists]
  return async () => (rest.shift() ?? []).map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
}

const look = (guard: EgressGuard, hostname: string): Promise<string | LookupAddress[]> =>
  new Promise((resolve, reject) =>
    guard.lookup(hostname, { all: true }, (error, addresses) => (error ? reject(error) : resolve(addresses))),
  )

/** An IPv4 address in `parts` parts, as inet_aton read them and the WHATWG parser still does. */
function spell(octets: number[], base: number, parts: number): string {
  const head = octets.slice(0, parts - 1)
  const tail = octets.slice(parts - 1).reduce((value, octet) => value * 256 + octet, 0)
  const prefix = { 10: '', 16: '0x', 8: '0' }[base]
  return [...head, tail].map((part) => prefix + part.toString(base)).join('.')
}
