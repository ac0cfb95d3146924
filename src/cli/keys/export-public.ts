import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { CommandError } from '../command.ts'
import { readInput } from '../input.ts'
import { fetchHistory, urlOf } from './history.ts'

/**
 * Prints the JWKS, or writes what `countersign verify` needs, today or in ten years, into a folder: `jwks.json`,
 * `vkeys.txt`, `keys.json` and `<kid>.pem` of each payload key ever. CommandError, and nothing written, if the history
 * is not what the active key signed.
 */
export async function exportPublicKeys({ relay, dir }: { relay: string; dir: string | undefined }): Promise<0> {
  const jwks = await readInput(urlOf(relay, '/.well-known/jwks.json'))
  if (dir === undefined) {
    process.stdout.write(`${Buffer.from(jwks)}\n`)
    return 0
  }
  const { bytes, keys, signature } = await fetchHistory(relay)
  if (signature.kind === 'fails') throw new CommandError(`the key history is not to be trusted: ${signature.why}`)
  const files = new Map<string, Uint8Array | string | Buffer>([
    ['jwks.json', jwks],
    ['vkeys.txt', await readInput(urlOf(relay, '/log/vkey'))],
    ['keys.json', bytes],
  ])
  for (const { kid, purpose, publicKey } of keys) {
    if (purpose === 'payload') files.set(`${kid}.pem`, publicKey.export({ format: 'pem', type: 'spki' }))
  }
  await mkdir(dir, { recursive: true })
  for (const [name, content] of files) await writeFile(join(dir, name), content)
  process.stdout.write(`${[...files.keys()].map((name) => join(dir, name)).join('\n')}\n`)
  return 0
}
