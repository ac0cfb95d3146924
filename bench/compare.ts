import { type FigureName, figureKinds, showFigure } from './figures.ts'
import { type Report, type Spread, summarize } from './report.ts'

/** One run says nothing about its own noise. On a shared two-core machine this much between runs is usual. */
const assumedNoise = 0.1

/**
 * Ratios of `now` to `base`, figure by figure. The bounds are the extreme ratios of any run to any run; only when both
 * lie on one side of 1 is it a change, and only then is it called better or worse.
 */
export function compare(base: Report, now: Report): string {
  const before = summarize(base)
  const lines = [`\ncompared with ${base.commit} of ${base.at}`]
  if (base.machine !== now.machine) lines.push(`WARNING: that was another machine: ${base.machine}`)
  for (const [scenario, spreads] of summarize(now)) {
    lines.push('', scenario)
    for (const [figure, spread] of spreads) {
      const old = before.get(scenario)?.get(figure)
      if (old === undefined || old.median === 0 || figureKinds[figure].better === 'neither') continue
      lines.push(`  ${figureKinds[figure].label.padEnd(32)}${changeOf(figure, widen(old, base), widen(spread, now))}`)
    }
  }
  return lines.join('\n')
}

const widen = (spread: Spread, { runs }: Report): Spread =>
  runs.length > 1
    ? spread
    : { ...spread, least: spread.median * (1 - assumedNoise), most: spread.median * (1 + assumedNoise) }

function changeOf(figure: FigureName, old: Spread, now: Spread): string {
  const least = now.least / old.most
  const most = now.most / old.least
  const rose = least > 1
  const fell = most < 1
  const verdict =
    rose || fell ? (rose === (figureKinds[figure].better === 'higher') ? 'better' : 'WORSE') : 'within noise'
  const ratio = `× ${(now.median / old.median).toFixed(2)}  [${least.toFixed(2)} to ${most.toFixed(2)}]`
  return `${ratio}  ${showFigure(figure, old.median)} -> ${showFigure(figure, now.median)}  ${verdict}`
}
