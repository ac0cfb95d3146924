import { dayMs } from '../../keyring/lifecycle.ts'
import type { KeyPolicy } from '../../keyring/policy.ts'
import type { KeyPurpose, KeyState } from '../../keyring/store.ts'
import { type HistoryKey, shorten, shortKidLength } from './history.ts'

/**
 * Keys across the past 12 and the coming 6 months, at most 100 columns wide: a bar for each key, and its times below.
 * What lies ahead and is not on record yet is drawn as `policy` plans it, keys to come included.
 */
export function drawTimeline(keys: readonly HistoryKey[], policy: KeyPolicy, now: Date, ascii = false): string {
  const glyphs = ascii ? asciiGlyphs : blockGlyphs
  const cells = cellsAround(now)
  const [first, last] = [cells[0]?.start ?? 0, cells.at(-1)?.end ?? 0]
  const lives = (['payload', 'log'] as const).flatMap((purpose) => livesOf(purpose, keys, policy, now, last))
  const shown = lives.filter((life) => endOf(life) >= first)
  const older = lives.length - shown.length
  return [
    ...calendar(cells, now, glyphs),
    ...shown.map((life) => `${label(life)}${cells.map((cell) => glyphIn(cell, life, glyphs)).join('')}`.trimEnd()),
    '',
    `${glyphs.published} published   ${glyphs.signing} signs   ${glyphs.overlap} overlap: verifies   ${glyphs.revoked} revoked`,
    `From now on as the policy plans: rotate every ${policy.rotateEveryDays} days, publish ${policy.publishBeforeUseDays} before, overlap ${policy.overlapDays}.`,
    ...(older > 0 ? [`${older} older ${older === 1 ? 'key is' : 'keys are'} not shown: --json has every key.`] : []),
    '',
    `${''.padEnd(labelWidth)}${['published', 'signs from', 'signs until', 'verifies until'].map(column).join('')}`.trimEnd(),
    ...shown.flatMap(times),
    `${''.padEnd(labelWidth)}UTC; ~ planned`,
    '',
  ].join('\n')
}

const blockGlyphs = { published: '░', signing: '█', overlap: '▒', revoked: '×', now: '▼' }
const asciiGlyphs: Glyphs = { published: '.', signing: '#', overlap: '+', revoked: 'x', now: 'v' }

type Glyphs = Record<keyof typeof blockGlyphs, string>

/** A time on record, or one that the policy plans. */
interface Moment {
  readonly at: Date
  readonly planned: boolean
}

/** One key from end to end. */
interface Life {
  /** Undefined for a key to come. */
  readonly key: HistoryKey | undefined
  readonly purpose: KeyPurpose
  readonly state: KeyState | 'planned'
  readonly published: Moment
  readonly signsFrom: Moment
  readonly signsUntil: Moment
  readonly verifiesUntil: Moment
}

const recorded = (at: Date): Moment => ({ at, planned: false })
const planned = (ms: number): Moment => ({ at: new Date(ms), planned: true })

/** The keys on record, and those that follow before `horizon`, unix milliseconds, if nobody intervenes. Plans by the
 *  rules of keyring/lifecycle.ts. */
function livesOf(
  purpose: KeyPurpose,
  history: readonly HistoryKey[],
  policy: KeyPolicy,
  now: Date,
  horizon: number,
): Life[] {
  const [rotateMs, publishMs] = [policy.rotateEveryDays * dayMs, policy.publishBeforeUseDays * dayMs]
  const keys = history.filter((key) => key.purpose === purpose)
  const standing = keys.filter((key) => key.retiringAt === undefined && key.revokedAt === undefined)
  const last = standing.findLast((key) => key.activatedAt !== undefined)
  const next = standing.find((key) => key.activatedAt === undefined)
  const due = last?.activatedAt === undefined ? now.getTime() : last.activatedAt.getTime() + rotateMs
  const published = next?.generatedAt.getTime() ?? Math.max(now.getTime(), due - publishMs)
  const rotation = Math.max(due, published + publishMs)

  const lives = keys.map((key) => {
    const signsFrom = key.activatedAt === undefined ? planned(rotation) : recorded(key.activatedAt)
    const signsUntil =
      key.retiringAt === undefined ? planned(rotation + (key === next ? rotateMs : 0)) : recorded(key.retiringAt)
    return lifeFrom(
      { key, purpose, state: key.state, published: recorded(key.generatedAt), signsFrom, signsUntil },
      policy,
    )
  })
  if (standing.length === 0) return lives // nothing that a next one would follow
  for (let from = rotation + (next === undefined ? 0 : rotateMs); from - publishMs < horizon; from += rotateMs) {
    const moments = {
      published: planned(from - publishMs),
      signsFrom: planned(from),
      signsUntil: planned(from + rotateMs),
    }
    lives.push(lifeFrom({ key: undefined, purpose, state: 'planned', ...moments }, policy))
  }
  return lives
}

