import { execFile, execFileSync } from 'node:child_process'
import { mkdir, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { urlOf } from '../../src/adapters/database.ts'
import { prepareCluster } from '../../src/adapters/postgres-cluster.ts'
import { type PostgresProxy, startPostgresProxy } from '../support/postgres-proxy.ts'
import { Disk } from './disk.ts'
import type { Ledger } from './ledger.ts'
import { RelayProcess } from './relay-process.ts'
import type { Strike } from './strikes.ts'
import type { Tenant } from './tenants.ts'

const adminKey = `cs_crashdrill_${'A'.repeat(43)}`

/** The least a relay takes: what a killed one had claimed falls due again after this. */
const leaseS = 20

/** More attempts than faults, and soon: a drill has no days to wait. */
const retrySchedule = [1, 1, 2, 2, 3, 3, ...Array.from({ length: 24 }, () => 5)].map((s) => `${s}s`).join()

/** How long a fault that waits for a COMMIT waits for one. */
const commitWithinMs = 3_000

/**
 * Three relays on one database, as a deployment would have them: the owner does everything, and runs PostgreSQL in its
 * data folder; the other two, one for ingress and one for delivery, reach that over a network, which is a proxy. A fourth
 * part is the disk under the data folder, where this process may mount one.
 */
export class Fleet {
  readonly owner: RelayProcess
  readonly others: readonly RelayProcess[]
  readonly #accepting: readonly RelayProcess[]
  readonly #dataDir: string
  readonly #ledger: Ledger
  readonly #proxy: PostgresProxy
  readonly #disk: Disk | undefined

  private constructor(parts: {
    owner: RelayProcess
    ingress: RelayProcess
    delivery: RelayProcess
    dataDir: string
    ledger: Ledger
    proxy: PostgresProxy
    disk: Disk | undefined
  }) {
    this.owner = parts.owner
    this.others = [parts.ingress, parts.delivery]
    this.#accepting = [parts.owner, parts.ingress]
    this.#dataDir = parts.dataDir
    this.#ledger = parts.ledger
    this.#proxy = parts.proxy
    this.#disk = parts.disk
  }

  /** Resolves when all three are ready. */
  static async start(folder: string, ledger: Ledger): Promise<Fleet> {
    const path = join(folder, 'data')
    const disk = await Disk.mount(path)
    if (disk === undefined) await mkdir(path, { recursive: true, mode: 0o711 })
    const dataDir = await realpath(path)
    const relay = (name: string, env: Record<string, string>) =>
      new RelayProcess({
        ...{ name, ledger, adminKey, logFile: join(folder, `drill-${name}.log`) },
        env: {
          ...{ PUBLIC_URL: 'http://relay.test', DATA_DIR: dataDir, COUNTERSIGN_ADMIN_KEY: adminKey },
          ...{ DELIVERY_LEASE_S: String(leaseS), RETRY_SCHEDULE: retrySchedule, EGRESS_ALLOW: '127.0.0.0/8' },
          ...env,
        },
      })
    const owner = relay('owner', { ROLE: 'all' })
    await owner.ready()
    const { connection } = await prepareCluster(dataDir)
    const proxy = await startPostgresProxy(join(connection.host, `.s.PGSQL.${connection.port}`))
    const over = { DATABASE_URL: urlOf({ ...connection, host: '127.0.0.1', port: proxy.port }) }
    const ingress = relay('ingress', { ...over, ROLE: 'ingress' })
    const delivery = relay('delivery', { ...over, ROLE: 'delivery' })
    const fleet = new Fleet({ owner, ingress, delivery, dataDir, ledger, proxy, disk })
    process.once('exit', fleet.#killPostgres)
    await fleet.ready()
    return fleet
  }

  /** Whether the disk can be filled. */
  get hasDisk(): boolean {
    return this.#disk !== undefined
  }

  async ready(): Promise<void> {
    await Promise.all([this.owner, ...this.others].map((relay) => relay.ready()))
  }

  /** Where to post, as a load balancer would choose for the `turn`: one that listens, else the first that does. */
  async front(turn: number): Promise<string> {
    const inTurn = this.#accepting.map((_, i) => this.#accepting[(turn + i) % this.#accepting.length] ?? this.owner)
    const listening = inTurn.find((relay) => !relay.opening)
    return listening !== undefined ? listening.url() : Promise.race(inTurn.map((relay) => relay.url()))
  }

  /** Resolves when the fault is over; what it does to the relays may not be. */
  async strike({ target, gapMs, lastsMs, pick }: Strike, tenants: readonly Tenant[]): Promise<void> {
    // Not waited for synchronously: vendors would pause meanwhile, and the strike would find everybody idle.
    const { stdout } = await promisify(execFile)('ps', listProcesses)
    const { postmaster, backends } = findPostgres(stdout, this.#dataDir)
    const relays = [this.owner, ...this.others]
    const opening = relays.some((relay) => relay.opening)
    const struck = picked(relays, pick)
    let hits = 0
    switch (target) {
      case 'relay':
        hits = struck.kill()
        break
      case 'terminate':
        hits = struck.terminate()
        break
      case 'postmaster':
        hits = kill(postmaster)
        break
      case 'owner and postmaster':
        hits = this.owner.kill() + kill(postmaster)
        break
      case 'owner then postmaster':
        hits = this.owner.kill()
        await delay(gapMs)
        hits += kill(postmaster)
        break
      case 'backend':
        hits = backends.length > 0 ? kill(picked(backends, pick)) : 0
        break
      case 'network cut':
        hits = await this.#proxy.cut(pick < 0.5 ? 'closed' : 'silent', lastsMs)
        break
      case 'commit lost':
        hits = Number(await this.#proxy.strikeNext({ kind: 'request lost', text: 'commit\0' }, commitWithinMs))
        break
      case 'commit unanswered':
        hits = Number(await this.#proxy.strikeNext({ kind: 'answer lost', text: 'commit\0' }, commitWithinMs))
        break
      case 'disk full':
        await this.#disk?.fill(lastsMs)
        hits = this.#disk === undefined ? 0 : 1
        break
      case 'receiver outage':
        hits = await picked(tenants, pick).outage(pick, lastsMs)
        break
      default:
        target satisfies never
    }
    this.#ledger.note({ kind: 'struck', target, hits, opening })
  }

  /** Drains all, PostgreSQL last. `kept` says whether what was on the disk is still wanted. */
  async stop(kept: boolean): Promise<void> {
    await Promise.all(this.others.map((relay) => relay.stop()))
    await this.owner.stop()
    await this.#proxy.close()
    this.#killPostgres() // an owner that died by itself, or was only starting, leaves it
    process.removeListener('exit', this.#killPostgres)
    await this.#disk?.unmount(kept)
  }

  /** Should the drill itself end early: nobody else would ever find it. */
  readonly #killPostgres = (): void => {
    kill(findPostgres(execFileSync('ps', listProcesses, { encoding: 'utf8' }), this.#dataDir).postmaster)
  }
}

function picked<T>(from: readonly T[], pick: number): T {
  const one = from[Math.floor(pick * from.length)]
  if (one === undefined) throw new RangeError('there is nothing to pick from')
  return one
}

const listProcesses = ['-A', '-ww', '-o', 'pid=,ppid=,command=']

/** The server on a data folder, and its backends: those in the middle of a COMMIT if there are any, else all. */
function findPostgres(list: string, dataDir: string): { postmaster: number | undefined; backends: number[] } {
  const processes = list.split('\n').flatMap((line) => {
    const [, pid, parent, command = ''] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? []
    return pid === undefined ? [] : [{ pid: Number(pid), parent: Number(parent), command }]
  })
  const servers = processes.filter(({ command }) => command.includes(` -D ${dataDir}/postgres `))
  // A child that was forked a moment ago has no title of its own yet.
  const postmaster = servers.find(({ parent }) => !servers.some(({ pid }) => pid === parent))?.pid
  const children = processes.filter(({ parent }) => parent === postmaster)
  const committing = children.filter(({ command }) => command.endsWith(' COMMIT'))
  return { postmaster, backends: (committing.length > 0 ? committing : children).map(({ pid }) => pid) }
}

/** How many it killed: one, or none if it was dead before. */
function kill(pid: number | undefined): number {
  if (pid === undefined) return 0
  try {
    process.kill(pid, 'SIGKILL')
    return 1
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return 0
    throw error
  }
}
