/**
 * Receivers that misbehave, each in its own way, against a whole relay: the outcome is the right one, time and memory are
 * bounded, and a well-behaved endpoint of the same tenant gets its copy at once.
 */
import { createHash } from 'node:crypto'
import type { LookupAddress } from 'node:dns'
import type { Socket } from 'node:net'
import { performance } from 'node:perf_hooks'
import { gzipSync } from 'node:zlib'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { makeCertificate } from '../support/certificate.ts'
import { answering, type Behaviour, HostileReceiver, onRequests, pour } from '../support/hostile-receiver.ts'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

/** What each hostile endpoint gets for the whole of an attempt, the least there is. */
const timeoutMs = 1000
/** How much later than that an attempt may be on record, on a machine that does other things. */
const patienceMs = 3000
/** The cap on an answer's body. */
const cap = 64 * 1024
/** What the kernel's buffers between two sockets may hold beyond what was read. */
const inBuffers = 16 * 1024 * 1024
/** How much memory may be in use, at any time of an attempt, beyond what was when it began. Most of it is garbage of the
 *  vendor, the relay and both receivers, which are one process; what pours in would be several times that in a second. */
const mostGrown = 128 * 1024 * 1024

interface ShownAttempt {
  number: number
  outcome: string
  status?: number
  reason?: string
  duration_ms: number
  phases?: Record<string, number>
  response?: { status?: number; bytes: number; sha256: string; incomplete?: true; body?: string; body_base64?: string }
}
interface ShownDelivery {
  id: string
  endpoint: string
  state: string
  next_attempt_at?: string
  attempts: ShownAttempt[]
}

/** What names resolve to, in turn; the last answer stays. */
const zone = new Map<string, string[]>()
const lookups: string[] = []

let relay: TestRelay
let tenant: TestTenant
let neighbour: Receiver
const hostile: HostileReceiver[] = []

beforeAll(async () => {
  relay = await TestRelay.start({ egressAllow: ['127.0.0.0/8', '::1/128'], resolve })
  tenant = await relay.makeTenant()
  neighbour = await Receiver.start()
  await relay.makeEndpoint(tenant, neighbour.url)
})
beforeEach(() => {
  zone.clear()
  lookups.length = 0
})
afterEach(async () => {
  await Promise.all(hostile.splice(0).map((receiver) => receiver.stop()))
  await relay.check()
})
afterAll(async () => {
  await relay?.stop()
  await neighbour?.stop()
})

const ok = 'HTTP/1.1 200 OK\r\n'
const empty = 'content-length: 0\r\n\r\n'
const chunked = 'transfer-encoding: chunked\r\n\r\n'
const bomb = gzipSync(Buffer.alloc(32 * 1024 * 1024))
const garbage = Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919) % 256))

interface Lesson {
  readonly behave: Behaviour
  readonly outcome: Partial<ShownAttempt>
  readonly response?: Partial<NonNullable<ShownAttempt['response']>>
  readonly payload?: object
}

const large = { padding: 'x'.repeat(900_000) }
const timedOut = { outcome: 'unreachable', reason: 'timeout' }
const wasReset = { outcome: 'unreachable', reason: 'reset' }
const notHttp = { outcome: 'unreachable', reason: 'protocol' }
const tooLarge = { outcome: 'unreachable', reason: 'too_large' }
const delivered = { outcome: 'delivered', status: 200 }

const onRequest =
  (act: (socket: Socket) => void): Behaviour =>
  (socket) =>
    onRequests(socket, () => act(socket))

