import { once } from 'node:events'
import { createServer, type RequestListener, type Server } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { type AddressInfo, createServer as createTcpServer, type Socket } from 'node:net'
import type { TLSSocket, TlsOptions } from 'node:tls'
import { gzipSync } from 'node:zlib'
import { afterEach, describe, expect, it } from 'vitest'
import { OutboundClient, type OutboundOptions } from '../../src/delivery/client.ts'
import { EgressGuard, type EgressRules } from '../../src/delivery/guard.ts'
import type { TlsIdentity } from '../../src/tenant/records.ts'
import { makeCertificate } from '../support/certificate.ts'

const loopback: EgressRules = {
  allow: ['127.0.0.0/8', '::1/128'],
  allowHttp: true,
  resolve: async () => [{ address: '127.0.0.1', family: 4 }],
}
const body = new TextEncoder().encode('{"a":1}')
const closers: (() => unknown)[] = []
afterEach(() => Promise.all(closers.splice(0).map((close) => close())))

describe('a post', () => {
  it('carries exactly the bytes and headers given, and asks for an answer without encoding', async () => {
    const seen: unknown[] = []
    const { url } = await receiver((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk) => chunks.push(chunk))
      request.on('end', () => {
        seen.push(request.method, request.url, request.headers, Buffer.concat(chunks).toString())
        response.end()
      })
    })
    const outcome = await client().post(`${url}/hook?a=%20b`, { 'webhook-id': 'msg_1' }, body)
    expect(outcome).toMatchObject({ kind: 'delivered', status: 200, durationMs: expect.any(Number) })
    expect(seen[0]).toBe('POST')
    expect(seen[1]).toBe('/hook?a=%20b')
    expect(seen[2]).toMatchObject({ 'webhook-id': 'msg_1', 'content-length': '7', 'accept-encoding': 'identity' })
    expect(seen[3]).toBe('{"a":1}')
  })

  it('tells how long each part took, and of connecting only where that was needed', async () => {
    const { url } = await receiver(answering(200, {}, Buffer.from('ok')))
    const outbound = client()
    const ms = expect.any(Number)
    const first = await outbound.post(url, {}, body)
    expect(first.phases).toEqual({ connectMs: ms, firstByteMs: ms, bodyMs: ms })
    await new Promise((resolve) => setTimeout(resolve, 20)) // undici rests a socket for one turn of the event loop
    const second = await outbound.post(url, {}, body)
    expect(second.phases).toEqual({ firstByteMs: ms, bodyMs: ms })
    expect(second.answer).toMatchObject({ status: 200, bytes: 2, complete: true, head: Buffer.from('ok') })
  })

  it('rejects a header that could end its line', async () => {
    const { url, requests } = await receiver()
    await expect(client().post(url, { a: 'b\r\nc: d' }, body)).rejects.toThrow()
    expect(requests()).toBe(0)
  })

  it('reuses sockets for attempts one after another', async () => {
    const { url, sockets } = await receiver()
    const outbound = client()
    for (let i = 0; i < 20; i++) await outbound.post(url, {}, body)
    expect(sockets()).toBeLessThanOrEqual(2) // undici rests a socket for one turn of the event loop
  })

  it('waits for a socket beyond the bound, and is not sent once its deadline has passed', async () => {
    const asked: string[] = []
    const { url } = await receiver((request, response) => {
      asked.push(request.url ?? '')
      if (request.url?.endsWith('next')) response.end() // the others are left waiting
    })
    const patient = client({ connectionsPerOrigin: 1, timeoutMs: 1500 })
    const outcomes = await Promise.all([patient.post(url, {}, body), patient.post(url, {}, body)])
    expect(outcomes).toMatchObject([
      { kind: 'unreachable', reason: 'timeout' },
      { kind: 'unreachable', reason: 'timeout' },
    ])
    // The second waited for the first one's socket, which its deadline freed at the very end: it may have got that far.
    const before = asked.length
    expect(before).toBeLessThanOrEqual(2)
    expect(await patient.post(`${url}/next`, {}, body)).toMatchObject({ kind: 'delivered' })
    expect(asked.slice(before)).toEqual([expect.stringMatching(/next$/)])
  })
})

