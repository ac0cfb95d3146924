import { pipeline, Readable, type Transform } from 'node:stream'
import { createGunzip, createZstdDecompress } from 'node:zlib'

/** The file is not what was written: it ends too early, or does not decompress. */
export class ExportDamaged extends Error {
  override readonly name = 'ExportDamaged'
  readonly reason: 'truncated' | 'changed'

  constructor(reason: 'truncated' | 'changed', sentence: string) {
    super(sentence)
    this.reason = reason
  }
}

/** No line of ours is as long as this; one that is, is not read to its end. */
const maxLineBytes = 32 * 1024 * 1024

/** The lines of an export, without their newlines, from the bytes of its file, whether zstd, gzip or plain. Throws
 *  {@link ExportDamaged}, and whatever `chunks` throws. */
export async function* exportLines(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  let rest: Buffer[] = []
  let restBytes = 0
  for await (const chunk of decompress(chunks)) {
    let start = 0
    for (let end = chunk.indexOf(newline); end >= 0; end = chunk.indexOf(newline, start)) {
      const piece = chunk.subarray(start, end)
      yield rest.length === 0 ? piece : Buffer.concat([...rest, piece])
      rest = []
      restBytes = 0
      start = end + 1
    }
    if (start === chunk.length) continue
    rest.push(chunk.subarray(start))
    restBytes += chunk.length - start
    if (restBytes > maxLineBytes) throw new ExportDamaged('changed', `a line is longer than ${maxLineBytes} bytes`)
  }
  if (restBytes > 0) throw new ExportDamaged('truncated', 'the file ends within a line')
}

const newline = 0x0a

async function* decompress(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  const source = chunks[Symbol.asyncIterator]()
  const start: Uint8Array[] = []
  let found = Buffer.alloc(0)
  while (found.length < 4) {
    const { value, done } = await source.next()
    if (done === true) break
    start.push(value)
    found = Buffer.concat(start)
  }
  const decompressor = decompressorFor(found)
  const bytes = resume(found, source)
  if (decompressor === undefined) {
    yield* bytes
    return
  }
  let failed: unknown // the source's own fault is not the file's
  const guarded = guard(bytes, (error) => {
    failed = error
  })
  pipeline(Readable.from(guarded, { objectMode: false }), decompressor, () => {})
  try {
    for await (const chunk of decompressor) yield chunk
  } catch (error) {
    if (failed !== undefined) throw failed
    const early = error instanceof Error && 'code' in error && error.code === 'Z_BUF_ERROR'
    throw early
      ? new ExportDamaged('truncated', 'the compressed data ends too early')
      : new ExportDamaged('changed', 'the compressed data is damaged')
  }
}

/** By the magic numbers of RFC 8878 §3.1.1 and RFC 1952 §2.3.1. */
function decompressorFor(start: Buffer): Transform | undefined {
  if (start.length >= 4 && start.readUInt32LE() === 0xfd2fb528) return createZstdDecompress()
  if (start[0] === 0x1f && start[1] === 0x8b) return createGunzip()
  return undefined
}

async function* resume(first: Buffer, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Buffer> {
  if (first.length > 0) yield first
  for (let next = await rest.next(); next.done !== true; next = await rest.next()) yield Buffer.from(next.value)
}

async function* guard(bytes: AsyncGenerator<Buffer>, onError: (error: unknown) => void): AsyncGenerator<Buffer> {
  try {
    yield* bytes
  } catch (error) {
    onError(error)
    throw error
  }
}