const lessons: Record<string, Lesson> = {
  'never answers': { behave: (socket) => socket.resume(), outcome: timedOut },
  'does not even read, and never answers': {
    behave: (socket) => void setTimeout(() => socket.resume(), timeoutMs + 500), // or it would not notice our leaving
    outcome: timedOut,
    payload: large,
  },
  'hangs up without a word': { behave: onRequest((socket) => socket.end()), outcome: wasReset },
  'resets without a word': { behave: onRequest((socket) => socket.resetAndDestroy()), outcome: wasReset },
  'drips its headers, a slow loris': {
    behave: onRequest((socket) => {
      socket.write(ok)
      pour(socket, 'a', 20)
    }),
    outcome: timedOut,
  },
  'drips its body': {
    behave: onRequest((socket) => {
      socket.write(`${ok}content-length: 1000\r\n\r\n`)
      pour(socket, '.', 20)
    }),
    outcome: timedOut,
    response: { status: 200, incomplete: true, body: expect.stringMatching(/^\.+$/) },
  },
  'drips an error page, which is an error all the same': {
    behave: onRequest((socket) => {
      socket.write(`HTTP/1.1 500 Oh\r\ncontent-length: 1000\r\n\r\n`)
      pour(socket, '.', 20)
    }),
    outcome: { outcome: 'refused', status: 500 },
    response: { incomplete: true },
  },
  'answers 200 with a body without end': {
    behave: onRequest((socket) => {
      socket.write(ok + chunked)
      pour(socket, `4000\r\n${'x'.repeat(0x4000)}\r\n`)
    }),
    outcome: tooLarge,
    response: { status: 200, bytes: cap, sha256: digest('x'.repeat(cap)), incomplete: true, body: 'x'.repeat(4096) },
  },
  'answers 503 with a body without end': {
    behave: onRequest((socket) => {
      socket.write(`HTTP/1.1 503 No\r\n${chunked}`)
      pour(socket, `4000\r\n${'x'.repeat(0x4000)}\r\n`)
    }),
    outcome: { outcome: 'refused', status: 503 },
    response: { bytes: cap, sha256: digest('x'.repeat(cap)), incomplete: true, body: 'x'.repeat(4096) },
  },
  'floods with headers': {
    behave: onRequest((socket) => {
      socket.write(ok)
      pour(socket, `a: ${'b'.repeat(1000)}\r\n`.repeat(64))
    }),
    outcome: tooLarge,
  },
  'floods with one header that never ends': {
    behave: onRequest((socket) => {
      socket.write(`${ok}a: `)
      pour(socket, 'b'.repeat(65_536))
    }),
    outcome: tooLarge,
  },
  'floods with 1xx': {
    behave: onRequest((socket) => pour(socket, 'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n'.repeat(100))),
    outcome: notHttp,
  },
  'floods with trailers': {
    behave: onRequest((socket) => {
      socket.write(`${ok}${chunked}2\r\nok\r\n0\r\n`)
      pour(socket, `a: ${'b'.repeat(1000)}\r\n`.repeat(64))
    }),
    outcome: tooLarge,
    response: { status: 200, bytes: 2, incomplete: true },
  },
  'puts into trailers what belongs into headers': {
    behave: answering(
      `HTTP/1.1 503 No\r\n${chunked}2\r\nno\r\n0\r\nretry-after: 86400\r\ncontent-type: text/html\r\n\r\n`,
    ),
    outcome: { outcome: 'refused', status: 503 },
    response: { bytes: 2, body: 'no', sha256: digest('no') },
  },
  'resets in the middle of its body': {
    behave: onRequest((socket) => {
      socket.write(`${ok}content-length: 100\r\n\r\nhalf`, () => setTimeout(() => socket.resetAndDestroy(), 50))
    }),
    outcome: wasReset,
    response: { status: 200, bytes: 4, incomplete: true, body: 'half' },
  },
  'ends before the body is as long as it said': {
    behave: onRequest((socket) => socket.end(`${ok}content-length: 100\r\n\r\nhalf`)),
    outcome: wasReset,
    response: { status: 200, bytes: 4, incomplete: true },
  },
  'sends a gzip bomb, which is not unpacked': {
    behave: answering(
      Buffer.concat([Buffer.from(`${ok}content-encoding: gzip\r\ncontent-length: ${bomb.length}\r\n\r\n`), bomb]),
    ),
    outcome: delivered,
    response: { bytes: bomb.length, sha256: digest(bomb) },
  },
  'answers 200 with garbage': {
    behave: answering(Buffer.concat([Buffer.from(`${ok}content-length: ${garbage.length}\r\n\r\n`), garbage])),
    outcome: delivered,
    response: { bytes: garbage.length, sha256: digest(garbage) },
  },
  'refuses with garbage': {
    behave: answering(
      Buffer.concat([Buffer.from(`HTTP/1.1 400 No\r\ncontent-length: ${garbage.length}\r\n\r\n`), garbage]),
    ),
    outcome: { outcome: 'refused', status: 400 },
    response: { bytes: garbage.length, body_base64: garbage.subarray(0, 4096).toString('base64') },
  },
  'answers with garbage instead of HTTP': { behave: answering(garbage), outcome: notHttp },
  'speaks HTTP/2': {
    behave: answering(Buffer.from('00001204000000000000030000006400040000ffff', 'hex')),
    outcome: notHttp,
  },
  'switches protocols': {
    behave: answering('HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n'),
    outcome: { outcome: 'unreachable', reason: expect.stringMatching(/^(reset|protocol)$/) },
  },
  'says two lengths': {
    behave: answering(`${ok}content-length: 2\r\ncontent-length: 3\r\n\r\nok!`),
    outcome: { outcome: 'unreachable', reason: expect.stringMatching(/^(reset|protocol)$/) },
  },
  'answers before it has read the body, and reads it later': {
    behave: (socket) => {
      socket.pause()
      socket.write(ok + empty)
      setTimeout(() => socket.resume(), 200)
    },
    outcome: delivered,
    payload: large,
  },
  'refuses before it has read the body, and never reads it': {
    behave: (socket) => {
      socket.pause()
      socket.write(`HTTP/1.1 413 No\r\n${empty}`)
    },
    outcome: { outcome: 'refused', status: 413 },
    payload: large,
  },
}

