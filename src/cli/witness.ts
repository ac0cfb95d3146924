import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { generateSecretKey, parseSecretKey } from '../log/cosigner.ts'
import { NoteError, parseVerifierKey } from '../log/note.ts'
import { readWitnessed, type Witness, type Witnessed, witnessedNothing } from '../log/witness.ts'
import { CommandError, UsageError } from './command.ts'
import { writeDurably } from './witness/durable.ts'
import { WitnessMemory } from './witness/memory.ts'
import { buildWitnessServer } from './witness/server.ts'

export interface WitnessOptions {
  /** vkeys of one log: more than one while its keys rotate. */
  readonly log: readonly string[]
  /** Paths. */
  readonly key: string
  readonly state: string
  /** Of a key that is made now. */
  readonly name: string
  readonly listen: string
}

/**
 * `countersign witness`: the smallest witness there is, for one log, with one file of state and no database, so that a
 * customer can run it where the operator of the log has no say. Runs until it is stopped.
 */
export async function witness(options: WitnessOptions): Promise<void> {
  const { host, port } = parseListen(options.listen)
  const opened = await openWitness(options)
  const { cosigner, log } = opened.witness
  const memory = new WitnessMemory(opened.witness, opened.witnessed, (next) => writeDurably(options.state, next.note))
  const tell = (line: string) => void process.stdout.write(`${new Date().toISOString()} ${line}\n`)
  const server = buildWitnessServer(memory, log.origin, tell)
  server.listen(port, host)
  await once(server, 'listening')
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${(server.address() as AddressInfo).port}`
  process.stdout.write(`witness of ${log.origin} from ${opened.witnessed.treeSize} leaves on, listening on ${url}\n`)
  process.stdout.write(`vkey ${cosigner.vkey}\n`)
  const stop = () => {
    server.close(() => process.exit())
    server.closeIdleConnections()
  }
  process.once('SIGINT', stop).once('SIGTERM', stop)
}

/** Reads key and state, or makes both: a witness that lost one of them is not the witness that others trust. */
async function openWitness(options: WitnessOptions): Promise<{ witness: Witness; witnessed: Witnessed }> {
  const log = readLog(options.log)
  const [secretKey, note] = [await findFile(options.key), await findFile(options.state)]
  if (secretKey === undefined && note === undefined) return makeWitness(options, log)
  if (secretKey === undefined) {
    throw new CommandError(`${options.state} is there, but not its key ${options.key}: bring it back, or remove both`)
  }
  if (note === undefined) {
    const sentence = `${options.key} is there, but not ${options.state}, which says what it cosigned last`
    throw new CommandError(`${sentence}: without it, it would cosign a fork. Bring it back, or start with a new key`)
  }
  const witness = { cosigner: understood(options.key, () => parseSecretKey(secretKey.toString().trim())), log }
  return { witness, witnessed: understood(options.state, () => readWitnessed(witness, note)) }
}

async function makeWitness({ key, state, name }: WitnessOptions, log: Witness['log']) {
  const secretKey = understood('--name', () => generateSecretKey(name))
  const witness = { cosigner: parseSecretKey(secretKey), log }
  const witnessed = witnessedNothing(witness, new Date())
  await writeDurably(key, `${secretKey}\n`)
  await writeDurably(state, witnessed.note)
  return { witness, witnessed }
}

/** The keys must be of one log, whose origin is their name, as in every checkpoint of it. */
function readLog(arguments_: readonly string[]): Witness['log'] {
  const lines = arguments_.flatMap((text) => text.split(/\s+/)).filter(Boolean)
  const vkeys = lines.map((line) => understood('--log', () => parseVerifierKey(line)))
  const [first] = vkeys
  if (first === undefined) throw new UsageError('--log is missing')
  if (vkeys.some(({ name, type }) => name !== first.name || type !== 'ed25519')) {
    throw new UsageError('--log takes the keys of one log')
  }
  const distinct = new Map(vkeys.map((key) => [Buffer.from(key.keyId).toString('hex'), key]))
  return { origin: first.name, vkeys: [...distinct.values()] }
}

function understood<T>(where: string, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    if (!(error instanceof NoteError)) throw error
    throw new CommandError(`${where} cannot be used: ${error.message}`)
  }
}

async function findFile(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

function parseListen(text: string): { host: string; port: number } {
  const [, bracketed, plain, port = ''] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(text) ?? []
  const host = bracketed ?? plain
  if (host === undefined || Number(port) > 65_535) throw new UsageError('--listen must be <host>:<port>')
  return { host, port: Number(port) }
}