function lifeFrom(life: Omit<Life, 'verifiesUntil'>, { overlapDays }: KeyPolicy): Life {
  const retiredAt = life.key?.retiredAt
  const verifiesUntil = retiredAt ? recorded(retiredAt) : planned(life.signsUntil.at.getTime() + overlapDays * dayMs)
  return { ...life, verifiesUntil }
}

/** Unix milliseconds. */
const endOf = ({ key, verifiesUntil }: Life): number => (key?.revokedAt ?? verifiesUntil.at).getTime()

/** One column of the chart. Unix milliseconds; `end` is the next one's start. */
interface Cell {
  readonly start: number
  readonly end: number
}

const months = { past: 12, coming: 6 }
const cellsPerMonth = 4

/** This month counts as one of the past. */
function cellsAround(now: Date): Cell[] {
  const monthStart = (offset: number): number => Date.UTC(now.getUTCFullYear(), now.getUTCMonth() + offset)
  return Array.from({ length: months.past + months.coming }, (_, index) => {
    const [start, end] = [monthStart(index - months.past + 1), monthStart(index - months.past + 2)]
    const boundary = (part: number): number => start + ((end - start) * part) / cellsPerMonth
    return Array.from({ length: cellsPerMonth }, (_, part) => ({ start: boundary(part), end: boundary(part + 1) }))
  }).flat()
}

/** The years, the months, and where we are. */
function calendar(cells: readonly Cell[], now: Date, glyphs: Glyphs): string[] {
  const starts = cells.filter((_, index) => index % cellsPerMonth === 0).map(({ start }) => new Date(start))
  // A December at the left edge has no room for its year beside the next.
  const isNamed = (at: Date, index: number): boolean => at.getUTCMonth() === 0 || (index === 0 && at.getUTCMonth() < 11)
  const years = starts.map((at, index) => (isNamed(at, index) ? String(at.getUTCFullYear()) : ''))
  const names = starts.map((at) => monthNames.slice(at.getUTCMonth() * 3, at.getUTCMonth() * 3 + 3))
  const line = (words: string[]): string => words.map((word) => word.padEnd(cellsPerMonth)).join('')
  const before = cells.filter(({ end }) => end <= now.getTime()).length
  return [line(years), line(names), `${''.padEnd(before)}${glyphs.now} now`].map((text) =>
    `${''.padEnd(labelWidth)}${text}`.trimEnd(),
  )
}

const monthNames = 'JanFebMarAprMayJunJulAugSepOctNovDec'

/** What holds at the end of the cell, so that whatever began shows, however short a time ago. */
function glyphIn({ start, end }: Cell, life: Life, glyphs: Glyphs): string {
  const revokedAt = life.key?.revokedAt?.getTime() ?? Number.POSITIVE_INFINITY
  if (revokedAt < end) return revokedAt >= start ? glyphs.revoked : ' '
  const isPast = ({ at }: Moment): boolean => at.getTime() < end
  if (isPast(life.verifiesUntil) || !isPast(life.published)) return ' '
  if (isPast(life.signsUntil)) return glyphs.overlap
  return isPast(life.signsFrom) ? glyphs.signing : glyphs.published
}

const labelWidth = 7 + 1 + shortKidLength + 1 + 8 + 1

const label = ({ key, purpose, state }: Life): string =>
  `${purpose.padEnd(7)} ${shorten(key?.kid ?? 'to come').padEnd(shortKidLength)} ${state.padEnd(8)} `

const column = (text: string): string => text.padEnd(18)

/** A key that was revoked has no more times than that, and a reason. */
function times(life: Life): string[] {
  const { key, published, signsFrom, signsUntil, verifiesUntil } = life
  if (key?.revokedAt === undefined) return [row(life, [published, signsFrom, signsUntil, verifiesUntil])]
  const signed = key.activatedAt === undefined ? [] : [recorded(key.activatedAt), recorded(key.revokedAt)]
  const reason = printable(key.revokedReason ?? '').slice(0, 60)
  return [
    row(life, [published, ...signed]),
    `${''.padEnd(labelWidth)}revoked from ${minute(key.revokedAt)}: ${reason}`.trimEnd(),
  ]
}

const row = (life: Life, moments: readonly Moment[]): string =>
  `${label(life)}${moments.map(({ at, planned }) => column(`${planned ? '~' : ''}${minute(at)}`)).join('')}`.trimEnd()

export const minute = (at: Date): string => at.toISOString().slice(0, 16).replace('T', ' ')

/** A reason is another's text: it must not move the cursor of who reads it. */
const printable = (text: string): string => text.replace(/\p{C}/gu, '?')