describe('a receiver that', () => {
  for (const [what, { behave, outcome, response, payload }] of Object.entries(lessons)) {
    test(what, async () => {
      const receiver = await start(behave)
      const { attempt, grown } = await suffer(`http://127.0.0.1:${receiver.port}/`, { payload })
      expect(attempt).toMatchObject({ number: 1, ...outcome })
      if (response === undefined) expect(attempt).not.toHaveProperty('response')
      else expect(attempt.response).toMatchObject(response)
      expect(attempt.response?.incomplete).toBe(response?.incomplete)
      if (outcome.outcome === 'delivered') expect(attempt).not.toHaveProperty('response.body')
      expect(receiver.connections).toBe(1)
      expect(grown).toBeLessThan(mostGrown)
      // Whatever it was up to, it is rid of: no connection stays on which it could go on.
      if (outcome.outcome === 'unreachable') await expect.poll(() => receiver.open).toBe(0)
      if (receiver.open === 0) expect(receiver.sent).toBeLessThan(cap + inBuffers)
    })
  }
})

describe('a redirect', () => {
  test.each([301, 302, 303, 307, 308])('with %i is a refusal and leads nowhere', async (status) => {
    const elsewhere = [neighbour.url, 'http://169.254.169.254/latest/meta-data/iam/security-credentials/', '//[::1]/']
    for (const location of elsewhere) {
      const receiver = await start(answering(`HTTP/1.1 ${status} Go\r\nlocation: ${location}\r\n${empty}`))
      const before = neighbour.arrived.length
      const { attempt } = await suffer(`http://127.0.0.1:${receiver.port}/`)
      expect(attempt).toMatchObject({ outcome: 'refused', status })
      expect(neighbour.arrived.length).toBe(before + 1) // its own copy
      expect(receiver.connections).toBe(1)
    }
  })
})

describe('a receiver that keeps the connection', () => {
  test('and has put a second answer into it gets no credit for a delivery with that', async () => {
    const receiver = await start(answering(`${ok}${empty}${ok}${empty}`, `HTTP/1.1 500 No\r\n${empty}`))
    let connections = 0
    const url = `http://127.0.0.1:${receiver.port}/`
    const { attempt, endpoint } = await suffer(url)
    expect(attempt).toMatchObject(delivered)
    connections = receiver.connections
    // The stray answer came before there was a request: the connection it came on is worth nothing any more.
    const second = await suffer(url, { endpoint })
    expect(second.attempt).toMatchObject(delivered)
    expect(receiver.connections).toBe(connections + 1)
  })

  test('and closes it between two requests is connected to anew', async () => {
    const receiver = await start(
      onRequest((socket) => socket.write(ok + empty, () => setTimeout(() => socket.end(), 20))),
    )
    const url = `http://127.0.0.1:${receiver.port}/`
    const { endpoint } = await suffer(url)
    await expect.poll(() => receiver.open).toBe(0)
    expect((await suffer(url, { endpoint })).attempt).toMatchObject(delivered)
    expect(receiver.connections).toBe(2)
  })

  test('and closes it just when the next request comes has not got that one, and gets it by schedule', async () => {
    const receiver = await start((socket) => {
      let requests = 0
      onRequests(socket, () => {
        if (++requests === 1) socket.write(ok + empty)
        else socket.resetAndDestroy()
      })
    })
    const url = `http://127.0.0.1:${receiver.port}/`
    const { endpoint } = await suffer(url)
    const { attempt, delivery } = await suffer(url, { endpoint })
    expect(attempt).toMatchObject(wasReset)
    relay.clock.advance(Date.parse(delivery.next_attempt_at ?? '') - relay.clock.now().getTime())
    await expect.poll(() => read(delivery.id)).toMatchObject({ state: 'delivered', attempts: [wasReset, delivered] })
  })
})