describe('an answer', () => {
  it.each([200, 201, 202, 204, 299])('of %i is delivered', async (status) => {
    const { url } = await receiver(answering(status))
    expect(await client().post(url, {}, body)).toMatchObject({ kind: 'delivered', status })
  })

  it.each([300, 304, 400, 401, 404, 410, 429, 500, 503, 599])('of %i is refused', async (status) => {
    const { url } = await receiver(answering(status))
    expect(await client().post(url, {}, body)).toMatchObject({
      kind: 'refused',
      status,
      durationMs: expect.any(Number),
    })
  })

  it.each([301, 302, 303, 307, 308])('that redirects with %i is refused and not followed', async (status) => {
    const other = await receiver()
    const { url } = await receiver(answering(status, { location: other.url }))
    expect(await client().post(url, {}, body)).toMatchObject({ kind: 'refused', status })
    expect(other.requests()).toBe(0)
  })

  it.each([
    ['120', 120_000],
    ['0', 0],
    ['999999999999999', Number.MAX_SAFE_INTEGER],
    ['Tue, 01 Dec 2026 00:01:00 GMT', 60_000],
    ['Mon, 30 Nov 2026 00:00:00 GMT', 0],
    ['Tue, 99 Dec 2026 00:01:00 GMT', undefined],
    ['tomorrow', undefined],
    ['-5', undefined],
    ['1.5', undefined],
    ['1e3', undefined],
    ['2026-12-01T00:01:00Z', undefined],
    ['9'.repeat(16), undefined],
  ])('with Retry-After %j asks for %s ms', async (retryAfter, retryAfterMs) => {
    const { url } = await receiver(answering(503, { 'retry-after': retryAfter }))
    const clock = { now: () => new Date('2026-12-01T00:00:00Z') }
    const outcome = await client({ clock }).post(url, {}, body)
    expect(outcome).toMatchObject({ kind: 'refused', status: 503 })
    expect('retryAfterMs' in outcome ? outcome.retryAfterMs : undefined).toBe(retryAfterMs)
  })

  it('that never comes is a timeout', async () => {
    const { url } = await receiver(() => undefined)
    expect(await client({ timeoutMs: 100 }).post(url, {}, body)).toMatchObject({
      kind: 'unreachable',
      reason: 'timeout',
    })
  })

  it.each([
    [200, { kind: 'unreachable', reason: 'timeout' }],
    [410, { kind: 'refused', status: 410 }],
  ])('of %i whose body drips past the deadline ends there', async (status, outcome) => {
    const { url, closed } = await receiver((_, response) => {
      response.writeHead(status)
      const drip = setInterval(() => response.write('.'), 10)
      response.on('close', () => clearInterval(drip))
    })
    expect(await client({ timeoutMs: 150 }).post(url, {}, body)).toMatchObject(outcome)
    await closed()
  })

  it.each([
    [200, 1000, { kind: 'delivered', status: 200 }],
    [200, 1001, { kind: 'unreachable', reason: 'too_large' }],
    [404, 1001, { kind: 'refused', status: 404 }],
  ])('of %i with %i bytes is read to a cap of 1000', async (status, length, outcome) => {
    const { url } = await receiver((_, response) => response.writeHead(status).end('x'.repeat(length)))
    expect(await client({ maxResponseBytes: 1000 }).post(url, {}, body)).toMatchObject(outcome)
  })

  it('without end is cut off at the cap and its socket destroyed', async () => {
    const { url, closed } = await receiver((_, response) => {
      const pour = () => {
        while (response.write('x'.repeat(10_000)));
      }
      response.writeHead(200).on('drain', pour)
      pour()
    })
    expect(await client().post(url, {}, body)).toMatchObject({ kind: 'unreachable', reason: 'too_large' })
    await closed()
  })

  it('that is compressed is not unpacked', async () => {
    const bomb = gzipSync(Buffer.alloc(1_000_000))
    const { url } = await receiver(answering(200, { 'content-encoding': 'gzip' }, bomb))
    expect(await client({ maxResponseBytes: 2000 }).post(url, {}, body)).toMatchObject({ kind: 'delivered' })
  })

  it.each([
    ['is cut off by a reset', '', 'reset'],
    ['ends within its body', 'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc', 'reset'],
    ['ends within a chunk', 'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab', 'reset'],
    ['is not HTTP', 'SSH-2.0-OpenSSH_9.2\r\n', 'protocol'],
    ['has both lengths', 'HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n', 'reset'],
    ['floods us with headers', `HTTP/1.1 200 OK\r\n${`a: ${'b'.repeat(1000)}\r\n`.repeat(20)}\r\n`, 'too_large'],
    ['floods us with 1xx', 'HTTP/1.1 103 Early Hints\r\n\r\n'.repeat(100), 'protocol'],
    ['switches protocols', 'HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n', 'reset'],
  ])('that %s is not one', async (_, answer, reason) => {
    const url = await rawReceiver((socket) => socket.once('data', () => socket.end(answer)))
    expect(await client().post(url, {}, body)).toMatchObject({ kind: 'unreachable', reason })
  })

  it('that follows a 103 counts', async () => {
    const hints = 'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n'
    const url = await rawReceiver((socket) =>
      socket.once('data', () => socket.end(`${hints}HTTP/1.1 202 Accepted\r\n\r\n`)),
    )
    expect(await client().post(url, {}, body)).toMatchObject({ kind: 'delivered', status: 202 })
  })
})

