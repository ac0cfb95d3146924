import { beforeAll, describe, expect, it } from 'vitest'
import { type DrillResult, drill, summarize } from './crash-drill.ts'
import type { Evidence } from './evidence.ts'
import { type FactOf, factsOf } from './ledger.ts'
import { judge, type PromiseName } from './promises.ts'
import { planRounds, targets } from './strikes.ts'

const rounds = 10
const seed = 20261122

describe('ten rounds of faults under load', () => {
  let result: DrillResult
  let numbers: ReturnType<typeof summarize>

  beforeAll(async () => {
    result = await drill({ rounds, seed }, (line) => void (line.startsWith('SKIPPED') && console.warn(line)))
    numbers = summarize(result)
    console.log(JSON.stringify({ rounds, seed, seconds: Math.round(result.seconds), ...numbers }))
  }, 300_000)

  it('break no promise', () => {
    expect(result.violations).toEqual([])
  })

  it('are rounds in which much was accepted, and nearly everything was struck', () => {
    const { evidence } = result
    expect(new Set(factsOf(evidence.facts, 'struck').map(({ round }) => round)).size).toBe(rounds)
    // A strike can miss: what it would have killed was dead already, or nothing was committed while it waited.
    expect(targets.filter((target) => numbers.hits[target] === 0).length).toBeLessThanOrEqual(3)
    expect(numbers.accepted).toBeGreaterThan(500)
    expect(numbers.messages).toBeGreaterThan(500)
    expect(numbers.tenantsKeptOut).toBeGreaterThan(0)
    expect(numbers.arrivals).toBeGreaterThanOrEqual(numbers.messages)
  })

  it('hit requests in flight and deliveries in hand', () => {
    expect(numbers.withoutAnswer).toBeGreaterThan(0)
    expect(numbers.connectionsLost).toBeGreaterThan(0)
    expect(numbers.arrivedAgain).toBeGreaterThan(0)
  })

  // Each lie changes true evidence in one place. A judge that lets one pass would let a broken relay pass.
  const lies: Record<string, [promise: PromiseName, lie: (evidence: Evidence) => Evidence]> = {
    'a leaf taken out of the log': [
      'every 202 is in the log exactly once, and its receipt verifies',
      (evidence) => ({
        ...evidence,
        log: {
          ...evidence.log,
          entries: replaced(evidence.log.entries, firstMessage(evidence)[1].leaf_index, new Uint8Array(32)),
        },
      }),
    ],
    'an older root for the newest tree': [
      'the log is one tree that only ever grew',
      (evidence) => ({ ...evidence, log: { ...evidence.log, rootHash: new Uint8Array(32) } }),
    ],
    'a log that lost its last leaf': [
      'the log is one tree that only ever grew',
      ({ log, ...evidence }) => ({ ...evidence, log: { ...log, entries: log.entries.slice(0, -1) } }),
    ],
    'a message that never arrived': [
      'every 202 is delivered or abandoned, with the right bytes and a signature',
      (evidence) =>
        withoutFacts(evidence, (fact) => fact.kind === 'arrived' && fact.message === firstMessage(evidence)[0]),
    ],
    'an arrival of a body that was never posted': [
      'every 202 is delivered or abandoned, with the right bytes and a signature',
      (evidence) => withFirstArrival(evidence, (fact) => ({ ...fact, body: Buffer.from('{}').toString('base64') })),
    ],
    'an arrival of a message that the relay does not know': [
      'nothing is delivered that is not in the log',
      (evidence) => withFirstArrival(evidence, (fact) => ({ ...fact, message: 'msg_unknown' })),
    ],
    'an arrival whose receipt is not in the log': [
      'nothing is delivered that is not in the log',
      (evidence) =>
        withFirstArrival(evidence, (fact) => ({
          ...fact,
          headers: { ...fact.headers, 'webhook-receipt': 'e30.e30.' },
        })),
    ],
    'a webhook at the receiver of another tenant': [
      'no tenant gets a byte of another',
      (evidence) =>
        withFirstArrival(evidence, (fact) => ({ ...fact, tenant: fact.tenant === 'jade' ? 'amber' : 'jade' })),
    ],
    'a header that names another tenant': [
      'no tenant gets a byte of another',
      (evidence) =>
        withFirstArrival(evidence, (fact) => {
          const other = evidence.tenants.find(({ name }) => name !== fact.tenant)
          return { ...fact, headers: { ...fact.headers, 'x-trace': `of ${other?.ids[0]}` } }
        }),
    ],
    'a message shown to another tenant': [
      'no tenant gets a byte of another',
      ({ trespasses, ...evidence }) => ({
        ...evidence,
        trespasses: trespasses.map((each, i) => (i === 0 ? { ...each, status: 200 } : each)),
      }),
    ],
    'a delivery that nobody took': [
      'every 202 is delivered or abandoned, with the right bytes and a signature',
      (evidence) =>
        withFacts(evidence, (fact) =>
          fact.kind === 'arrived' && fact.message === firstMessage(evidence)[0] ? { ...fact, taken: false } : fact,
        ),
    ],
    'a message without its delivery': [
      'what got no 202 is wholly there or wholly absent',
      (evidence) => withFirstMessage(evidence, (message) => ({ ...message, deliveries: [] })),
    ],
    'a message accepted after it was refused for certain': [
      'what got no 202 is wholly there or wholly absent',
      (evidence) => {
        const posted = factsOf(evidence.facts, 'posted').find(
          ({ post, key }) => key === null && evidence.receipts.some((receipt) => receipt.post === post),
        )
        if (posted === undefined) throw new Error('nothing was posted')
        const refused = { ...posted, kind: 'refused', status: 503, code: 'storage_unavailable' } as const
        return { ...evidence, facts: [...evidence.facts, refused] }
      },
    ],
    'two messages of one post': [
      'one post is at most one message',
      (evidence) => {
        const [first, second] = evidence.receipts
        if (first === undefined || second === undefined) throw new Error('there are no receipts')
        return {
          ...evidence,
          receipts: [
            ...evidence.receipts,
            { ...second, post: first.post, receipt: { ...second.receipt, message: 'msg_second' } },
          ],
        }
      },
    ],
    'a leaf that nobody accounts for': [
      'every leaf has one cause',
      (evidence) => ({ ...evidence, messages: new Map([...evidence.messages].slice(1)) }),
    ],
    'a relay that ended by itself': [
      'the relay never gives up by itself',
      (evidence) => ({
        ...evidence,
        facts: [
          ...evidence.facts,
          { kind: 'exited', name: 'owner', exitCode: 1, said: '', opening: false, asked: false, round: 1, afterMs: 0 },
        ],
      }),
    ],
  }

  it.each(Object.entries(lies))('would be seen to fail by %s', (_name, [promise, lie]) => {
    expect(judge(lie(result.evidence), [promise])).not.toEqual([])
  })
})

