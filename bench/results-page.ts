import { fileURLToPath } from 'node:url'
import { bars, type FigureName, figureKinds, meets, showFigure, showNumber } from './figures.ts'
import type { Profile } from './profile.ts'
import { type Report, type Spread, showBar, summarize } from './report.ts'
import { scenarios } from './scenarios.ts'

export const resultsFile = fileURLToPath(new URL('RESULTS.md', import.meta.url))

/** RESULTS.md, all of it: nobody types a number. */
export function resultsPage(report: Report): string {
  const summary = summarize(report)
  const many = report.runs.length > 1
  const cell = (spread: Spread | undefined, figure: FigureName) =>
    spread === undefined
      ? ''
      : showFigure(figure, spread.median) + (many ? ` (${showNumber(spread.least)} to ${showNumber(spread.most)})` : '')
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
  return `${opening}

## Measured

| | |
| --- | --- |
| machine | ${report.machine} |
| commit | ${report.commit} |
| when | ${report.at} |
| runtime | Node ${report.node}, the embedded PostgreSQL |
| runs | ${report.runs.length}, each scenario for ${report.seconds} s after ${report.warmUpSeconds} s to warm up |

## Bars

| scenario | figure | bar | goal | found | |
| --- | --- | ---: | ---: | ---: | --- |
${judged.join('\n')}

## Figures

${sections.join('\n')}${report.profile ? `\n${profileMarkdown(report.profile)}\n` : ''}`
}

const opening = `# Results

Written by \`npm run bench -- --runs 3 --profile --write-results\`; do not edit. Load generator, receiver, PostgreSQL (fsync
on) and relay share one machine. How it is measured, and what each figure means, is in [README.md](README.md).`

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
