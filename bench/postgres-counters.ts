import type { Session } from '../src/adapters/database.ts'

/** What PostgreSQL counts about itself, since it was started. */
export interface PostgresCounters {
  /** Exact: positions in the WAL. */
  readonly walBytes: number
  /** Of WAL files. Backends report once a second, so over a run it may be off by a second's worth. */
  readonly fsyncs: number
}

const selectCounters = `
  select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 as "walBytes",
         (select coalesce(sum(fsyncs), 0)::float8 from pg_stat_io where object = 'wal') as fsyncs`

export async function readCounters(session: Session): Promise<PostgresCounters> {
  const [counters] = await session.query<PostgresCounters>(selectCounters)
  return counters ?? { walBytes: 0, fsyncs: 0 }
}

/** One statement of the relay as PostgreSQL ran it, all its calls together. */
export interface StatementCost {
  readonly statement: string
  readonly calls: number
  readonly rows: number
  /** Milliseconds on the clock, waiting for disk and locks included; planning and protocol are not. */
  readonly totalMs: number
  readonly walBytes: number
}

/** Server settings with which the two below can be asked. They cost a little, so only a profile sets them. */
export const statementSettings = { shared_preload_libraries: 'pg_stat_statements', track_io_timing: 'on' }

export async function forgetStatements(session: Session): Promise<void> {
  await session.query('create extension if not exists pg_stat_statements')
  await session.query('select pg_stat_statements_reset()')
}

const selectStatements = `
  select regexp_replace(query, '\\s+', ' ', 'g') as statement, calls::float8 as calls, rows::float8 as rows,
         total_exec_time as "totalMs", wal_bytes::float8 as "walBytes"
    from pg_stat_statements s
    join pg_database d on d.oid = s.dbid
   where d.datname = current_database()
   order by total_exec_time desc
   limit 12`

export const readStatements = (session: Session): Promise<StatementCost[]> =>
  session.query<StatementCost>(selectStatements)
