import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { scenarios } from './scenarios.ts'

export interface Options {
  readonly scenarios: readonly string[]
  readonly seconds: number
  readonly statements: number
  readonly warmUpSeconds: number
  readonly runs: number
  readonly jsonFile: string
  readonly compareFile: string | undefined
  readonly profile: boolean
  readonly writeResults: boolean
  /** Reports that RESULTS.md is made from, without measuring anything. */
  readonly resultsOf: readonly string[]
}

/** What the command line asks for; a sentence when it asks for nothing that exists, or for help. */
export function readOptions(args: readonly string[]): Options | string {
  let values: ReturnType<typeof parse>
  try {
    values = parse(args)
  } catch (error) {
    return `${(error as Error).message}\n\n${help()}`
  }
  if (values.help) return help()
  const quick = values.quick === true
  const names = values.scenario?.split(',') ?? unnamed(quick)
  const unknown = names.filter((name) => !(name in scenarios))
  if (unknown.length > 0) return `There is no scenario ${unknown.join(', ')}.\n\n${help()}`
  const seconds = Number(values.seconds ?? (quick ? 3 : 10))
  const runs = Number(values.runs ?? 1)
  if (!(seconds >= 1 && seconds <= 3600) || !(runs >= 1 && runs <= 20)) return 'Seconds are 1 to 3600, runs 1 to 20.'
  const statements = Number(values.statements ?? 100_000)
  if (!(Number.isInteger(statements) && statements >= 1)) return 'Statements are a whole number from 1 on.'
  return {
    scenarios: names,
    seconds,
    statements,
    warmUpSeconds: quick ? 1 : 6,
    runs: Math.round(runs),
    jsonFile: values.json ?? join(tmpdir(), 'countersign-bench.json'),
    compareFile: values.compare,
    profile: values.profile === true,
    writeResults: values['write-results'] === true,
    resultsOf: values.results?.split(',') ?? [],
  }
}

/** What runs when no scenario is named. */
const unnamed = (quick: boolean): string[] =>
  Object.entries(scenarios).flatMap(([name, scenario]) => ((quick ? scenario.quick : !scenario.long) ? name : []))

const parse = (args: readonly string[]) =>
  parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean' },
      scenario: { type: 'string' },
      seconds: { type: 'string' },
      statements: { type: 'string' },
      runs: { type: 'string' },
      json: { type: 'string' },
      compare: { type: 'string' },
      profile: { type: 'boolean' },
      'write-results': { type: 'boolean' },
      results: { type: 'string' },
      help: { type: 'boolean' },
    },
  }).values

const help = (): string => `\
npm run bench -- [options]

Starts PostgreSQL, the relay, a receiver and a load generator on this machine, and measures. Fails if a message is
missing, or if a receipt or signature in the sample does not verify.

  --quick               the main scenarios for 3 s each, under a minute in all
  --scenario a,b        only these
  --seconds N           how long each is measured; 10 by default, after 6 to warm up; minutes for soak
  --statements N        in the log of the export scenario; 100,000 by default, 1,000,000 for RESULTS.md
  --runs N              measure everything N times: medians and ranges
  --json file           where the figures go; by default ${join(tmpdir(), 'countersign-bench.json')}
  --compare base.json   ratios to an earlier run, and whether they exceed the noise
  --profile             where each microsecond of the end-to-end scenario goes
  --write-results       writes bench/RESULTS.md from the figures
  --results a,b         measures nothing: writes bench/RESULTS.md from what --json wrote earlier

Scenarios:
${Object.entries(scenarios)
  .map(([name, { title, quick, long }]) => `  ${name.padEnd(15)} ${quick ? '*' : long ? '-' : ' '} ${title}`)
  .join('\n')}
                  * in --quick
                  - only when named`
