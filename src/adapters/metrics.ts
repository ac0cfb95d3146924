import { Counter, Gauge, Histogram, Registry } from 'prom-client'
import type { Observer } from '../ports/observer.ts'

/** What is read at the moment of a scrape. */
export interface Gauges {
  queueDepth(): number
  deliveries(): { queued: number; inFlight: number }
  /** Keys on record that could not be unwrapped. */
  unopenedKeys(): number
  /** How often in a row the keys could not be looked after. */
  keyTicksFailed(): number
  /** As far as this process knows. */
  endpointsFailing(): number
  /** Seconds that the oldest pending delivery is overdue; 0 if none is. */
  oldestPendingS(): Promise<number>
}

const batchSeconds = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
const attemptSeconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15]

/** Counts for Prometheus. Names start with `countersign_`. */
export function createMetrics(): { observer: Observer; watch: (gauges: Gauges) => void; text: () => Promise<string> } {
  const registers = [new Registry()]
  const counter = (name: string, help: string, ...labelNames: string[]) =>
    new Counter({ name: `countersign_${name}`, help, labelNames, registers })
  const histogram = (name: string, help: string, buckets: number[]) =>
    new Histogram({ name: `countersign_${name}`, help, buckets, registers })
  const gauge = (name: string, help: string, read?: () => number | Promise<number>) =>
    new Gauge({
      name: `countersign_${name}`,
      help,
      registers,
      ...(read && {
        async collect() {
          this.set(await read())
        },
      }),
    })

  const accepted = counter('messages_accepted_total', 'Messages answered with a receipt')
  const acceptedBytes = counter('payload_bytes_total', 'Bytes of their canonical payloads')
  const refused = counter('requests_refused_total', 'Requests answered with a problem, by its code', 'code')
  const postRefused = counter('posts_refused_total', 'Posts that a source refused, by scheme', 'scheme', 'reason')
  const statements = histogram(
    'batch_statements',
    'Statements in a committed batch',
    [1, 2, 4, 8, 16, 32, 64, 128, 256],
  )
  const seconds = histogram(
    'batch_seconds',
    'Seconds from the first SQL of a batch to the answer of COMMIT',
    batchSeconds,
  )
  const failed = counter('batches_failed_total', 'Batches that were not committed, by reason', 'reason')
  const treeSize = gauge('log_tree_size', 'Leaves in the log')
  const attempts = counter('delivery_attempts_total', 'Attempts, by outcome', 'outcome')
  /** Each with its label, which is dear to look up. */
  const attemptsByOutcome = new Map<string, ReturnType<typeof attempts.labels>>()
  const attempt = histogram('delivery_attempt_seconds', 'Seconds of one attempt', attemptSeconds)
  const abandoned = counter('deliveries_abandoned_total', 'Deliveries given up on')
  const missing = counter(
    'deliveries_missing_total',
    'Deliveries owed that the reconciler did not find; 0 while all is well',
  )
  const repaired = counter(
    'deliveries_repaired_total',
    'Backlogs and orders that waited for nothing; 0 while all is well',
  )
  const lag = gauge('reconciler_lag_seconds', 'Age of the oldest batch that the reconciler has not looked at')

  const observer: Observer = {
    accepted(bytes) {
      accepted.inc()
      acceptedBytes.inc(bytes)
    },
    refused: (code) => refused.inc({ code }),
    postRefused: (scheme, reason) => postRefused.inc({ scheme, reason }),
    batchCommitted(count, took) {
      statements.observe(count)
      seconds.observe(took)
    },
    batchFailed: (reason) => failed.inc({ reason }),
    treeGrew: (size) => treeSize.set(size),
    attempted(outcome, took) {
      if (!attemptsByOutcome.has(outcome)) attemptsByOutcome.set(outcome, attempts.labels(outcome))
      attemptsByOutcome.get(outcome)?.inc()
      attempt.observe(took)
    },
    abandoned: () => abandoned.inc(),
    reconciled(found) {
      missing.inc(found.missing)
      repaired.inc(found.repaired)
      lag.set(found.lagS)
    },
  }
  const watch = (gauges: Gauges) => {
    gauge('queue_depth', 'Statements waiting for a batch', () => gauges.queueDepth())
    gauge('deliveries_queued', 'Deliveries waiting in memory', () => gauges.deliveries().queued)
    gauge('deliveries_in_flight', 'Attempts in flight', () => gauges.deliveries().inFlight)
    gauge('endpoints_failing', 'Endpoints without a success since their last failure', () => gauges.endpointsFailing())
    gauge('oldest_pending_seconds', 'Seconds that the oldest pending delivery is overdue', () =>
      gauges.oldestPendingS(),
    )
    gauge('keys_unopened', 'Keys on record that could not be unwrapped; 0 while all is well', () =>
      gauges.unopenedKeys(),
    )
    gauge('key_ticks_failed', 'How often in a row the keys could not be looked after; 0 while all is well', () =>
      gauges.keyTicksFailed(),
    )
    gauge('resident_memory_bytes', 'Resident memory of the relay', () => process.memoryUsage.rss())
  }
  return { observer, watch, text: () => registers[0]?.metrics() ?? Promise.resolve('') }
}
