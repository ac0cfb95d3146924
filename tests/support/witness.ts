import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeDurably } from '../../src/cli/witness/durable.ts'
import { WitnessMemory } from '../../src/cli/witness/memory.ts'
import { buildWitnessServer } from '../../src/cli/witness/server.ts'
import type { LogTrust } from '../../src/log/checkpoint.ts'
import { generateSecretKey, parseSecretKey } from '../../src/log/cosigner.ts'
import { cosign, formatRequest, readWitnessed, type Witness, witnessedNothing } from '../../src/log/witness.ts'
import type { WitnessAddress } from '../../src/log/witnesses.ts'

/**
 * A witness of ours in this process, behind real HTTP and on a real file. It listens before it knows its log, because a
 * relay must be told of its witnesses when it makes the log: `watch` tells it, and until then it answers 404.
 */
export class TestWitness {
  readonly secretKey: string
  readonly folder: string
  readonly url: string
  /** What it did, a line for each request. */
  readonly told: string[] = []
  #server: Server
  #memory: WitnessMemory | undefined
  #waiting: (() => void)[] = []

  private constructor(secretKey: string, folder: string, server: Server) {
    this.secretKey = secretKey
    this.folder = folder
    this.#server = server
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  static async start(name = `witness.test/${randomBytes(4).toString('hex')}`): Promise<TestWitness> {
    const folder = await mkdtemp(join(tmpdir(), 'countersign-witness-'))
    const secretKey = generateSecretKey(name)
    const stranger = { origin: 'nobody.test/log', vkeys: [] }
    const witness = { cosigner: parseSecretKey(secretKey), log: stranger }
    const memory = new WitnessMemory(witness, witnessedNothing(witness, new Date()), async () => {})
    const server = buildWitnessServer(memory, stranger.origin, () => {})
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return new TestWitness(secretKey, folder, server)
  }

  get vkey(): string {
    return parseSecretKey(this.secretKey).vkey
  }

  get address(): WitnessAddress {
    return { key: parseSecretKey(this.secretKey).key, url: this.url }
  }

  get stateFile(): string {
    return join(this.folder, 'state')
  }

  /** From now on it watches this log, from nothing. */
  async watch(log: LogTrust): Promise<void> {
    const witness: Witness = { cosigner: parseSecretKey(this.secretKey), log }
    const witnessed = witnessedNothing(witness, new Date())
    this.#memory = new WitnessMemory(witness, witnessed, (next) => writeDurably(this.stateFile, next.note))
    const told = (line: string) => {
      this.told.push(line)
      for (const look of this.#waiting.splice(0)) look()
    }
    const { port } = this.#server.address() as AddressInfo
    await this.#close()
    this.#server = buildWitnessServer(this.#memory, log.origin, told)
    this.#server.listen(port, '127.0.0.1')
    await once(this.#server, 'listening')
  }

  /** The newest checkpoint it cosigned. */
  get checkpoint(): string | undefined {
    return this.#memory?.checkpoint
  }

  /** Resolves when `condition` holds, looked at after each request. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  async stop(): Promise<void> {
    await this.#close()
    await rm(this.folder, { recursive: true, force: true })
  }

  async #close(): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }

  /**
   * Whether this witness, at what it has cosigned, would refuse `checkpoint`, whatever proof comes with it: the status
   * it answers. For those who forge logs; nothing changes here.
   */
  async judge(log: LogTrust, checkpoint: string, proof: readonly Uint8Array[] = []): Promise<number> {
    const witness: Witness = { cosigner: parseSecretKey(this.secretKey), log }
    const witnessed = readWitnessed(witness, await readFile(this.stateFile))
    const request = formatRequest({ oldSize: witnessed.treeSize, proof, checkpoint })
    return cosign(witness, witnessed, request, new Date()).status
  }
}
