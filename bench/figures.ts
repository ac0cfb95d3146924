import type { Percentiles } from './ledger.ts'

/** What a scenario found, by name. A figure that this machine cannot tell is undefined. */
export type Figures = Partial<Record<FigureName, number | undefined>>

interface FigureKind {
  readonly label: string
  readonly unit: string
  readonly better: 'higher' | 'lower' | 'neither'
}

/** Every figure, in the order of the tables. "µs" are CPU microseconds per message, "per message" is over messages that
 *  were delivered, or accepted where there is no endpoint. */
export const figureKinds = {
  acceptedPerS: { label: 'accepted', unit: '/s', better: 'higher' },
  deliveredPerS: { label: 'delivered', unit: '/s', better: 'higher' },
  answeredPerS: { label: 'answered', unit: '/s', better: 'higher' },
  ofForwarder: { label: 'of the plain forwarder', unit: '×', better: 'higher' },
  acceptP50Ms: { label: 'accept p50', unit: 'ms', better: 'lower' },
  acceptP95Ms: { label: 'accept p95', unit: 'ms', better: 'lower' },
  acceptP99Ms: { label: 'accept p99', unit: 'ms', better: 'lower' },
  acceptP999Ms: { label: 'accept p99.9', unit: 'ms', better: 'lower' },
  endToEndP50Ms: { label: 'end to end p50', unit: 'ms', better: 'lower' },
  endToEndP95Ms: { label: 'end to end p95', unit: 'ms', better: 'lower' },
  endToEndP99Ms: { label: 'end to end p99', unit: 'ms', better: 'lower' },
  endToEndP999Ms: { label: 'end to end p99.9', unit: 'ms', better: 'lower' },
  relayUs: { label: 'CPU of relay', unit: 'µs', better: 'lower' },
  mainThreadUs: { label: 'CPU of relay, main thread', unit: 'µs', better: 'lower' },
  postgresUs: { label: 'CPU of PostgreSQL', unit: 'µs', better: 'lower' },
  relayAndPostgresUs: { label: 'CPU of both', unit: 'µs', better: 'lower' },
  receiverUs: { label: 'CPU of receiver', unit: 'µs', better: 'neither' },
  generatorUs: { label: 'CPU of generator', unit: 'µs', better: 'neither' },
  generatorBusy: { label: 'generator busy', unit: 'cores', better: 'neither' },
  walBytes: { label: 'WAL per message', unit: 'B', better: 'lower' },
  fsyncs: { label: 'WAL fsyncs per message', unit: '', better: 'lower' },
  batchStatements: { label: 'statements per batch', unit: '', better: 'neither' },
  batchMs: { label: 'time of a batch', unit: 'ms', better: 'lower' },
  residentMaxMiB: { label: 'resident memory, most', unit: 'MiB', better: 'lower' },
  stallP99Ms: { label: 'event loop late p99', unit: 'ms', better: 'lower' },
  stallMaxMs: { label: 'event loop late, most', unit: 'ms', better: 'lower' },
  behindAtEnd: { label: 'undelivered at end of load', unit: '', better: 'neither' },
  duplicates: { label: 'delivered twice', unit: '', better: 'neither' },
  verified: { label: 'receipts and webhooks verified', unit: '', better: 'neither' },
  receiptUs: { label: 'CPU of both, per fresh receipt', unit: 'µs', better: 'lower' },
  appendOfSmall: { label: 'CPU per append ÷ small log', unit: '×', better: 'lower' },
  acceptOfSmall: { label: 'accept p50 ÷ small log', unit: '×', better: 'lower' },
  receiptOfSmall: { label: 'CPU per receipt ÷ small log', unit: '×', better: 'lower' },
  receiptTimeOfSmall: { label: 'time per receipt ÷ small log', unit: '×', better: 'lower' },
  startOfSmall: { label: 'start ÷ small log', unit: '×', better: 'lower' },
  claimedPerS: { label: 'claimed when due', unit: '/s', better: 'higher' },
  drainedPerS: { label: 'drained from backlogs', unit: '/s', better: 'higher' },
  claimOfSmall: { label: 'time per claim ÷ small queue', unit: '×', better: 'lower' },
  drainOfSmall: { label: 'time per drain ÷ small queue', unit: '×', better: 'lower' },
  healthyP99Ms: { label: 'healthy endpoints p99', unit: 'ms', better: 'lower' },
  healthyOfAlone: { label: 'their p99 ÷ without the two', unit: '×', better: 'lower' },
  memoryGrowth: { label: 'memory, last ÷ third minute', unit: '×', better: 'lower' },
  exportedPerS: { label: 'statements exported', unit: '/s', better: 'higher' },
  verifiedPerS: { label: 'statements verified', unit: '/s', better: 'higher' },
  exportBytes: { label: 'bytes of the file per statement', unit: 'B', better: 'lower' },
  residentBeforeMiB: { label: 'resident memory, before', unit: 'MiB', better: 'neither' },
  verifierMaxMiB: { label: 'resident memory of the verifier, most', unit: 'MiB', better: 'lower' },
  startMs: { label: 'from start to ready', unit: 'ms', better: 'lower' },
  firstAcceptMs: { label: 'first accept after that', unit: 'ms', better: 'lower' },
  opensslSignsPerS: { label: 'openssl speed, signs', unit: '/s', better: 'neither' },
  opensslVerifiesPerS: { label: 'openssl speed, verifies', unit: '/s', better: 'neither' },
  signsPerS: { label: 'node:crypto signs', unit: '/s', better: 'neither' },
  verifiesPerS: { label: 'node:crypto verifies', unit: '/s', better: 'neither' },
  rowsPerS: { label: 'rows committed', unit: '/s', better: 'neither' },
  commitMs: { label: 'time of a commit', unit: 'ms', better: 'neither' },
  pacedCommitP50Ms: { label: 'commit of 5 rows, 200 a second, p50', unit: 'ms', better: 'neither' },
  pacedCommitP99Ms: { label: 'commit of 5 rows, 200 a second, p99', unit: 'ms', better: 'neither' },
  pacedCommitP999Ms: { label: 'commit of 5 rows, 200 a second, p99.9', unit: 'ms', better: 'neither' },
} as const satisfies Record<string, FigureKind>

