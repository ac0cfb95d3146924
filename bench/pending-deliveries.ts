/**
 * Does claiming get dearer as more is pending? Two queues, three orders of magnitude apart: nine tenths of each wait in
 * the backlogs of a hundred endpoints, most of which are stopped, and the rest is scheduled for later. From both the same
 * is claimed: what falls due, and what the backlogs allow; in turn, so that what the machine does meanwhile happens to
 * both. `BENCH_PENDING=200000` makes the large one smaller.
 *
 * The figures are the large queue's, and its ratios to the small one; both from medians of three rounds.
 */
import { statfs } from 'node:fs/promises'
import pino from 'pino'
import { openDatabase } from '../src/adapters/database.ts'
import {
  claimDue,
  dropEmptyBacklogs,
  lockBacklogs,
  scheduleBacklogs,
  takeFromBacklogs,
} from '../src/delivery/claim-store.ts'
import type { Database, Param, Tx } from '../src/ports/database.ts'
import type { Figures } from './figures.ts'
import { clockMs } from './ledger.ts'
import type { Pace } from './message-load.ts'
import type { FreshDatabase, Testbed } from './testbed.ts'

const smallPending = 10_000
const largePending = Number(process.env.BENCH_PENDING ?? 10_000_000)
const endpoints = 100
const rounds = 3
/** Claimed at once, as src/delivery/claims.ts does. */
const page = 500
const dueRows = 5000
/** A row with its entries in four indexes; and as much again in WAL. */
const bytesPerRow = 700

export async function measurePendingDeliveries(
  testbed: Testbed,
  _pace: Pace,
  say: (sentence: string) => void,
): Promise<Figures> {
  const { bavail, bsize } = await statfs(testbed.folder)
  const neededBytes = largePending * bytesPerRow
  if (bavail * bsize < neededBytes) {
    say(
      `  SKIPPED: ${testbed.folder} has ${Math.round((bavail * bsize) / 1e6)} MB free, ${neededBytes / 1e6} are needed`,
    )
    return {}
  }
  const queues = [await fill(testbed, smallPending, say), await fill(testbed, largePending, say)]
  try {
    for (let round = 0; round < rounds; round++) for (const queue of queues) queue.found.push(await measure(queue, say))
    for (const queue of queues) await explain(queue, say)
  } finally {
    for (const { database } of queues) await database.close()
  }
  const [small, large] = queues.map(({ found }) => ({
    due: median(found.map(({ duePerS }) => duePerS)),
    drained: median(found.map(({ drainedPerS }) => drainedPerS)),
  }))
  return {
    claimedPerS: large?.due,
    drainedPerS: large?.drained,
    claimOfSmall: (small?.due ?? 0) / (large?.due ?? 0), // what is a rate of one is the time of the other
    drainOfSmall: (small?.drained ?? 0) / (large?.drained ?? 0),
  }
}

interface Queue {
  readonly pending: number
  readonly fresh: FreshDatabase
  readonly database: Database
  readonly found: { duePerS: number; drainedPerS: number }[]
}

const insertPending = `
  insert into deliveries (id, tenant_id, message_id, endpoint_id, expires_at, next_attempt_at, waits_for, attempts)
  select 'dlv_' || lpad(i::text, 26, '0'), 'ten_bench', 'msg_' || lpad(i::text, 26, '0'), 'ep_' || i / 10 % ${endpoints},
         now() + interval '12 months', now() + interval '1 day' + i * interval '1 millisecond', case when i % 10 <> 0 then 'endpoint' end, '[]'
    from generate_series($1::bigint, $2::bigint) as i`
const insertBacklogs = `
  insert into endpoint_backlogs (endpoint_id, tenant_id, drain_at)
  select 'ep_' || i, 'ten_bench', 'infinity' from generate_series(0, ${endpoints - 1}) as i`

