/** RFC 9421: our signature base against a stock library's, for URLs of every kind. Both end in the same bytes. */
import fc from 'fast-check'
import { httpbis } from 'http-message-signatures'
import { expect, test } from 'vitest'
import { httpSigningInput } from '../../src/keyring/signing-input.ts'

const kid = 'kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k'
const fields = {
  'content-type': 'application/json',
  'content-digest': 'sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:',
  'webhook-id': 'msg_01m80jwbte4q7xjjez9ncstw57',
  'webhook-timestamp': '1780000000',
}

test('the base of a request is written out as RFC 9421 §2.5 has it', () => {
  const url = new URL('https://Receiver.Example:443/hooks/1?a=%20b')
  const { input, parameters } = httpSigningInput({ url, fields, createdS: 1_780_000_000, kid })
  expect(Buffer.from(input).toString().split('\n')).toEqual([
    '"@method": POST',
    '"@authority": receiver.example',
    '"@path": /hooks/1',
    '"@query": ?a=%20b',
    '"content-type": application/json',
    '"content-digest": sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:',
    '"webhook-id": msg_01m80jwbte4q7xjjez9ncstw57',
    '"webhook-timestamp": 1780000000',
    `"@signature-params": ${parameters}`,
  ])
  expect(parameters).toBe(
    '("@method" "@authority" "@path" "@query" "content-type" "content-digest" "webhook-id" "webhook-timestamp")' +
      `;created=1780000000;keyid="${kid}";tag="webhook-relay"`,
  )
})

test('a stock library builds the same base for every URL', () => {
  fc.assert(
    fc.property(fc.webUrl({ withQueryParameters: true }), (text) => {
      const url = new URL(text)
      const { input, parameters } = httpSigningInput({ url, fields, createdS: 1_780_000_000, kid })
      const covered = /^\((.*)\);/.exec(parameters)?.[1]?.split(' ') ?? []
      const request = { method: 'POST', url: url.href, headers: fields }
      const base = httpbis.createSignatureBase({ fields: covered }, request)
      base.push(['"@signature-params"', [parameters]])
      expect(Buffer.from(input).toString()).toBe(httpbis.formatSignatureBase(base))
    }),
  )
})

test('what it signs starts with a quotation mark, as neither a webhook nor a JWS does', () => {
  const { input } = httpSigningInput({ url: new URL('https://a.example/'), fields, createdS: 0, kid })
  expect(String.fromCharCode(input[0] ?? 0)).toBe('"')
})
