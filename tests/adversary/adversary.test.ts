/**
 * Whoever runs the database can do anything to it. This is what, and who finds out: the table in src/log/README.md is
 * what these tests found. `WRITE_TABLE=1 vitest run tests/adversary` writes it anew.
 */
import { cp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { tileKey } from '../../src/log/published.ts'
import { createTestDatabase } from '../support/database.ts'
import { checkTestLog } from '../support/log-check.ts'
import { Past, World } from './world.ts'

interface Wrong {
  readonly what: string
  /** Does it. May return another world in place of the one given. */
  readonly commit: (world: World) => Promise<World | undefined>
  /** The first leaf that `log check` must name; undefined if none can be. */
  readonly leaf?: number | ((past: Past) => number)
}

/** A leaf about an API key: nobody has a receipt of it. */
const unsigned = 8

const forged = new Uint8Array(32).fill(7)

const wrongs: readonly Wrong[] = [
  {
    what: "a statement's sealed text is edited",
    leaf: 120,
    commit: async (world) =>
      void (await world.sql('update statements set sealed = set_byte(sealed, 50, 0) where leaf_index = 120')),
  },
  {
    what: "a statement's signature is edited",
    leaf: 120,
    commit: async (world) =>
      void (await world.sql('update statements set signature = set_byte(signature, 9, 0) where leaf_index = 120')),
  },
  {
    what: 'a statement is filed under another kind',
    leaf: 120,
    commit: async (world) =>
      void (await world.sql(`update statements set kind = 'tenant.created' where leaf_index = 120`)),
  },
  {
    what: 'an entry is edited, below a full tile',
    leaf: 120,
    commit: async (world) =>
      void (await world.sql(['update statements set entry = $1 where leaf_index = 120', forged])),
  },
  {
    what: 'an entry is edited, at the right edge',
    leaf: 560,
    commit: async (world) =>
      void (await world.sql(['update statements set entry = $1 where leaf_index = 560', forged])),
  },
  {
    what: 'a row is deleted',
    leaf: 300,
    commit: async (world) => void (await world.sql('delete from statements where leaf_index = 300')),
  },
  {
    what: 'the newest rows are deleted',
    leaf: 550,
    commit: async (world) => void (await world.sql('delete from statements where leaf_index >= 550')),
  },
  {
    what: 'two rows change places',
    leaf: 130,
    commit: async (world) =>
      void (await world.sql(
        'update statements set leaf_index = 1000000 where leaf_index = 130',
        'update statements set leaf_index = 130 where leaf_index = 140',
        'update statements set leaf_index = 140 where leaf_index = 1000000',
      )),
  },
  {
    what: 'a row is inserted behind the head',
    leaf: ({ size }) => size,
    commit: async (world) => {
      const columns = 'tenant_id, stated_at, kind, actor, entry, sealed, kid, signature, expires_at'
      await world.sql(`insert into statements (leaf_index, ${columns})
        select (select tree_size from log), ${columns} from statements where leaf_index = 200`)
      return undefined
    },
  },
  {
    what: 'a message is pointed at the leaf of another',
    leaf: 200,
    commit: async (world) => void (await world.sql('update messages set leaf_index = 201 where leaf_index = 200')),
  },
  {
    what: 'a tile is rewritten in the database',
    leaf: 100,
    commit: async (world) =>
      void (await world.sql('update tiles set hashes = set_byte(hashes, 3205, 0) where tile_index = 0')),
  },
  {
    what: 'an entry bundle is rewritten in the database',
    leaf: 100,
    commit: async (world) =>
      void (await world.sql('update entry_bundles set entries = set_byte(entries, 3205, 0) where tile_index = 0')),
  },
  {
    what: 'a tile is rewritten in the object store',
    leaf: 261,
    commit: async (world) => void (await world.flipObject(tileKey(0, 1), 165)),
  },
  {
    what: 'an entry bundle is rewritten in the object store',
    leaf: 261,
    commit: async (world) => void (await world.flipObject(tileKey('entries', 1), 175)),
  },
  {
    what: 'the head is replaced by an older one',
    commit: async (world) => {
      const { past } = world
      const [older] = await past.lastWeek.database.database.query<{ size: number; root: Uint8Array; note: string }>(
        'select tree_size as size, root_hash as root, checkpoint as note from log',
      )
      if (older === undefined) throw new Error('there is no older head')
      const { size, root, note } = older
      await world.sql(['update log set tree_size = $1, root_hash = $2, checkpoint = $3', size, root, note])
      return undefined
    },
    leaf: (past) => past.lastWeekSize,
  },
  {
    what: 'a statement is replaced in all of the database, and the head signed with the real key',
    leaf: unsigned,
    commit: async (world) => void (await world.rewriteDatabase(unsigned)),
  },
  {
    what: 'the same, in the object store as well, where nothing is locked',
    commit: async (world) => void (await world.rewriteObjects(await world.rewriteDatabase(unsigned))),
  },
  {
    what: "last week's backup of the database is restored",
    leaf: (past) => past.lastWeekSize,
    commit: async (world) => {
      const { past, folder } = world
      const database = await createTestDatabase(past.lastWeek.database.connection.database)
      await world.database.drop()
      return new World(past, { database, folder })
    },
  },
  {
    what: "last week's backups of the database and the object store are restored, where nothing is locked",
    commit: async (world) => {
      const { past, folder } = world
      const database = await createTestDatabase(past.lastWeek.database.connection.database)
      await world.database.drop()
      await rm(join(folder, 'objects'), { recursive: true })
      await cp(join(past.lastWeek.folder, 'objects'), join(folder, 'objects'), { recursive: true })
      return new World(past, { database, folder })
    },
  },
]

/** Who may find out. A column each; one more is one more here. */
const exposers: Record<string, (world: World, wrong: Wrong) => Promise<string | undefined>> = {
  async '`log check`'(world, { leaf }) {
    const { findings } = await checkTestLog(world)
    const [first] = findings
    const expected = typeof leaf === 'function' ? leaf(world.past) : leaf
    expect(first?.leafIndex, JSON.stringify(findings.slice(0, 5), null, 1)).toBe(expected)
    return first && `\`${first.word}\``
  },
  async '`log check` with an old receipt'(world) {
    const kept = [{ name: 'receipt', note: Buffer.from(world.past.receipt.checkpoint) }]
    const [first] = (await checkTestLog(world, { kept })).findings
    return first && `\`${first.word}\``
  },
  'the holder of an old receipt': async (world) => ((await world.exposedTo(world.past.receipt)) ? 'yes' : undefined),
  'the holder of an old export': async (world) => ((await world.exposedTo(world.past.export)) ? 'yes' : undefined),
  // From here on: a relay that starts goes on writing.
  'the next start': async (world) => ((await world.start()) === undefined ? 'refuses' : undefined),
  'a new export': async (world) => world.exportAgain(),
  'the witness': async (world) => ((await world.witnessRefuses()) ? 'refuses' : undefined),
}

let past: Past
beforeAll(async () => {
  past = await Past.make()
})
afterAll(() => past.end())

const found = new Map<string, string>()

test('nobody cries wolf over a log that was left alone', async () => {
  const world = await past.world()
  for (const expose of Object.values(exposers))
    expect(await expose(world, { what: '', commit: async () => undefined })).toBeUndefined()
  await world.end()
})

test.each(wrongs)('$what: each of those who should find out does', async (wrong) => {
  let world = await past.world()
  try {
    world = (await wrong.commit(world)) ?? world
    const cells: string[] = []
    for (const expose of Object.values(exposers)) cells.push((await expose(world, wrong)) ?? '–')
    found.set(wrong.what, `| ${[wrong.what, ...cells].join(' | ')} |`)
  } finally {
    await world.end()
  }
})

test('the table in src/log/README.md says so', async () => {
  const readme = new URL('../../src/log/README.md', import.meta.url)
  const text = await readFile(readme, 'utf8')
  const names = Object.keys(exposers)
  const rows = wrongs.map(({ what }) => found.get(what) ?? `| ${what}: not tested |`)
  const head = [`| done to the log | ${names.join(' | ')} |`, `| --- |${' --- |'.repeat(names.length)}`]
  const table = `${begin}\n${[...head, ...rows].join('\n')}\n${end}`
  const kept = text.slice(text.indexOf(begin), text.indexOf(end) + end.length)
  if (process.env.WRITE_TABLE)
    await writeFile(
      readme,
      text.replace(kept, () => table),
    )
  else expect(kept).toBe(table)
})

const begin = '<!-- adversaries: written by tests/adversary -->'
const end = '<!-- /adversaries -->'
