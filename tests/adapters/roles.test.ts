/** What the roles of the database may do, tried one by one, and what not even a superuser may do by accident. */
import { randomBytes } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest'
import { checkRole, openDatabase, openSession, relayRole, type Session } from '../../src/adapters/database.ts'
import { migrate } from '../../src/adapters/migrate.ts'
import { makePartition } from '../../src/log/partitions.ts'
import { silentLogger } from '../support/database.ts'
import { Receiver } from '../support/receiver.ts'
import { TestRelay, type TestTenant } from '../support/relay.ts'

const guarded = [
  ...['statements', 'messages', 'payloads', 'idempotency_keys', 'settled_deliveries', 'answers'],
  ...['tiles', 'entry_bundles'],
]
const refused = { code: '42501' }

let relay: TestRelay
let receiver: Receiver
let acme: TestTenant
let rival: TestTenant
let partition: string

beforeAll(async () => {
  relay = await TestRelay.start()
  receiver = await Receiver.start()
  receiver.answer = (_arrived, response) => response.writeHead(410).end('gone')
  acme = await relay.makeTenant('Acme')
  rival = await relay.makeTenant('Rival')
  for (const tenant of [acme, rival]) {
    await relay.makeEndpoint(tenant, 'http://127.0.0.1:65000/')
    const posts = Array.from({ length: 130 }, (_, n) => relay.post(tenant, { n }, { 'idempotency-key': `${n}` }))
    for (const { status } of await Promise.all(posts)) expect(status).toBe(202)
    // Given up at once, with an answer that is kept.
    await relay.makeEndpoint(tenant, receiver.url)
    expect((await relay.post(tenant, { last: true })).status).toBe(202)
  }
  const count = `select count(*) as n from settled_deliveries join answers using (tenant_id) where state = 'abandoned'`
  await vi.waitFor(async () => expect(await relay.database.superuser(count)).toEqual([{ n: 2 }]), 10_000)
  const [row] = await relay.database.superuser<{ name: string }>(
    `select inhrelid::regclass::text as name from pg_inherits where inhparent = 'statements'::regclass order by 1 limit 1`,
  )
  partition = row?.name ?? ''
})

afterAll(async () => {
  await relay?.stop()
  await receiver?.stop()
})

/** One statement under a role, undone. */
async function attempt(text: string, { role, before = 'select' }: { role?: string; before?: string } = {}) {
  const session = await openSession(relay.database.connection)
  try {
    await session.query(`begin; ${role === undefined ? '' : `set local role ${role};`} ${before}`)
    return await session.query(text)
  } finally {
    await session.close()
  }
}

const changes = (table: string) => [
  `update ${table} set ${columns[table] ?? ''}`,
  `delete from ${table}`,
  `truncate ${table}`,
]
const columns: Record<string, string> = {
  statements: 'entry = entry',
  messages: 'accepted_at = accepted_at',
  payloads: 'sealed = sealed',
  idempotency_keys: 'key_hash = key_hash',
  settled_deliveries: 'state = state',
  answers: 'sealed = sealed',
  tiles: 'hashes = hashes',
  entry_bundles: 'entries = entries',
}
const allChanges = [...guarded.flatMap(changes), 'delete from log', 'truncate log']

describe('the relay', () => {
  test.each(allChanges)('may not %s', async (change) => {
    await expect(attempt(change, { role: relayRole })).rejects.toMatchObject(refused)
  })

  test.each([
    ['read a partition by its own name', () => `select * from ${partition}`],
    ['add to a partition by its own name', () => `insert into ${partition} select * from statements limit 1`],
    ['take a trigger off', () => 'alter table statements disable trigger append_only'],
    ['make a table', () => 'create table notes (text text)'],
    ['change the policy', () => 'drop policy one_tenant on statements'],
    ['rewrite what was migrated', () => 'delete from schema_migrations'],
    ['forget a tenant altogether', () => 'delete from tenants'],
    ['lose a key', () => 'delete from keys'],
  ])('may not %s', async (_what, text) => {
    await expect(attempt(text(), { role: relayRole })).rejects.toMatchObject(refused)
  })

  test('may not drop a month that is not over', async () => {
    const month = `${partition.slice(-6, -2)}-${partition.slice(-2)}-01`
    const dropping = attempt(`select drop_partition('statements', '${month}')`, { role: relayRole })
    await expect(dropping).rejects.toMatchObject({ code: '55000' })
  })

  test('makes the partitions of what it keeps, and of nothing else', async () => {
    for (const table of ['keys', 'statements; drop table keys']) {
      const made = attempt(`select make_partition('${table}', '2090-01-01')`, { role: relayRole })
      await expect(made).rejects.toMatchObject({ code: '22023' })
    }
    const making = [1, 2, 3, 4].map(() =>
      relay.database.database.transaction((tx) => makePartition(tx, 'payloads', new Date('2090-01-15T00:00:00Z'))),
    )
    await Promise.all(making)
    await expect(attempt('truncate payloads_209001')).rejects.toMatchObject(refused)
  })
})