export type FigureName = keyof typeof figureKinds

export const figureNames = Object.keys(figureKinds) as FigureName[]

/** Three digits that mean something, and no more. */
export function showFigure(name: FigureName, value: number): string {
  const { unit } = figureKinds[name]
  return unit === '' ? showNumber(value) : `${showNumber(value)} ${unit}`
}

export function showNumber(value: number): string {
  const decimals = value === 0 || Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2
  const small = value !== 0 && Math.abs(value) < 0.1 ? 3 : decimals
  return value.toLocaleString('en-US', { maximumFractionDigits: small })
}

export const percentileFigures = (of: 'accept' | 'endToEnd', ms: Percentiles | undefined): Figures =>
  ms === undefined
    ? {}
    : { [`${of}P50Ms`]: ms.p50, [`${of}P95Ms`]: ms.p95, [`${of}P99Ms`]: ms.p99, [`${of}P999Ms`]: ms.p999 }

/** What issue and README promise of a figure on the two-core machine. */
export interface Bar {
  readonly scenario: string
  readonly figure: FigureName
  readonly bar: { readonly atLeast: number } | { readonly atMost: number }
  readonly goal?: number
}

export const bars: readonly Bar[] = [
  ...(['end-to-end', 'sustained'] as const).flatMap((scenario): Bar[] => [
    { scenario, figure: 'deliveredPerS', bar: { atLeast: 3000 }, goal: 4500 },
    { scenario, figure: 'ofForwarder', bar: { atLeast: 0.35 }, goal: 0.5 },
    { scenario, figure: 'relayAndPostgresUs', bar: { atMost: 400 }, goal: 250 },
    { scenario, figure: 'residentMaxMiB', bar: { atMost: 400 } },
    { scenario, figure: 'stallMaxMs', bar: { atMost: 50 } },
  ]),
  { scenario: 'rate-1000', figure: 'acceptP99Ms', bar: { atMost: 15 } },
  { scenario: 'rate-1000', figure: 'endToEndP99Ms', bar: { atMost: 25 } },
  { scenario: 'accept-only', figure: 'acceptedPerS', bar: { atLeast: 6000 } },
  { scenario: 'verify', figure: 'answeredPerS', bar: { atLeast: 3000 }, goal: 5000 },
  { scenario: 'jwks', figure: 'answeredPerS', bar: { atLeast: 10_000 } },
  { scenario: 'large-log', figure: 'appendOfSmall', bar: { atMost: 1.2 } },
  { scenario: 'large-log', figure: 'acceptOfSmall', bar: { atMost: 1.2 } },
  { scenario: 'large-log', figure: 'receiptOfSmall', bar: { atMost: 1.2 } },
  { scenario: 'large-log', figure: 'receiptTimeOfSmall', bar: { atMost: 1.2 } },
  { scenario: 'large-log', figure: 'startOfSmall', bar: { atMost: 1.2 } },
  { scenario: 'pending-deliveries', figure: 'claimOfSmall', bar: { atMost: 1.5 } },
  { scenario: 'pending-deliveries', figure: 'drainOfSmall', bar: { atMost: 1.5 } },
  { scenario: 'head-of-line', figure: 'healthyOfAlone', bar: { atMost: 1.2 } },
  { scenario: 'soak', figure: 'memoryGrowth', bar: { atMost: 1.1 } },
]

export const meets = (value: number, bar: Bar['bar']): boolean =>
  'atLeast' in bar ? value >= bar.atLeast : value <= bar.atMost
