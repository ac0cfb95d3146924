import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createTestDatabase, type TestDatabase } from './database.ts'

/** What a relay that has stopped leaves behind. Copying it is much faster than making it again. */
export interface Remains {
  readonly database: TestDatabase
  readonly folder: string
}

export async function copyOf({ database, folder }: Remains): Promise<Remains> {
  const copied = await mkdtemp(join(tmpdir(), 'countersign-copy-'))
  await cp(folder, copied, { recursive: true })
  return { database: await createTestDatabase(database.connection.database), folder: copied }
}

export async function remove({ database, folder }: Remains): Promise<void> {
  await database.drop()
  await rm(folder, { recursive: true, force: true })
}