describe('the reader of a tenant', () => {
  test.each([
    ...guarded.map((table) => `insert into ${table} select * from ${table}`),
    ...allChanges,
    'select * from keys',
    'select * from api_keys',
    'select * from ingest_urls',
    'select * from processes',
    'select * from payloads',
    'select * from idempotency_keys',
    `select make_partition('statements', '2090-01-01')`,
  ])('may not %s', async (change) => {
    await expect(attempt(change, { role: 'countersign_reader' })).rejects.toMatchObject(refused)
  })

  const tables = [
    ...['statements', 'messages', 'deliveries', 'settled_deliveries', 'answers'],
    ...['sources', 'endpoints', 'data_keys'],
  ]

  test.each(tables)('sees its own rows of %s, whatever the query asks for', async (table) => {
    const { database } = relay.database
    const own = `select count(*) filter (where tenant_id = $1) as own, count(*) as seen from ${table}`
    const [{ own: expected } = { own: 0 }] = await database.query<{ own: number }>(own, [acme.id])
    expect(expected).toBeGreaterThan(0)
    const hostile = [
      own,
      `select count(*) filter (where tenant_id = $1) as own, count(*) as seen from ${table} where tenant_id <> $1 or true`,
      `select count(*) filter (where a.tenant_id = $1) as own, count(*) as seen from ${table} a
         where exists (select from ${table} b where b.tenant_id <> a.tenant_id) or true`,
    ]
    for (const text of hostile) {
      const [row] = await database.readAs(acme.id, (tx) => tx.query(text, [acme.id]))
      expect(row).toEqual({ own: expected, seen: expected })
    }
    // A condition that fails on another's row would tell of it by its error.
    const oracle = `select 1 / (case when tenant_id = $1 then 1 else 0 end) from ${table}`
    expect(await database.readAs(acme.id, (tx) => tx.query(oracle, [acme.id]))).toHaveLength(expected)
  })

  test('sees one tenant, nothing of the deployment, and nothing at all without a tenant', async () => {
    const { database } = relay.database
    expect(await database.readAs(acme.id, (tx) => tx.query('select id from tenants'))).toEqual([{ id: acme.id }])
    const orphans = 'select 1 from statements where tenant_id is null'
    expect((await database.query(orphans)).length).toBeGreaterThan(0)
    expect(await database.readAs(acme.id, (tx) => tx.query(orphans))).toEqual([])
    for (const table of [...tables, 'tenants']) {
      expect(await database.readAs('', (tx) => tx.query(`select 1 from ${table}`)), table).toEqual([])
    }
  })

  test('reads one snapshot, writes nothing, and leaves its connection as it was', async () => {
    const narrow = openDatabase({
      connection: relay.database.connection,
      poolSize: 1,
      role: relayRole,
      logger: silentLogger,
    })
    const who = `select current_user as who, current_setting('countersign.tenant', true) as tenant`
    expect(await narrow.readAs(acme.id, (tx) => tx.query(who))).toEqual([
      { who: 'countersign_reader', tenant: acme.id },
    ])
    await expect(narrow.readAs(acme.id, (tx) => tx.query('create temp table t (a int)'))).rejects.toMatchObject({
      code: '25006',
    })
    expect(await narrow.query(who)).toMatchObject([{ who: relayRole, tenant: '' }])
    await narrow.close()
  })
})

describe('the owner of the log', () => {
  test.each(allChanges)('may not %s', async (change) => {
    await expect(attempt(change, { role: 'countersign_owner' })).rejects.toMatchObject(refused)
  })

  test('cannot log in', async () => {
    const { connection } = relay.database
    await expect(openSession({ ...connection, user: 'countersign_owner' })).rejects.toThrow()
  })
})

describe('a superuser', () => {
  test.each(allChanges)('may not %s, not even as a replica', async (change) => {
    await expect(attempt(change)).rejects.toMatchObject(refused)
    await expect(attempt(change, { before: 'set local session_replication_role = replica' })).rejects.toMatchObject(
      refused,
    )
  })

  test('may not change a partition by its own name', async () => {
    for (const change of [
      `update ${partition} set entry = entry`,
      `delete from ${partition}`,
      `truncate ${partition}`,
    ]) {
      await expect(attempt(change)).rejects.toMatchObject(refused)
    }
  })
})

test('every table with rows of tenants has a policy that holds for everyone', async () => {
  const open = await relay.database.superuser(
    `select c.relname from pg_class c
      where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
        and exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')
        and not (c.relrowsecurity and c.relforcerowsecurity)`,
  )
  expect(open).toEqual([])
})

describe('a managed database, whose login is no superuser', () => {
  const login = `managed_${randomBytes(6).toString('hex')}`
  const migrations = fileURLToPath(new URL('../../src/migrations', import.meta.url))
  let administrator: Session

  beforeAll(async () => {
    administrator = await openSession(inject('postgres'))
    await administrator.query(`create role ${login} login password 'secret'`)
    await administrator.query(`create database ${login} owner ${login}`)
  })
  afterAll(async () => {
    await administrator.query(`drop database ${login} with (force)`)
    await administrator.query(`drop role ${login}`)
    await administrator.close()
  })

  test('is refused with the SQL that an administrator must run, and works once that was run', async () => {
    const connection = { ...inject('postgres'), database: login, user: login, password: 'secret' }
    const reason = await migrate(connection, migrations).catch((error: unknown) => error)
    expect(reason).toMatchObject({ code: 'database_role_missing' })
    const [advice = ''] = /grant countersign_owner,.*;/.exec(String(reason)) ?? []
    expect(advice).toContain(login)

    const database = openDatabase({ connection, poolSize: 1, role: relayRole, logger: silentLogger })
    await expect(checkRole(database)).rejects.toMatchObject({ code: 'database_role_missing' })
    await administrator.query(advice)
    expect(await migrate(connection, migrations)).toEqual(['roles'])
    await checkRole(database)
    await database.transaction((tx) => makePartition(tx, 'statements', new Date()))
    await database.close()
  })

  test('is refused when the pool would run under the name of its login', async () => {
    const connection = { ...inject('postgres'), database: login, user: login, password: 'secret' }
    const database = openDatabase({ connection, poolSize: 1, logger: silentLogger })
    await expect(checkRole(database)).rejects.toMatchObject({ code: 'database_role_missing' })
    await database.close()
  })
})
