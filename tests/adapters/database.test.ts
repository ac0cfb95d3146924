import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { checkDurability, openDatabase, openSession } from '../../src/adapters/database.ts'
import {
  byteaArray,
  CommitUnknown,
  type Database,
  DatabaseUnavailable,
  int8Array,
  textArray,
  timestamptzArray,
} from '../../src/ports/database.ts'
import { createTestDatabase, type ServerConnection, silentLogger, type TestDatabase } from '../support/database.ts'
import { type PostgresProxy, startPostgresProxy } from '../support/postgres-proxy.ts'
import { startSystemPostgres, systemPostgresPresent } from '../support/system-postgres.ts'

const servers: [name: string, start: () => Promise<{ connection: ServerConnection; stop(): Promise<void> }>][] = [
  ['the embedded PostgreSQL', startEmbedded],
]
if (systemPostgresPresent) servers.push(['the system PostgreSQL', startSystemPostgres])

async function startEmbedded() {
  const { connection, drop } = await createTestDatabase()
  return { connection, stop: drop }
}

describe.each(servers)('a database on %s', (_name, start) => {
  let stop: () => Promise<void>
  let database: Database

  beforeAll(async () => {
    const server = await start()
    stop = server.stop
    database = openDatabase({ connection: server.connection, poolSize: 2, logger: silentLogger })
  })
  afterAll(async () => {
    await database.close()
    await stop()
  })

  it('returns each type as the port promises', async () => {
    const [row] = await database.query(
      `select '\\x00ff'::bytea as bytes, 9007199254740991::bigint as big, 7::int as small, 'ä'::text as text,
         timestamptz '2026-01-02 03:04:05.678+00' as at, '{"a": [1, null]}'::jsonb as json, true as yes,
         null::bytea as nothing, array[1, null, 3]::bigint[] as bigs, '{}'::bigint[] as none`,
    )
    expect(row).toEqual({
      bytes: Buffer.from([0, 255]),
      big: Number.MAX_SAFE_INTEGER,
      small: 7,
      text: 'ä',
      at: new Date('2026-01-02T03:04:05.678Z'),
      json: { a: [1, null] },
      yes: true,
      nothing: null,
      bigs: [1, null, 3],
      none: [],
    })
  })

  it('hears what is said on a channel, from any connection', async () => {
    let heard = 0
    const listening = database.listen('test_channel', () => heard++)
    await expect.poll(() => heard).toBe(1)
    await database.query(`select pg_notify('test_channel', '')`)
    await expect.poll(() => heard).toBe(2)
    await listening.close()
    await database.query(`select pg_notify('test_channel', '')`)
    expect(heard).toBe(2)
  })

  it('listens again when the connection was cut, and says so, since it may have missed something', async () => {
    let heard = 0
    const listening = database.listen('test_channel', () => heard++)
    await expect.poll(() => heard).toBe(1)
    await database.query(
      `select pg_terminate_backend(pid) from pg_stat_activity where query = 'listen test_channel' and pid <> pg_backend_pid()`,
    )
    await expect.poll(() => heard, { timeout: 10_000 }).toBe(2)
    await database.query(`select pg_notify('test_channel', '')`)
    await expect.poll(() => heard).toBe(3)
    await listening.close()
  })

  it('stops listening even while it is still connecting', async () => {
    await database.listen('test_channel', () => {}).close()
  })

  it('takes each type of parameter', async () => {
    const at = new Date('2026-01-02T03:04:05.678Z')
    const [row] = await database.query(
      `select $1::text as text, $2::bigint as big, $3::boolean as yes, $4::timestamptz as at, $5::bytea as bytes,
         $6::text as nothing`,
      ['ä', Number.MAX_SAFE_INTEGER, false, at, new Uint8Array([0, 1, 255]).subarray(1), null],
    )
    expect(row).toEqual({
      text: 'ä',
      big: Number.MAX_SAFE_INTEGER,
      yes: false,
      at,
      bytes: Buffer.from([1, 255]),
      nothing: null,
    })
  })

  it('takes a time as far ahead as an identifier can tell', async () => {
    const latest = new Date(2 ** 48 - 1) // in the year 10889
    expect(await database.query(`select extract(epoch from $1::timestamptz)::text as seconds`, [latest])).toEqual([
      { seconds: '281474976710.655000' },
    ])
  })

  it('sends whole columns, with nulls and empty values, and none at all', async () => {
    const orNull = <T>(value: fc.Arbitrary<T>) => fc.option(value, { nil: null })
    const row = fc.record({
      bytes: orNull(fc.uint8Array()),
      text: orNull(fc.string({ unit: fc.string({ unit: 'binary' }).filter((text) => !text.includes('\0')) })),
      big: orNull(fc.maxSafeInteger()),
      at: orNull(fc.date({ min: new Date(0), max: new Date('2200-01-01'), noInvalidDate: true })),
    })
    await fc.assert(
      fc.asyncProperty(fc.array(row, { maxLength: 20 }), async (rows) => {
        const back = await database.query(
          `select bytes, text, big, at from unnest($1::bytea[], $2::text[], $3::bigint[], $4::timestamptz[])
             with ordinality as columns (bytes, text, big, at, position) order by position`,
          [
            byteaArray(rows.map(({ bytes }) => bytes)),
            textArray(rows.map(({ text }) => text)),
            int8Array(rows.map(({ big }) => big)),
            timestamptzArray(rows.map(({ at }) => at)),
          ],
        )
        expect(back).toEqual(rows.map((sent) => ({ ...sent, bytes: sent.bytes && Buffer.from(sent.bytes) })))
      }),
      { numRuns: 50 },
    )
  })

  it('passes the checks of durability', async () => {
    await checkDurability(database, silentLogger)
  })
})

