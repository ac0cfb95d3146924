import { open, rename } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Replaces a file with `content`, for its owner alone. Once it resolves, the content survives a power cut; until then
 * the old content does. Whoever reads sees one or the other, never a part.
 */
export async function writeDurably(path: string, content: string): Promise<void> {
  const draft = `${path}.tmp`
  const file = await open(draft, 'w', 0o600)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(draft, path)
  const folder = await open(dirname(path), 'r') // the bytes are safe, but not yet the name they are found by
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