describe('a receiver', () => {
  it('that does not listen is a failed connection', async () => {
    const server = createTcpServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const { port } = server.address() as AddressInfo
    server.close()
    await once(server, 'close')
    for (const scheme of ['http', 'https']) {
      const outcome = await client().post(`${scheme}://127.0.0.1:${port}/`, {}, body)
      expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'connect' })
    }
  })

  it('whose name does not resolve is unreachable by DNS', async () => {
    const guard = new EgressGuard({ ...loopback, resolve: () => Promise.reject(new Error('ENOTFOUND')) })
    const outcome = await client({ guard }).post('http://receiver.test/', {}, body)
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'dns' })
  })

  it('whose resolver hangs costs the time to connect, not more', async () => {
    const guard = new EgressGuard({ ...loopback, resolve: () => new Promise(() => undefined) })
    const outcome = await client({ guard, connectTimeoutMs: 50 }).post('http://receiver.test/', {}, body)
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'timeout' })
  })

  it.each(['http://127.0.0.1', 'http://2130706433', 'http://[::1]', 'http://[::ffff:7f00:1]', 'http://localhost'])(
    'at the forbidden %s is never connected to',
    async (host) => {
      const { port, sockets } = await receiver()
      const guard = new EgressGuard({ allowHttp: true })
      const outcome = await client({ guard }).post(`${host}:${port}/`, {}, body)
      expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'forbidden_address' })
      expect(sockets()).toBe(0)
    },
  )

  it('whose name leads to a forbidden address is never connected to', async () => {
    const { port, sockets } = await receiver()
    const guard = new EgressGuard({ ...loopback, allow: [] })
    const outcome = await client({ guard }).post(`http://receiver.test:${port}/`, {}, body)
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'forbidden_address' })
    expect(sockets()).toBe(0)
  })

  it('whose name turns to a forbidden address is lost at the next connection', async () => {
    const { port, requests } = await receiver(answering(200, { connection: 'close' }))
    const addresses = ['127.0.0.1', '10.0.0.1']
    const resolve = async () => [{ address: addresses.shift() ?? '', family: 4 }]
    const outbound = client({ guard: new EgressGuard({ ...loopback, resolve }) })
    const url = `http://receiver.test:${port}/`
    expect(await outbound.post(url, {}, body)).toMatchObject({ kind: 'delivered' })
    expect(await outbound.post(url, {}, body)).toMatchObject({ kind: 'unreachable', reason: 'forbidden_address' })
    expect(requests()).toBe(1)
  })

  it('that the socket reached although the guard forbids it gets no request', async () => {
    class LookupBypassed extends EgressGuard {
      override readonly lookup: EgressGuard['lookup'] = (_, __, callback) =>
        callback(null, [{ address: '127.0.0.1', family: 4 }])
    }
    const { port, requests, sockets } = await receiver()
    const outbound = client({ guard: new LookupBypassed({ allowHttp: true }) })
    const outcome = await outbound.post(`http://receiver.test:${port}/`, {}, body)
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'forbidden_address' })
    expect([sockets(), requests()]).toEqual([1, 0])
  })

  it('whose URL the rules of today refuse is not called', async () => {
    const { port, sockets } = await receiver()
    const outbound = client({ guard: new EgressGuard({ ...loopback, allowHttp: false }) })
    const outcome = await outbound.post(`http://receiver.test:${port}/`, {}, body)
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'forbidden_url' })
    expect(sockets()).toBe(0)
  })
})

