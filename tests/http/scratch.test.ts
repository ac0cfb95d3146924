import { connect } from 'node:net'
import { writeFileSync } from 'node:fs'
import { afterAll, beforeAll, test } from 'vitest'
import { createConfig, lintFromString } from '@redocly/openapi-core'
import { TestRelay, type TestTenant } from '../support/relay.ts'
let relay: TestRelay
let tenant: TestTenant
beforeAll(async () => { relay = await TestRelay.start(); tenant = await relay.makeTenant() })
afterAll(async () => { await relay?.stop() })
const raw = (text: string | Buffer) => new Promise<string>((resolve) => {
  const s = connect({ host: '127.0.0.1', port: Number(new URL(relay.url).port) })
  let out = ''
  s.on('data', (d) => { out += d.toString('latin1') })
  s.on('close', () => resolve(out + '<CLOSED>'))
  s.on('error', () => {})
  s.write(text)
  setTimeout(() => { resolve(out + '<OPEN>'); s.destroy() }, 800)
})
test('x', async () => {
  console.log(relay.server.printRoutes({ commonPrefix: false }))
  const doc = await (await fetch(relay.url + '/openapi.json')).text()
  writeFileSync('/tmp/openapi.json', doc)
  const config = await createConfig({ extends: ['recommended'] })
  const problems = await lintFromString({ source: doc, config })
  console.log(problems.map((p) => `${p.severity} ${p.ruleId} ${p.message} ${p.location[0]?.pointer}`).join('\n'))
  for (const path of ['/%', '/v1/messages/%ff', '/v1/messages/' + 'a'.repeat(200), '/v1/tenants?limit=x', '//', '/v1/sources/%00/messages']) {
    const a = await relay.call('GET', path); console.log(path.slice(0, 40), a.status, a.headers.get('content-type'), a.headers.get('allow'), JSON.stringify(a.body))
  }
  for (const [m, p] of [['PUT', '/v1/tenants'], ['OPTIONS', '/v1/verify'], ['POST', '/metrics'], ['TRACE2', '/metrics']] as const) {
    const a = await relay.call(m, p).catch((e) => ({ status: String(e), headers: new Headers(), body: '' })); console.log(m, p, a.status, a.headers.get('allow'), JSON.stringify(a.body))
  }
  const head = `POST /v1/sources/${tenant.source}/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${tenant.ingestKey}\r\ncontent-type: application/json\r\n`
  const shapes: Record<string, string> = {
    ok: head + 'content-length: 2\r\n\r\n{}',
    'CL+TE': head + 'content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
    'TE+CL': head + 'transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n0\r\n\r\n',
    'CL CL diff': head + 'content-length: 2\r\ncontent-length: 3\r\n\r\n{}',
    'CL CL same': head + 'content-length: 2\r\ncontent-length: 2\r\n\r\n{}',
    'CL 2,2': head + 'content-length: 2, 2\r\n\r\n{}',
    'CL +2': head + 'content-length: +2\r\n\r\n{}',
    'CL -2': head + 'content-length: -2\r\n\r\n{}',
    'obs-fold': head + 'x-a: b\r\n c\r\ncontent-length: 2\r\n\r\n{}',
    'space colon': head + 'content-length : 2\r\n\r\n{}',
    'bare LF': head.replaceAll('\r\n', '\n') + 'content-length: 2\n\n{}',
    'TE identity': head + 'transfer-encoding: identity\r\n\r\n{}',
    'TE xchunked': head + 'transfer-encoding: xchunked\r\n\r\n0\r\n\r\n',
    'TE chunked,chunked': head + 'transfer-encoding: chunked, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n',
    'TE chunked twice': head + 'transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n',
    'chunk ext': head + 'transfer-encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n',
    'chunk bad': head + 'transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n',
    'chunk lf': head + 'transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n',
    'no host': head.replace('host: x\r\n', '') + 'content-length: 2\r\n\r\n{}',
    'two hosts': head + 'host: y\r\ncontent-length: 2\r\n\r\n{}',
    'nul header': head + 'x: a\0b\r\ncontent-length: 2\r\n\r\n{}',
    garbage: '\x16\x03\x01\x02\x00\x01',
    'big header': head + `x: ${'a'.repeat(20000)}\r\n\r\n`,
    'http/1.0': head.replace('1.1', '1.0') + 'content-length: 2\r\n\r\n{}',
    'expect': head + 'expect: nonsense\r\ncontent-length: 2\r\n\r\n{}',
    'too large cl': head + 'content-length: 1048577\r\n\r\n' + 'x'.repeat(10),
    'too large chunked': head + 'transfer-encoding: chunked\r\n\r\n100001\r\n' + 'x'.repeat(0x100001) + '\r\n0\r\n\r\n',
    'no ct': head.replace('content-type: application/json\r\n', '') + 'content-length: 2\r\n\r\n{}',
    'te http1.0': head.replace('1.1', '1.0') + 'transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n',
  }
  for (const [n, s] of Object.entries(shapes)) { const r = await raw(s); console.log(n.padEnd(20), JSON.stringify(r.split('\r\n')[0]), r.endsWith('<CLOSED>'), /content-type: ([^\r]*)/i.exec(r)?.[1], /\{.*\}/.exec(r)?.[0].slice(0, 110)) }
  // revoke
  const made = await relay.make<{ id: string; key: string }>(`/v1/tenants/${tenant.id}/api-keys`, { name: 'x', role: 'tenant' })
  console.log((await relay.call('GET', `/v1/tenants/${tenant.id}`, { key: made.key })).status)
  console.log((await relay.call('DELETE', `/v1/tenants/${tenant.id}/api-keys/${made.id}`)).status)
  console.log('after revoke', (await relay.call('GET', `/v1/tenants/${tenant.id}`, { key: made.key })).status)
  const s = relay.server.server
  console.log(s.requestTimeout, s.headersTimeout, (s as any).connectionsCheckingInterval, s.timeout, s.keepAliveTimeout, s.maxHeadersCount)
  await relay.database.database.close()
  for (const [m, p, o] of [['GET', '/readyz', {}], ['GET', `/v1/tenants/${tenant.id}`, {}], ['POST', `/v1/sources/${tenant.source}/messages`, { body: {}, key: tenant.ingestKey }], ['POST', '/v1/tenants', { body: { name: 'x', tier: 'standard' } }], ['GET', '/log/checkpoint', {}]] as const) {
    const a = await relay.call(m, p, o); console.log(m, p, a.status, JSON.stringify(a.body))
  }
})