describe('Retry-After', () => {
  const day = 86_400_000
  const fiveSeconds = 5000 // what the schedule says after the first attempt

  test.each([
    ['99999999999999', day],
    ['9'.repeat(400), fiveSeconds],
    ['-86400', fiveSeconds],
    ['1e9', fiveSeconds],
    ['NaN', fiveSeconds],
    ['Fri, 31 Dec 9999 23:59:59 GMT', day],
    ['Thu, 01 Jan 1970 00:00:00 GMT', fiveSeconds],
    ['0', fiveSeconds],
  ])('of %s postpones by at most a day, and hurries nothing', async (value, expectedMs) => {
    const receiver = await start(answering(`HTTP/1.1 503 No\r\nretry-after: ${value}\r\n${empty}`))
    const { attempt, delivery } = await suffer(`http://127.0.0.1:${receiver.port}/`)
    expect(attempt).toMatchObject({ outcome: 'refused', status: 503 })
    expect(Date.parse(delivery.next_attempt_at ?? '') - relay.clock.now().getTime()).toBe(expectedMs)
  })
})

describe('a name', () => {
  const certificate = (host: string, fromMs = -86_400_000, untilMs = 86_400_000) =>
    makeCertificate(host, new Date(Date.now() + fromMs), new Date(Date.now() + untilMs))

  test('that turns from public to private after the endpoint was vetted is not connected to', async () => {
    const tls = certificate('turns.test')
    const receiver = await start(answering(ok + empty), { tls })
    zone.set('turns.test', ['127.0.0.1', '169.254.169.254'])
    const url = `https://turns.test:${receiver.port}/`
    const { attempt } = await suffer(url, { ca: tls.cert })
    expect(attempt).toMatchObject({ outcome: 'unreachable', reason: 'forbidden_address' })
    expect(JSON.stringify(attempt)).not.toContain('169.254')
    expect(receiver.connections).toBe(0)
  })

  test('that turns between the check and the connection changes nothing: what was checked is connected to', async () => {
    const tls = certificate('turns.test')
    const receiver = await start(answering(ok + empty), { tls })
    zone.set('turns.test', ['127.0.0.1', '127.0.0.1', '10.0.0.1'])
    const { attempt } = await suffer(`https://turns.test:${receiver.port}/`, { ca: tls.cert })
    expect(attempt).toMatchObject(delivered)
    expect(lookups).toEqual(['turns.test', 'turns.test']) // once when it was written, once for the attempt
  })

  test('that is public and private at once is refused when it is written, and at every attempt', async () => {
    zone.set('both.test', ['127.0.0.1 10.0.0.1'])
    const wish = { url: 'https://both.test/' }
    const answer = await relay.call('POST', `/v1/tenants/${tenant.id}/endpoints`, { body: wish })
    expect(answer).toMatchObject({ status: 422, body: { code: 'endpoint_address_forbidden' } })
    expect(JSON.stringify(answer.body)).not.toContain('10.0.0.1')
    zone.set('both.test', ['127.0.0.1', '127.0.0.1 10.0.0.1'])
    const { attempt } = await suffer(wish.url)
    expect(attempt).toMatchObject({ outcome: 'unreachable', reason: 'forbidden_address' })
  })

  test('that has IPv6 addresses only is delivered to', async () => {
    const tls = certificate('six.test')
    const receiver = await start(answering(ok + empty), { tls, host: '::1' })
    zone.set('six.test', ['::1'])
    const { attempt } = await suffer(`https://six.test:${receiver.port}/`, { ca: tls.cert })
    expect(attempt).toMatchObject(delivered)
    expect(attempt.phases).toEqual({
      ...{ dns_ms: expect.any(Number), connect_ms: expect.any(Number), tls_ms: expect.any(Number) },
      ...{ first_byte_ms: expect.any(Number), body_ms: expect.any(Number) },
    })
  })

  test('that is no more is unreachable by DNS, and a resolver that hangs costs the attempt its time and no more', async () => {
    zone.set('gone.test', ['127.0.0.1', 'nothing'])
    expect((await suffer('https://gone.test/')).attempt).toMatchObject({ outcome: 'unreachable', reason: 'dns' })
    zone.set('hangs.test', ['127.0.0.1', 'never'])
    expect((await suffer('https://hangs.test/')).attempt).toMatchObject(timedOut)
  })

  test.each([
    ['whose certificate has expired', certificate('shop.test', -86_400_000, -1000)],
    ['whose certificate is not valid yet', certificate('shop.test', 3_600_000)],
    ['whose certificate is for another host', certificate('other.test')],
  ])('%s gets nothing', async (_, tls) => {
    let requests = 0
    const receiver = await start(
      onRequest(() => requests++),
      { tls },
    )
    zone.set('shop.test', ['127.0.0.1'])
    const { attempt } = await suffer(`https://shop.test:${receiver.port}/`, { ca: tls.cert })
    expect(attempt).toMatchObject({ outcome: 'unreachable', reason: 'tls' })
    expect(requests).toBe(0)
  })

  test('whose certificate nobody vouches for gets nothing, nor does one that never shakes hands', async () => {
    const receiver = await start(answering(ok + empty), { tls: certificate('shop.test') })
    zone.set('shop.test', ['127.0.0.1'])
    const { attempt } = await suffer(`https://shop.test:${receiver.port}/`)
    expect(attempt).toMatchObject({ outcome: 'unreachable', reason: 'tls' })
    const mute = await start((socket) => socket.resume())
    expect((await suffer(`https://shop.test:${mute.port}/`)).attempt).toMatchObject(timedOut)
  })
})