describe('a database', () => {
  let own: TestDatabase
  let database: Database

  beforeAll(async () => {
    own = await createTestDatabase()
    database = own.database
    await own.superuser('create table notes (text text not null)')
  })
  beforeEach(async () => {
    await own.superuser('truncate notes')
  })
  afterAll(() => own.drop())

  const notes = async () => (await database.query<{ text: string }>('select text from notes')).map(({ text }) => text)

  it('refuses a bigint that is no safe integer, and goes on', async () => {
    await expect(database.query('select 9007199254740993::bigint as big')).rejects.toThrow(RangeError)
    expect(await database.query('select 1 as one')).toEqual([{ one: 1 }])
  })

  it('refuses to send a fraction as a bigint', async () => {
    await expect(database.query('select $1::bigint[] as bigs', [int8Array([1.5])])).rejects.toThrow(RangeError)
  })

  it('commits nothing of a transaction that could not send a statement', async () => {
    const work = database.transaction(async (tx) => {
      tx.send('insert into notes values ($1)', ['dropped'])
      tx.send('insert into notes select unnest($1::bigint[])::text', [int8Array([0.5])])
    })
    await expect(work).rejects.toThrow(RangeError)
    expect(await notes()).toEqual([])
  })

  it('rejects with the error of the statement that was refused, wherever in a piece it travelled', async () => {
    const insert = 'insert into notes values ($1)'
    const work = (texts: (string | null)[]) =>
      database.transaction(async (tx) => {
        for (const text of texts) tx.send(insert, [text])
      })
    await work(['known from now on'])
    for (const texts of [
      [null, 'a', 'b'],
      ['a', null, 'b'],
      ['a', 'b', null],
    ]) {
      await expect(work(texts)).rejects.toMatchObject({ code: '23502' })
    }
    expect(await notes()).toEqual(['known from now on'])
  })

  it('answers a question that others travel ahead of with its own rows', async () => {
    const answer = () =>
      database.transaction(async (tx) => {
        tx.send('select 1 as dropped')
        tx.send('insert into notes values ($1)', ['ahead'])
        return tx.query('select count(*) from notes')
      })
    expect(await answer()).toEqual([{ count: 1 }])
    expect(await answer()).toEqual([{ count: 2 }])
  })

  it('commits what a transaction did, and returns its value', async () => {
    const value = await database.transaction(async (tx) => {
      await tx.query('insert into notes values ($1)', ['kept'])
      return 7
    })
    expect(value).toBe(7)
    expect(await notes()).toEqual(['kept'])
  })

  it('rolls back, and rejects with the very error of the work', async () => {
    const reason = new Error('changed my mind')
    const work = database.transaction(async (tx) => {
      await tx.query('insert into notes values ($1)', ['dropped'])
      throw reason
    })
    await expect(work).rejects.toBe(reason)
    expect(await notes()).toEqual([])
  })

  it('passes an error of PostgreSQL on, after rolling back', async () => {
    const work = database.transaction(async (tx) => {
      await tx.query('insert into notes values ($1)', ['dropped'])
      await tx.query('insert into notes values ($1)', [null])
    })
    await expect(work).rejects.toMatchObject({ code: '23502' })
    expect(await notes()).toEqual([])
  })

  it('does not call it committed when the work swallowed an error of PostgreSQL', async () => {
    const work = database.transaction(async (tx) => {
      await tx.query('insert into notes values ($1)', ['dropped'])
      await tx.query('insert into notes values ($1)', [null]).catch(() => {})
    })
    await expect(work).rejects.toMatchObject({ code: '23502' })
    expect(await notes()).toEqual([])
  })

  it('runs no statement for a transaction that is over', async () => {
    const leaked = await database.transaction(async (tx) => tx)
    await expect(leaked.query('insert into notes values ($1)', ['late'])).rejects.toThrow(TypeError)
    expect(await notes()).toEqual([])
  })

  it('answers statements that did not wait for each other, in order', async () => {
    const answers = await database.transaction((tx) =>
      Promise.all([
        tx.query('insert into notes values ($1)', ['first']),
        tx.query('select count(*) from notes'),
        tx.query('delete from notes returning text'),
      ]),
    )
    expect(answers).toEqual([[], [{ count: 1 }], [{ text: 'first' }]])
  })

  it('says that nothing was committed when the server hangs up within a transaction', async () => {
    const work = database.transaction(async (tx) => {
      await tx.query('insert into notes values ($1)', ['dropped'])
      const [session] = await tx.query<{ pid: number }>('select pg_backend_pid() as pid')
      await own.superuser('select pg_terminate_backend($1)', [session?.pid ?? 0])
      await tx.query('insert into notes values ($1)', ['dropped'])
    })
    await expect(work).rejects.toThrow(DatabaseUnavailable)
    expect(await notes()).toEqual([])
  })

  it.each(['53100', '53200', '58030'])(
    'says that nothing was committed when the server has no room (%s), and goes on',
    async (code) => {
      const fail = `do $$ begin raise exception using errcode = '${code}'; end $$`
      const work = database.transaction(async (tx) => {
        tx.send('insert into notes values ($1)', ['dropped'])
        tx.send(fail)
      })
      await expect(work).rejects.toThrow(DatabaseUnavailable)
      await expect(database.query(fail)).rejects.toThrow(DatabaseUnavailable)
      expect(await notes()).toEqual([])
      await database.transaction(async (tx) => tx.send('insert into notes values ($1)', ['kept']))
      expect(await notes()).toHaveLength(1)
    },
  )

  it('says that nothing was committed when the server hangs up while the work is elsewhere', async () => {
    const work = database.transaction(async (tx) => {
      await tx.query('insert into notes values ($1)', ['dropped'])
      const [session] = await tx.query<{ pid: number }>('select pg_backend_pid() as pid')
      await own.superuser('select pg_terminate_backend($1, 5000)', [session?.pid ?? 0])
    })
    // Whether the end of the connection was heard before COMMIT was sent is up to the kernel; both answers are true.
    const reason = await work.then(
      () => 'committed',
      (error: Error) => error.name,
    )
    expect(reason).toMatch(/^(DatabaseUnavailable|CommitUnknown)$/)
    expect(await notes()).toEqual([])
  })

  it('recovers from a plan that a migration made obsolete', async () => {
    const narrow = openDatabase({ connection: own.connection, poolSize: 1, logger: silentLogger })
    const selectAll = 'select * from notes'
    await narrow.query(selectAll)
    await own.superuser('alter table notes add column size integer')
    await expect(narrow.query(selectAll)).rejects.toMatchObject({ code: '0A000' })
    expect(await narrow.query(selectAll)).toEqual([])
    await own.superuser('alter table notes drop column size')
    await narrow.close()
  })

  it('refuses texts that are made up as it goes', async () => {
    const fresh = openDatabase({ connection: own.connection, poolSize: 1, logger: silentLogger })
    for (let i = 0; i < 1_000; i++) await fresh.query(`select ${i}`)
    await expect(fresh.query('select 1000')).rejects.toThrow(TypeError)
    await fresh.close()
  })

  it('says that it is unavailable when there is no server', async () => {
    const nowhere = openDatabase({ connection: { ...own.connection, port: 1 }, poolSize: 1, logger: silentLogger })
    await expect(nowhere.query('select 1')).rejects.toThrow(DatabaseUnavailable)
    await expect(nowhere.transaction(async () => 1)).rejects.toThrow(DatabaseUnavailable)
    await nowhere.close()
  })

  it('logs that the database went away once, and that it is back once', async () => {
    const facts: string[] = []
    const note = (...args: unknown[]) => void facts.push(String(args.at(-1)))
    const watched = openDatabase({ connection: own.connection, poolSize: 4, logger: { info: note, warn: note } })
    const open = () => Promise.all([1, 2, 3].map(() => watched.query('select pg_sleep(0)')))
    await open()
    await own.superuser(
      'select pg_terminate_backend(pid, 5000) from pg_stat_activity where pid <> pg_backend_pid() and datname = $1',
      [own.connection.database],
    )
    while (!facts.includes('database.back')) await open().catch(() => {})
    await watched.close()
    expect(facts).toEqual(['database.lost', 'database.back'])
  })

  it('fails the checks of durability when commits do not wait for the disk', async () => {
    for (const setting of ['off', 'local']) {
      await own.superuser(`alter database ${own.connection.database} set synchronous_commit = ${setting}`)
      const lax = openDatabase({ connection: own.connection, poolSize: 1, logger: silentLogger })
      await expect(checkDurability(lax, silentLogger)).rejects.toMatchObject({ code: 'database_not_durable' })
      await lax.close()
    }
  })
})

