import { type FigureName, type Figures, showNumber } from './figures.ts'

/** The median of a figure in a scenario, or undefined if it was not measured. */
export type Median = (scenario: string, figure: FigureName) => number | undefined

/** A part of what a message must cost however well the relay is written, CPU microseconds, and the baseline that says so. */
interface LeastPart {
  readonly part: string
  readonly us: number | undefined
  readonly from: string
}

/**
 * What stands between the figures and the bars, from the baselines of the same run: what the signatures, the two HTTP
 * exchanges, the rows, and both ends of the load cost at least, how many messages a second that leaves room for, and how
 * busy the machine is at the rate at which latency is judged. Empty unless all of it was measured.
 */
export function limitsMarkdown(median: Median): string {
  const signs = median('signatures', 'signsPerS')
  const least: LeastPart[] = [
    { part: 'three Ed25519 signatures', us: signs && (3 * second) / signs, from: 'signatures: node:crypto signs' },
    { part: 'HTTP, a post in and a post out', us: median('forwarder', 'relayUs'), from: 'forwarder: CPU of relay' },
    { part: 'the payload into PostgreSQL', us: median('floor', 'postgresUs'), from: 'floor: CPU of PostgreSQL' },
  ]
  const ends: LeastPart[] = [
    { part: 'the receiver', us: median('sustained', 'receiverUs'), from: 'sustained: CPU of receiver' },
    { part: 'the generator', us: median('sustained', 'generatorUs'), from: 'sustained: CPU of generator' },
  ]
  const found = median('sustained', 'relayAndPostgresUs')
  const paced = busyAt(1000, median)
  const of = (scenario: string, figure: FigureName) => showNumber(median(scenario, figure) ?? Number.NaN)
  const leastUs = sum(least)
  const endsUs = sum(ends)
  if (leastUs === undefined || endsUs === undefined || found === undefined || paced === undefined) return ''
  const row = (part: string, us: number, from: string) => `| ${part} | ${showNumber(us)} | ${from} |`
  const perS = (us: number) => showNumber((cores * second) / (us + endsUs))
  return `## What stands in the way

The least that a message can cost on this machine, from the baselines of the same runs, and what it costs. Two cores hold
two million microseconds a second.

| part | CPU µs per message | from |
| --- | ---: | --- |
${least.map(({ part, us = 0, from }) => row(part, us, from)).join('\n')}
${row('**relay and PostgreSQL, at least**', leastUs, `would be ${perS(leastUs)} a second, the ends of the load included`)}
${row('**relay and PostgreSQL, found**', found, `makes ${perS(found)} a second, if no core ever waited`)}
${ends.map(({ part, us = 0, from }) => row(part, us, from)).join('\n')}

So the bar of 400 µs leaves ${showNumber(400 - leastUs)} µs for everything that makes the relay what it is: strict parsing, canonical form, two
statements with their leaves, three seals, the receipt and its verification, the queue in PostgreSQL, and the collection of all that garbage.
It takes ${showNumber(found - leastUs)} µs: the table below says where they go, and none of its rows is large. Throughput follows from the same sum, since
all four processes share the two cores.

At 1,000 messages a second batches are small, a message costs ${showNumber(paced.us)} µs in all four, and the cores are ${showNumber(paced.busy * 100)} % busy. And the disk
stalls now and then: on an idle machine, 200 commits a second of five rows each take ${of('floor', 'pacedCommitP50Ms')} ms in the middle, ${of('floor', 'pacedCommitP99Ms')} ms at p99 and ${of('floor', 'pacedCommitP999Ms')} ms
at p99.9, and whoever posts during such a commit waits for it. Both show in the latency at that rate.

Accepting alone costs ${of('accept-only', 'relayAndPostgresUs')} µs in relay and PostgreSQL and ${of('accept-only', 'generatorUs')} µs in the generator; 6,000 a second would leave ${showNumber((cores * second) / 6000)} µs for
all of it. Once in the sustained minute the event
loop was late by ${of('sustained', 'stallMaxMs')} ms, in 99 % of all looks by less than ${of('sustained', 'stallP99Ms')} ms: which turn that was, a sampling profile does not tell.`
}

const second = 1e6
const cores = 2

/** What a message costs in all four processes when `perS` come a second, and what share of both cores that is. */
function busyAt(perS: number, median: Median): { us: number; busy: number } | undefined {
  const figures: (keyof Figures)[] = ['relayAndPostgresUs', 'receiverUs', 'generatorUs']
  const us = sum(figures.map((figure) => ({ us: median(`rate-${perS}`, figure) })))
  return us === undefined ? undefined : { us, busy: (us * perS) / (cores * second) }
}

function sum(parts: readonly { readonly us: number | undefined }[]): number | undefined {
  let total = 0
  for (const { us } of parts) {
    if (us === undefined) return undefined
    total += us
  }
  return total
}