async function fill(testbed: Testbed, pending: number, say: (sentence: string) => void): Promise<Queue> {
  say(`  making ${pending.toLocaleString('en-US')} pending deliveries`)
  const fresh = await testbed.createDatabase()
  await (await testbed.startRelay(fresh)).stop() // it makes the schema
  const step = 500_000
  for (let from = 1; from <= pending; from += step) {
    await fresh.session.query(insertPending, [from, Math.min(pending, from + step - 1)])
  }
  await fresh.session.query(insertBacklogs)
  await fresh.session.query('vacuum analyze deliveries')
  await fresh.session.query('checkpoint')
  const logger = pino({ level: 'warn' }, pino.destination(2))
  const database = openDatabase({ connection: { connectionString: fresh.url }, poolSize: 2, logger })
  return { pending, fresh, database, found: [] }
}

const makeDue = `
  update deliveries set next_attempt_at = now() - interval '1 minute'
   where id in (select id from deliveries where waits_for is null order by next_attempt_at desc limit $1)`
const openBacklogs = `
  update endpoint_backlogs set drain_at = now() - interval '1 minute'
   where endpoint_id in (select endpoint_id from endpoint_backlogs order by endpoint_id limit 10)`

async function measure({ pending, fresh, database }: Queue, say: (sentence: string) => void) {
  const due = Math.min(dueRows, pending / 20)
  await fresh.session.query(makeDue, [due])
  const dueMs = await timed(async () => {
    for (let left = due; left > 0; ) {
      const claimed = (await claimDue(database, claimOf('due'))).length
      if (claimed === 0) throw new Error(`${left} that are due were not found`)
      left -= claimed
    }
  })
  let drained = 0
  const drainMs = await timed(async () => {
    for (let n = 0; n < 10; n++) {
      await fresh.session.query(openBacklogs)
      drained += await drainOnce(database)
    }
  })
  const found = { duePerS: (due * 1000) / dueMs, drainedPerS: (drained * 1000) / drainMs }
  const [claimed, taken] = [found.duePerS, found.drainedPerS].map((rate) => Math.round(rate).toLocaleString('en-US'))
  say(`  ${pending.toLocaleString('en-US')} pending: claimed ${claimed} a second, drained ${taken} a second`)
  return found
}

/** Ten backlogs, two from each, as when many endpoints are let through a little. */
const drainOnce = (database: Database): Promise<number> =>
  database.transaction(async (tx) => {
    const now = new Date()
    const backlogs = await lockBacklogs(tx, now, 64)
    const ids = backlogs.map(({ endpointId }) => endpointId)
    const allowed = ids.map((endpointId) => ({ endpointId, most: 2 }))
    const rows = await takeFromBacklogs(tx, allowed, claimOf('drain'))
    await dropEmptyBacklogs(tx, ids, now)
    const later = new Date(now.getTime() + 3_600_000)
    scheduleBacklogs(
      tx,
      ids.map((endpointId) => ({ endpointId, drainAt: later, notBefore: null, paidUntil: null })),
    )
    return rows.length
  })

const claimOf = (claim: string) => {
  const now = new Date()
  return { now, leaseEndsAt: new Date(now.getTime() + 86_400_000), claim, limit: page }
}

/** How PostgreSQL finds them, said once for each queue: the same indexes, and about as many pages. */
async function explain({ pending, fresh, database }: Queue, say: (sentence: string) => void): Promise<void> {
  await fresh.session.query(makeDue, [page])
  await database.transaction(async (tx) => {
    const explaining: Tx = {
      async query<Row>(text: string, params?: readonly Param[]) {
        const rows = await tx.query<{ 'QUERY PLAN': string }>(`explain (analyze, buffers, costs off) ${text}`, params)
        say(`  ${pending.toLocaleString('en-US')} pending:`)
        for (const row of rows) say(`    ${row['QUERY PLAN']}`)
        return [] as Row[]
      },
    }
    await claimDue(explaining, claimOf('explained'))
    await takeFromBacklogs(explaining, [{ endpointId: 'ep_1', most: page }], claimOf('explained'))
  })
}

async function timed(work: () => Promise<void>): Promise<number> {
  const beganMs = clockMs()
  await work()
  return clockMs() - beganMs
}

const median = (values: readonly number[]): number => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