describe('the schedule of a drill', () => {
  it('is the same for the same seed, and another for another', () => {
    expect(planRounds(20, 7)).toEqual(planRounds(20, 7))
    expect(planRounds(20, 7)).not.toEqual(planRounds(20, 8))
  })

  it('has every target within any two decks', () => {
    const struck = planRounds(10, 7).flatMap(({ strikes }) => strikes.map(({ target }) => target))
    expect(new Set(struck)).toEqual(new Set(targets))
  })
})

function firstMessage({ messages }: Evidence) {
  const [first] = messages
  if (first === undefined) throw new Error('there are no messages')
  return first
}

const replaced = <T>(items: readonly T[], index: number, item: T): T[] =>
  items.map((old, i) => (i === index ? item : old))

type Fact = Evidence['facts'][number]

const withoutFacts = (evidence: Evidence, which: (fact: Evidence['facts'][number]) => boolean): Evidence => ({
  ...evidence,
  facts: evidence.facts.filter((fact) => !which(fact)),
})

const withFacts = (evidence: Evidence, lie: (fact: Fact) => Fact): Evidence => ({
  ...evidence,
  facts: evidence.facts.map(lie),
})

function withFirstArrival(evidence: Evidence, lie: (fact: FactOf<'arrived'>) => FactOf<'arrived'>): Evidence {
  const [first] = factsOf(evidence.facts, 'arrived')
  return { ...evidence, facts: evidence.facts.map((fact) => (fact === first ? lie(first) : fact)) }
}

function withFirstMessage(
  evidence: Evidence,
  lie: (message: ReturnType<typeof firstMessage>[1]) => ReturnType<typeof firstMessage>[1],
): Evidence {
  const [id, message] = firstMessage(evidence)
  return { ...evidence, messages: new Map([...evidence.messages, [id, lie(message)]]) }
}
