/**
 * Baseline: the durable floor, a process of its own. The bytes of a message go into one table, one multi-row insert and
 * one commit per batch of the relay's size, one batch after the other, on the same PostgreSQL with fsync on. A relay that
 * keeps its word can be no faster than this, whatever else it does.
 */
import pino from 'pino'
import { openDatabase } from '../src/adapters/database.ts'
import { byteaArray } from '../src/ports/database.ts'
import { offer } from './helper-process.ts'
import { clockMs } from './ledger.ts'
import { payloadMaker } from './payloads.ts'

const batchRows = 256

const questions = {
  async insert({
    url,
    seconds,
  }: {
    url: string
    seconds: number
  }): Promise<{ rows: number; commits: number; elapsedMs: number }> {
    const database = openDatabase({
      connection: { connectionString: url },
      poolSize: 1,
      logger: pino({ level: 'silent' }),
    })
    await database.transaction((tx) =>
      tx.query('create table floor (id bigint generated always as identity, payload bytea not null)'),
    )
    await database.transaction((tx) => tx.query('alter table floor alter column payload set storage external'))
    const payload = payloadMaker(1024)
    const insert = 'insert into floor (payload) select * from unnest($1::bytea[])'
    const beganMs = clockMs()
    let commits = 0
    for (; clockMs() - beganMs < seconds * 1000; commits++) {
      const batch = Array.from({ length: batchRows }, (_, row) => Buffer.from(payload(commits * batchRows + row)))
      await database.transaction((tx) => tx.query(insert, [byteaArray(batch)]))
    }
    const elapsedMs = clockMs() - beganMs
    await database.close()
    return { rows: commits * batchRows, commits, elapsedMs }
  },
}

export type FloorQuestions = typeof questions
offer(questions)
