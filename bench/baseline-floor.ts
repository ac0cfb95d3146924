/**
 * Baseline: the durable floor, a process of its own. The bytes of a message go into one table, one multi-row insert and
 * one commit per batch of the relay's size, one batch after the other, on the same PostgreSQL with fsync on. A relay that
 * keeps its word can be no faster than this, whatever else it does.
 */
import { setTimeout as delay } from 'node:timers/promises'
import pino from 'pino'
import { openDatabase } from '../src/adapters/database.ts'
import { byteaArray, type Database } from '../src/ports/database.ts'
import { offer } from './helper-process.ts'
import { clockMs, type Percentiles, percentilesOf } from './ledger.ts'
import { payloadMaker } from './payloads.ts'

const batchRows = 256

/** As batches are at a thousand messages a second. */
const pacedRows = 5
const pacedCommitsPerS = 200

const payload = payloadMaker(1024)
const rowsOf = (commit: number, length: number) =>
  byteaArray(Array.from({ length }, (_, row) => Buffer.from(payload(commit * length + row))))
const insert = 'insert into floor (payload) select * from unnest($1::bytea[])'

interface Asked {
  url: string
  seconds: number
}

const questions = {
  /** As fast as it goes. */
  insert: ({ url, seconds }: Asked): Promise<{ rows: number; commits: number; elapsedMs: number }> =>
    withTable(url, async (database) => {
      const beganMs = clockMs()
      let commits = 0
      for (; clockMs() - beganMs < seconds * 1000; commits++) {
        await database.transaction((tx) => tx.query(insert, [rowsOf(commits, batchRows)]))
      }
      return { rows: commits * batchRows, commits, elapsedMs: clockMs() - beganMs }
    }),

  /** Small commits at a modest pace: how long each takes, milliseconds. What is over 5 ms here is the disk's. */
  pace: ({ url, seconds }: Asked): Promise<Percentiles | undefined> =>
    withTable(url, async (database) => {
      const times = new Float64Array(seconds * pacedCommitsPerS)
      for (let commit = 0; commit < times.length; commit++) {
        const beganMs = clockMs()
        await database.transaction((tx) => tx.query(insert, [rowsOf(commit, pacedRows)]))
        times[commit] = clockMs() - beganMs
        await delay(Math.max(0, 1000 / pacedCommitsPerS - (times[commit] ?? 0)))
      }
      return percentilesOf(times)
    }),
}

async function withTable<T>(url: string, work: (database: Database) => Promise<T>): Promise<T> {
  const database = openDatabase({
    connection: { connectionString: url },
    poolSize: 1,
    logger: pino({ level: 'silent' }),
  })
  const make = 'create table if not exists floor (id bigint generated always as identity, payload bytea not null)'
  await database.transaction((tx) => tx.query(make))
  await database.transaction((tx) => tx.query('alter table floor alter column payload set storage external'))
  try {
    return await work(database)
  } finally {
    await database.close()
  }
}

export type FloorQuestions = typeof questions
offer(questions)