describe('a database whose connection is cut', () => {
  let own: TestDatabase
  let proxy: PostgresProxy
  let cut: Database

  beforeAll(async () => {
    own = await createTestDatabase()
    await own.superuser('create table notes (text text not null)')
    proxy = await startPostgresProxy(`${own.connection.host}/.s.PGSQL.${own.connection.port}`)
    const connection = { ...own.connection, host: '127.0.0.1', port: proxy.port }
    cut = openDatabase({ connection, poolSize: 2, logger: silentLogger })
  })
  beforeEach(async () => {
    await own.superuser('truncate notes')
  })
  afterAll(async () => {
    await cut.close()
    await proxy.close()
    await own.drop()
  })

  const write = () => cut.transaction((tx) => tx.query('insert into notes values ($1)', ['note']))
  const count = async () => (await own.database.query<{ count: number }>('select count(*) from notes'))[0]?.count

  const faults = [
    { at: 'BEGIN', kind: 'request lost', text: 'begin', becomes: DatabaseUnavailable, written: 0 },
    { at: 'BEGIN', kind: 'answer lost', text: 'begin', becomes: DatabaseUnavailable, written: 0 },
    { at: 'COMMIT', kind: 'request lost', text: 'commit\0', becomes: CommitUnknown, written: 0 },
    { at: 'COMMIT', kind: 'answer lost', text: 'commit\0', becomes: CommitUnknown, written: 1 },
    // BEGIN is refused, and the statement that travels with it is skipped.
    { at: 'BEGIN', kind: 'garbled', text: 'begin', by: 'bogus', becomes: Error, written: 0 },
  ] as const

  it.each(faults)('$kind at $at becomes $becomes.name, with $written rows written', async (fault) => {
    await write() // from now on the connection knows the statements
    await own.superuser('truncate notes')
    proxy.arm(fault)
    await expect(write()).rejects.toThrow(fault.becomes)
    expect(await count()).toBe(fault.written)
    await write()
    expect(await count()).toBe(fault.written + 1)
  })

  it.each([
    { kind: 'request lost', written: 0 },
    { kind: 'answer lost', written: 1 },
  ] as const)('cannot say what a transaction did that travels in one piece: $kind', async ({ kind, written }) => {
    const send = () => cut.transaction(async (tx) => tx.send('insert into notes values ($1)', ['note']))
    await send()
    await own.superuser('truncate notes')
    proxy.arm({ kind, text: 'begin' })
    await expect(send()).rejects.toThrow(CommitUnknown)
    expect(await count()).toBe(written)
  })

  it('cannot say what a transaction did whose BEGIN was refused on a connection that had yet to prepare it', async () => {
    const connection = { ...own.connection, host: '127.0.0.1', port: proxy.port }
    const fresh = openDatabase({ connection, poolSize: 1, logger: silentLogger })
    proxy.arm({ kind: 'garbled', text: 'begin isolation', by: 'bogus isolation' })
    const work = fresh.transaction((tx) => tx.query('insert into notes values ($1)', ['outside']))
    await expect(work).rejects.toThrow(CommitUnknown)
    expect(await count()).toBe(1)
    await fresh.close()
  })

  it.each([
    { kind: 'request lost', written: 0 },
    { kind: 'answer lost', written: 1 },
  ] as const)('cannot say what a single write did: $kind', async ({ kind, written }) => {
    proxy.arm({ kind, text: 'alone' })
    await expect(cut.query('insert into notes values ($1)', ['alone'])).rejects.toThrow(CommitUnknown)
    expect(await count()).toBe(written)
  })

  it('knows that a single read did nothing', async () => {
    proxy.arm({ kind: 'answer lost', text: 'alone' })
    await expect(cut.query('select $1::text', ['alone'])).rejects.toThrow(DatabaseUnavailable)
  })
})

describe('a session', () => {
  let own: TestDatabase
  beforeAll(async () => {
    own = await createTestDatabase()
  })
  afterAll(() => own.drop())

  it('runs several statements at once', async () => {
    const session = await openSession(own.connection)
    expect(await session.query('create table a (b int); insert into a values (1)')).toEqual([])
    expect(await session.query('select b from a')).toEqual([{ b: 1 }])
    await session.close()
    await session.ended
  })

  it('tells that it ended when the server hangs up', async () => {
    const session = await openSession(own.connection, 'doomed')
    await own.superuser(`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'doomed'`)
    await session.ended
    await expect(session.query('select 1')).rejects.toThrow()
    await session.close()
  })
})
