import { createRequire } from 'node:module'

/**
 * What is posted: `github` is every example of @octokit/webhooks-examples in turn (1 to 27 KB, 10 KB on average); a
 * number is a synthetic order of so many bytes. Each starts with its own number, under a name that RFC 8785 sorts first,
 * so that posted, forwarded and received bytes have it at the same place and a lost or doubled one is seen.
 */
export type PayloadKind = 'github' | number

/** The payload of a post, as bytes. They are overwritten by the next call: copy what must last. */
export type PayloadMaker = (post: number) => Buffer

export function payloadMaker(kind: PayloadKind): PayloadMaker {
  const templates = kind === 'github' ? githubExamples() : [orderOf(kind)]
  return (post) => {
    const payload = templates[post % templates.length] as Buffer
    payload.write(String(post).padStart(digits, '0'), digitsAt, 'latin1')
    return payload
  }
}

/** The number in a payload, or in its first bytes. */
export const postOf = (payload: Buffer): number => Number(payload.toString('latin1', digitsAt, digitsAt + digits))

const digits = 12
const opening = '{"$post":"'
const digitsAt = opening.length

const numbered = (json: string): Buffer => Buffer.from(`${opening}${'0'.repeat(digits)}",${json.slice(1)}`)

function githubExamples(): Buffer[] {
  const events = createRequire(import.meta.url)('@octokit/webhooks-examples') as { examples: object[] }[]
  return events.flatMap(({ examples }) => examples.map((example) => numbered(JSON.stringify(example))))
}

/** An order as a shop would post it, member names unsorted, its last text filled up to `bytes`. */
function orderOf(bytes: number): Buffer {
  const line = (n: number) => ({
    sku: `SKU-${n}-É`,
    title: 'Ceramic mug "Ångström", 300 ml\n',
    quantity: 1 + (n % 3),
    price: { currency: 'EUR', amount: 12.5 + n, taxed: true },
  })
  const lines: unknown[] = []
  const order = (note: string) =>
    numbered(
      JSON.stringify({
        type: 'order.paid',
        created_at: '2026-11-22T08:15:30Z',
        order: { id: 81234567, status: 'paid', total: 187.45, lines, coupon: null },
        customer: { name: 'Zoë Ødegård', email: 'zoe@example.com', tags: ['returning', 'newsletter'] },
        note,
      }),
    )
  for (let left = bytes - order('').length; left > 200; left -= JSON.stringify(lines.at(-1)).length + 4) {
    lines.push(line(lines.length))
  }
  return order('n'.repeat(Math.max(0, bytes - order('').length)))
}
