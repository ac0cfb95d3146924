import { execFileSync } from 'node:child_process'
import { cpus, release, totalmem, type } from 'node:os'
import { fileURLToPath } from 'node:url'
import {
  bars,
  type FigureName,
  type Figures,
  figureKinds,
  figureNames,
  meets,
  showFigure,
  showNumber,
} from './figures.ts'
import type { Profile } from './profile.ts'
import { scenarios } from './scenarios.ts'

/** A whole bench: where, when, of what, and what each run found, by scenario. What `--json` writes. */
export interface Report {
  readonly at: string
  readonly commit: string
  readonly machine: string
  readonly node: string
  readonly seconds: number
  readonly warmUpSeconds: number
  readonly runs: Record<string, Figures>[]
  profile?: Profile
}

export function describeMachine(): Pick<Report, 'at' | 'commit' | 'machine' | 'node'> {
  const cores = cpus()
  const memoryGiB = Math.round(totalmem() / 2 ** 30)
  return {
    at: new Date().toISOString(),
    commit: describeCommit(),
    machine: `${cores.length} × ${cores[0]?.model.trim()}, ${memoryGiB} GiB, ${type()} ${release()}`,
    node: process.version,
  }
}

function describeCommit(): string {
  const git = (...args: string[]) => execFileSync('git', args, { cwd: root, encoding: 'utf8', stdio: 'pipe' }).trim()
  try {
    const changed = git('status', '--porcelain', '--', 'src', 'package-lock.json') !== ''
    return git('rev-parse', '--short=12', 'HEAD') + (changed ? ' with changes in src' : '')
  } catch {
    return 'unknown'
  }
}

const root = fileURLToPath(new URL('..', import.meta.url))

/** Adds what is a ratio between scenarios of one run, which is all that compares across machines. */
export function derive(run: Record<string, Figures>): Record<string, Figures> {
  const forwarded = run.forwarder?.deliveredPerS
  if (forwarded === undefined) return run
  for (const [name, figures] of Object.entries(run)) {
    if (comparable.includes(name) && figures.deliveredPerS !== undefined)
      figures.ofForwarder = figures.deliveredPerS / forwarded
  }
  return run
}

/** What does the forwarder's work, as fast as it goes. */
const comparable = ['end-to-end', 'sustained', 'two-relays']

/** One figure over all runs. */
export interface Spread {
  readonly median: number
  readonly least: number
  readonly most: number
}

/** By scenario and figure, in the order in which they are shown. */
export function summarize({ runs }: Pick<Report, 'runs'>): Map<string, Map<FigureName, Spread>> {
  const summary = new Map<string, Map<FigureName, Spread>>()
  for (const name of Object.keys(scenarios)) {
    const spreads = new Map<FigureName, Spread>()
    for (const figure of figureNames) {
      const values = runs.flatMap((run) => run[name]?.[figure] ?? []).sort((a, b) => a - b)
      const [least, most] = [values[0], values.at(-1)]
      if (least !== undefined && most !== undefined) spreads.set(figure, { median: medianOf(values), least, most })
    }
    if (spreads.size > 0) summary.set(name, spreads)
  }
  return summary
}

/** Of sorted values; between the two in the middle where there is no one. */
function medianOf(sorted: readonly number[]): number {
  const middle = (sorted.length - 1) / 2
  return ((sorted[Math.floor(middle)] ?? 0) + (sorted[Math.ceil(middle)] ?? 0)) / 2
}

/** For a terminal. */
export function table(report: Report): string {
  const lines: string[] = []
  for (const [name, spreads] of summarize(report)) {
    lines.push('', `${name}: ${scenarios[name]?.title}`)
    for (const [figure, spread] of spreads) {
      const verdict = verdictOf(name, figure, spread.median)
      lines.push(
        `  ${figureKinds[figure].label.padEnd(32)}${showFigure(figure, spread.median).padStart(14)}  ${rangeOf(report, spread)}${verdict}`,
      )
    }
  }
  if (report.profile) lines.push(...profileLines(report.profile))
  return lines.join('\n')
}

const rangeOf = ({ runs }: Report, { least, most }: Spread): string =>
  runs.length > 1 ? `[${showNumber(least)} to ${showNumber(most)}]  ` : ''

function verdictOf(scenario: string, figure: FigureName, value: number): string {
  const bar = bars.find((one) => one.scenario === scenario && one.figure === figure)
  if (bar === undefined) return ''
  return `bar: ${showBar(bar.bar)}, ${meets(value, bar.bar) ? 'met' : 'NOT MET'}`
}

export const showBar = (bar: (typeof bars)[number]['bar']): string =>
  'atLeast' in bar ? `at least ${showNumber(bar.atLeast)}` : `at most ${showNumber(bar.atMost)}`

function profileLines({ messages, relay, postgres }: Profile): string[] {
  return [
    '',
    `where each microsecond goes, over ${messages} messages`,
    ...relay.map(({ part, usPerMessage }) => `  ${part.padEnd(48)}${showNumber(usPerMessage).padStart(8)} µs`),
    '',
    'statements of PostgreSQL, per message: ms on the clock, not CPU',
    ...postgres.map(
      ({ statement, usPerMessage, callsPerMessage }) =>
        `  ${showNumber(usPerMessage).padStart(8)} µs  ${showNumber(callsPerMessage).padStart(7)} calls  ${statement.slice(0, 84)}`,
    ),
  ]
}
