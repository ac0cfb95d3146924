import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest'
import { openSession, type Session } from '../../src/adapters/database.ts'
import { migrate } from '../../src/adapters/migrate.ts'
import type { ServerConnection } from '../support/database.ts'
import { startSystemPostgres, systemPostgresPresent } from '../support/system-postgres.ts'

const servers: [name: string, start: () => Promise<{ connection: ServerConnection; stop(): Promise<void> }>][] = [
  ['the embedded PostgreSQL', async () => ({ connection: inject('postgres'), stop: async () => {} })],
]
if (systemPostgresPresent) servers.push(['the system PostgreSQL', startSystemPostgres])

describe.each(servers)('migrations on %s', (_name, start) => {
  let server: Awaited<ReturnType<typeof start>>
  let administrator: Session
  let connection: ServerConnection
  let session: Session
  let folder: string

  beforeAll(async () => {
    server = await start()
    administrator = await openSession(server.connection)
  })
  afterAll(async () => {
    await administrator.close()
    await server.stop()
  })
  beforeEach(async () => {
    await administrator.query('create database migrated')
    connection = { ...server.connection, database: 'migrated' }
    session = await openSession(connection)
    folder = await mkdtemp(join(tmpdir(), 'countersign-migrations-'))
  })
  afterEach(async () => {
    await session.close()
    await administrator.query('drop database migrated with (force)')
    await rm(folder, { recursive: true })
  })

  const put = (name: string, text: string) => writeFile(join(folder, name), text)
  const history = () => session.query('select version, name from schema_migrations order by version')

  it('apply once, in the order of their numbers', async () => {
    await put('0002_second.sql', 'alter table a add column c integer; insert into a values (1, 2);')
    await put('0001_first.sql', 'create table a (b integer);')
    expect(await migrate(connection, folder)).toEqual(['first', 'second'])
    expect(await migrate(connection, folder)).toEqual([])
    await put('0003_third.sql', 'update a set b = 3')
    expect(await migrate(connection, folder)).toEqual(['third'])
    expect(await session.query('select * from a')).toEqual([{ b: 3, c: 2 }])
  })

  it('apply once when several processes start together', async () => {
    await put('0001_first.sql', 'create table a (b integer)')
    await put('0002_second.sql', 'insert into a values (1)')
    const applied = await Promise.all([1, 2, 3].map(() => migrate(connection, folder)))
    expect(applied.toSorted()).toEqual([[], [], ['first', 'second']])
    expect(await session.query('select b from a')).toEqual([{ b: 1 }])
  })

  it('leave no trace of one that fails, and keep those before it', async () => {
    await put('0001_first.sql', 'create table a (b integer)')
    await put('0002_second.sql', 'insert into a values (1); insert into nowhere values (1)')
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: '42P01' })
    expect(await history()).toEqual([{ version: 1, name: 'first' }])
    expect(await session.query('select b from a')).toEqual([])
    await put('0002_second.sql', 'insert into a values (1)')
    expect(await migrate(connection, folder)).toEqual(['second'])
  })

  it('are refused when an applied one was edited', async () => {
    await put('0001_first.sql', 'create table a (b integer)')
    await migrate(connection, folder)
    await put('0001_first.sql', 'create table a (b bigint)')
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: 'migration_changed' })
  })

  it('are refused by a program older than the schema', async () => {
    await put('0001_first.sql', 'create table a (b integer)')
    await put('0002_second.sql', 'create table b (b integer)')
    await migrate(connection, folder)
    await rm(join(folder, '0002_second.sql'))
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: 'schema_newer' })
  })

  it.each([
    ['a gap', ['0001_first.sql', '0003_third.sql']],
    ['a number twice', ['0001_first.sql', '0001_other.sql']],
    ['no number', ['first.sql']],
  ])('are refused when their names have %s', async (_what, names) => {
    for (const name of names) await put(name, 'select 1')
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: 'migration_invalid' })
    expect(await session.query(`select to_regclass('schema_migrations') as history`)).toEqual([{ history: null }])
  })
})