describe('TLS', () => {
  const ago = new Date(Date.now() - 86_400_000)
  const ahead = new Date(Date.now() + 86_400_000)
  const good = makeCertificate('receiver.test', ago, ahead)

  it('is accepted from a trusted certificate for the name', async () => {
    const url = await tlsReceiver(good)
    expect(await client({ ca: [good.cert] }).post(url, {}, body)).toMatchObject({ kind: 'delivered' })
  })

  it('is refused from a certificate nobody vouches for, whatever the environment says', async () => {
    const url = await tlsReceiver(good)
    expect(await client().post(url, {}, body)).toMatchObject({ kind: 'unreachable', reason: 'tls' })
    process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
    try {
      expect(await client().post(url, {}, body)).toMatchObject({ kind: 'unreachable', reason: 'tls' })
    } finally {
      delete process.env.NODE_TLS_REJECT_UNAUTHORIZED
    }
  })

  it.each([
    ['for another name', makeCertificate('other.test', ago, ahead)],
    ['that has expired', makeCertificate('receiver.test', new Date(0), ago)],
    ['that is not valid yet', makeCertificate('receiver.test', ahead, new Date(ahead.getTime() + 1000))],
  ])('is refused from a trusted certificate %s', async (_, certificate) => {
    const url = await tlsReceiver(certificate)
    const outcome = await client({ ca: [certificate.cert] }).post(url, {}, body)
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'tls' })
  })

  it('is refused below version 1.2', async () => {
    const url = await tlsReceiver({ ...good, minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' })
    expect(await client({ ca: [good.cert] }).post(url, {}, body)).toMatchObject({ kind: 'unreachable', reason: 'tls' })
  })

  it('is refused when the receiver asks for a certificate of ours', async () => {
    const url = await tlsReceiver({ ...good, requestCert: true, rejectUnauthorized: true })
    const outcome = await client({ ca: [good.cert] }).post(url, {}, body)
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: expect.stringMatching(/tls|reset/) })
  })

  it('is refused from a receiver that hangs up, speaks plainly or says nothing', async () => {
    const hangUp = await rawReceiver((socket) => socket.once('data', () => socket.destroy()))
    const plain = await rawReceiver((socket) => socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\n\r\n')))
    const silent = await rawReceiver(() => undefined)
    const reasons: Record<string, string> = { [hangUp]: 'tls', [plain]: 'tls', [silent]: 'timeout' }
    for (const [url, reason] of Object.entries(reasons)) {
      const outcome = await client({ connectTimeoutMs: 200 }).post(url.replace('http', 'https'), {}, body)
      expect(outcome).toMatchObject({ kind: 'unreachable', reason })
    }
  })
})

