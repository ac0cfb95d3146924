import { open } from 'node:fs/promises'

/** Makes the names in a folder durable. Syncing a file saves its bytes, not the name it is found by. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
