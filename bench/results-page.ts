import { fileURLToPath } from 'node:url'
import { bars, type FigureName, figureKinds, meets, showFigure, showNumber } from './figures.ts'
import { limitsMarkdown } from './limits.ts'
import type { Profile } from './profile.ts'
import { type Report, type Spread, showBar, summarize } from './report.ts'
import { scenarios } from './scenarios.ts'

export const resultsFile = fileURLToPath(new URL('RESULTS.md', import.meta.url))

/** RESULTS.md, all of it: nobody types a number. The reports are of parts that were measured one after the other. */
export function resultsPage(reports: readonly Report[], drill: string): string {
  const summary = summarize({ runs: reports.flatMap(({ runs }) => runs) })
  const profile = reports.find((report) => report.profile !== undefined)?.profile
  const cell = (spread: Spread | undefined, figure: FigureName) => {
    if (spread === undefined) return ''
    const { median, least, most } = spread
    const range = least === most ? '' : ` (${showNumber(least)} to ${showNumber(most)})`
    return showFigure(figure, median) + range
  }
  const sections = [...summary].map(([name, spreads]) => {
    const rows = [...spreads].map(([figure, spread]) => `| ${figureKinds[figure].label} | ${cell(spread, figure)} |`)
    return [
      `### ${name}: ${scenarios[name]?.title}`,
      '',
      '| figure | median (range) |',
      '| --- | ---: |',
      ...rows,
      '',
    ].join('\n')
  })
  const judged = bars.map(({ scenario, figure, bar, goal }) => {
    const spread = summary.get(scenario)?.get(figure)
    const verdict = spread === undefined ? 'not measured' : meets(spread.median, bar) ? 'met' : '**not met**'
    return `| ${scenario} | ${figureKinds[figure].label} | ${showBar(bar)} | ${goal === undefined ? '' : showNumber(goal)} | ${cell(spread, figure)} | ${verdict} |`
  })
  const limits = limitsMarkdown((scenario, figure) => summary.get(scenario)?.get(figure)?.median)
  return `${opening}

## Measured

${reports.map(describe).join('\n')}

## Bars

| scenario | figure | bar | goal | found | |
| --- | --- | ---: | ---: | ---: | --- |
${judged.join('\n')}
${limits && `\n${limits}\n`}
## Figures

${sections.join('\n')}${profile ? `\n${profileMarkdown(profile)}\n` : ''}
${drill}`
}

const describe = ({ runs, commit, machine, at, node, seconds, warmUpSeconds }: Report): string => {
  const names = [...new Set(runs.flatMap((run) => Object.keys(run)))].join(', ') || 'where each microsecond goes'
  const howMany = runs.length > 1 ? `${runs.length} runs` : '1 run'
  const unit = names === 'soak' ? 'minutes' : 's'
  const times = `${howMany}, ${seconds} ${unit} each after ${warmUpSeconds} s to warm up`
  return `- ${names}: ${times}; commit ${commit}, ${at}, Node ${node} and the embedded PostgreSQL on ${machine}.`
}

const drillHeading = '## Crash drill'

/** What the drill wrote into the page: everything from its heading on. Nothing, if it has not been run. */
export function drillOf(page: string): string {
  const at = page.indexOf(drillHeading)
  return at < 0 ? '' : page.slice(at)
}

/** The page with what a drill found, in Markdown, in place of what an earlier one found. */
export function withDrill(page: string, found: string): string {
  return `${page.slice(0, page.length - drillOf(page).length).trimEnd()}\n\n${drillHeading}\n\n${found.trimEnd()}\n`
}

const opening = `# Results

Written by \`npm run bench -- --results <reports>\` and \`npm run drill -- --write-results\`; do not edit. Load
generator, receiver, PostgreSQL (fsync on) and relay share one machine. How it is measured, and what each figure means, is in
[README.md](README.md). Where a range is wide, as that of the forwarder, something else used the machine meanwhile: the
ratios within one run then say more than the figures.`

function profileMarkdown({ messages, relay, postgres }: Profile): string {
  return `## Where each microsecond goes

The end-to-end scenario at full speed under the sampling profiler, ${messages} messages. A sample counts for the innermost
function that the table knows, so a copy or an allocation counts for what asked for it.

| part of the relay | µs per message |
| --- | ---: |
${relay.map(({ part, usPerMessage }) => `| ${part} | ${showNumber(usPerMessage)} |`).join('\n')}

| statement in PostgreSQL | calls per message | µs per message, on the clock | WAL B |
| --- | ---: | ---: | ---: |
${postgres.map((row) => `| \`${row.statement.slice(0, 90).replaceAll('|', '\\|')}\` | ${showNumber(row.callsPerMessage)} | ${showNumber(row.usPerMessage)} | ${showNumber(row.walBytesPerMessage)} |`).join('\n')}`
}