describe('a TLS identity', () => {
  const ago = new Date(Date.now() - 3_600_000)
  const ahead = new Date(Date.now() + 3_600_000)
  const server = makeCertificate('receiver.test', ago, ahead)
  const identity = (name: string): TlsIdentity => {
    const { cert, key } = makeCertificate(name, ago, ahead)
    return { certificate: cert, key, ca: server.cert }
  }

  it('has sockets of its own, which attempts with equal identities share', async () => {
    const names: (string | undefined)[] = []
    const asking = { ...server, requestCert: true, rejectUnauthorized: false }
    const tls = createTlsServer(asking, (_, response) => response.end())
    tls.on('secureConnection', (socket: TLSSocket) => names.push(String(socket.getPeerCertificate().subject?.CN)))
    const url = `https://receiver.test:${await listen(tls)}/`
    const outbound = client()
    const [one, two] = [identity('one'), identity('two')]
    for (const each of [one, two, { ...one }, { ...two }, { ...one }]) {
      expect(await outbound.post(url, {}, body, { tls: each })).toMatchObject({ kind: 'delivered' })
    }
    // undici rests a socket for one turn of the event loop, so there may be a second of each.
    expect(new Set(names)).toEqual(new Set(['one', 'two']))
    expect(names.length).toBeLessThanOrEqual(4)
    expect(await outbound.post(url, {}, body)).toMatchObject({ kind: 'unreachable', reason: 'tls' })
  })

  it('that many others have pushed out gives its sockets back, and connects anew', async () => {
    const tls = createTlsServer(server, (_, response) => response.end())
    const url = `https://receiver.test:${await listen(tls)}/`
    const open = () => new Promise<number>((resolve) => tls.getConnections((_, count) => resolve(count)))
    const outbound = client()
    const trusting: TlsIdentity = { certificate: null, key: null, ca: server.cert }
    expect(await outbound.post(url, {}, body, { tls: trusting })).toMatchObject({ kind: 'delivered' })
    // Line ends make another text of the same certificates, so another identity.
    for (let n = 1; n <= 300; n++) {
      const other = { ...trusting, ca: `${'\n'.repeat(n)}${server.cert}` }
      expect(await outbound.post(url, {}, body, { tls: other })).toMatchObject({ kind: 'delivered' })
    }
    await expect.poll(open).toBeLessThanOrEqual(256)
    expect(await outbound.post(url, {}, body, { tls: trusting })).toMatchObject({ kind: 'delivered' })
  })

  it('is still held to the name and the dates of the receiver’s certificate', async () => {
    const other = makeCertificate('other.test', ago, ahead)
    const expired = makeCertificate('receiver.test', new Date(0), ago)
    for (const wrong of [other, expired]) {
      const tls = { certificate: null, key: null, ca: wrong.cert }
      const outcome = await client().post(await tlsReceiver(wrong), {}, body, { tls })
      expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'tls' })
    }
  })

  it('waits as long as the attempt says', async () => {
    const { url } = await receiver(() => undefined)
    const outcome = await client().post(url, {}, body, { timeoutMs: 50 })
    expect(outcome).toMatchObject({ kind: 'unreachable', reason: 'timeout' })
  })
})

describe('closing', () => {
  it('waits for the attempts in flight', async () => {
    let answer: (() => void) | undefined
    const { url } = await receiver((_, response) => {
      answer = () => response.end()
    })
    const outbound = client()
    const outcome = outbound.post(url, {}, body)
    while (answer === undefined) await new Promise(setImmediate)
    const closed = outbound.close()
    answer()
    expect(await outcome).toMatchObject({ kind: 'delivered' })
    await closed
  })

  it('aborts what is left after the grace, and what is posted later', async () => {
    const { url } = await receiver(() => undefined)
    const outbound = client({ connectionsPerOrigin: 1 })
    const outcomes = [outbound.post(url, {}, body), outbound.post(url, {}, body)]
    await outbound.close(50)
    outcomes.push(outbound.post(url, {}, body))
    for (const outcome of outcomes) expect(await outcome).toMatchObject({ kind: 'unreachable', reason: 'aborted' })
  })
})

function client(options: Partial<OutboundOptions> = {}): OutboundClient {
  const outbound = new OutboundClient({ guard: new EgressGuard(loopback), ...options })
  closers.push(() => outbound.close(0))
  return outbound
}

const answering =
  (status: number, headers: Record<string, string> = {}, content: Uint8Array | string = ''): RequestListener =>
  (_, response) =>
    void response.writeHead(status, headers).end(content)

async function receiver(answer: RequestListener = answering(200)) {
  const seen = { requests: 0, sockets: 0 }
  const closed = Promise.withResolvers<void>()
  const server = createServer((request, response) => {
    seen.requests++
    response.on('error', () => undefined)
    answer(request, response)
  })
  server.on('connection', (socket) => {
    seen.sockets++
    socket.on('close', () => closed.resolve())
  })
  const port = await listen(server)
  const url = `http://127.0.0.1:${port}`
  return { url, port, requests: () => seen.requests, sockets: () => seen.sockets, closed: () => closed.promise }
}

async function rawReceiver(serve: (socket: Socket) => unknown): Promise<string> {
  const sockets = new Set<Socket>()
  const server = createTcpServer((socket) => {
    sockets.add(socket.on('error', () => undefined))
    serve(socket)
  })
  closers.push(() => sockets.forEach((socket) => void socket.destroy()))
  server.listen(0, '127.0.0.1')
  closers.push(() => server.close())
  await once(server, 'listening')
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

const tlsReceiver = async (options: TlsOptions): Promise<string> =>
  `https://receiver.test:${await listen(createTlsServer(options, answering(200)))}/`

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  closers.push(() => {
    server.closeAllConnections()
    server.close()
  })
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}