async function start(
  behave: Behaviour,
  options?: Parameters<typeof HostileReceiver.start>[1],
): Promise<HostileReceiver> {
  const receiver = await HostileReceiver.start(behave, options)
  hostile.push(receiver)
  return receiver
}

interface Suffering {
  readonly payload?: object | undefined
  /** Made before; default: one is made for this. */
  readonly endpoint?: string
  readonly ca?: string
}

/** One message for a hostile endpoint and its good neighbour: what came of the first attempt, once it is on record. */
async function suffer(url: string, { payload = {}, endpoint, ca }: Suffering = {}) {
  const made = endpoint ?? (await makeHostileEndpoint(url, ca))
  const memory = watchMemory()
  const begunMs = performance.now()
  const { body } = await relay.post(tenant, { ...payload, at: begunMs })
  await neighbour.until((arrived) => arrived.some(({ headers }) => headers['webhook-id'] === body.message))
  const delivery = await expect
    .poll(() => deliveryOf(body.message, made), { timeout: timeoutMs + patienceMs, interval: 10 })
    .toMatchObject({ attempts: { length: 1 } })
    .then(() => deliveryOf(body.message, made))
  const grown = memory.stop()
  const shown = await read(delivery?.id ?? '')
  const [attempt] = shown.attempts
  if (attempt === undefined) throw new Error('there was an attempt a moment ago')
  expect(attempt.duration_ms).toBeLessThan(timeoutMs + 500)
  expect(performance.now() - begunMs).toBeLessThan(timeoutMs + patienceMs)
  return { endpoint: made, delivery: shown, attempt, grown }
}

async function makeHostileEndpoint(url: string, ca?: string): Promise<string> {
  const wish = {
    url,
    timeout_ms: timeoutMs,
    ...(ca !== undefined && { tls: { ca } }),
    filter: [{ path: '$.at', exists: true }],
  }
  // The endpoints of earlier tests want nothing any more: their receivers are gone.
  for (const old of retired.splice(0)) await relay.call('DELETE', `/v1/tenants/${tenant.id}/endpoints/${old}`)
  const { id } = await relay.make(`/v1/tenants/${tenant.id}/endpoints`, wish)
  retired.push(id)
  return id
}

const retired: string[] = []

async function deliveryOf(message: string, endpoint: string): Promise<ShownDelivery | undefined> {
  const { body } = await relay.call<{ data: ShownDelivery[] }>('GET', `/v1/messages/${message}/deliveries`)
  return body.data.find((delivery) => delivery.endpoint === endpoint)
}

async function read(delivery: string): Promise<ShownDelivery> {
  const { body } = await relay.call<ShownDelivery>('GET', `/v1/deliveries/${delivery}`, { key: tenant.tenantKey })
  return body
}

async function resolve(name: string): Promise<LookupAddress[]> {
  lookups.push(name)
  const answers = zone.get(name) ?? []
  const answer = (answers.length > 1 ? answers.shift() : answers[0]) ?? 'nothing'
  if (answer === 'never') return new Promise(() => {})
  if (answer === 'nothing') throw new Error('ENOTFOUND')
  return answer.split(' ').map((address) => ({ address, family: address.includes(':') ? 6 : 4 }))
}

/** The most memory in use at any time since, beyond what was in use at the beginning. */
function watchMemory() {
  const used = (): number => {
    const { heapUsed, external } = process.memoryUsage() // external includes array buffers
    return heapUsed + external
  }
  const atFirst = used()
  let most = 0
  const look = (): void => {
    most = Math.max(most, used() - atFirst)
  }
  const timer = setInterval(look, 5)
  return {
    stop(): number {
      clearInterval(timer)
      look()
      return most
    },
  }
}

function digest(bytes: string | Uint8Array): string {
  return createHash('sha256').update(bytes).digest('base64url')
}
