import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { EventEmitter, once } from 'node:events'
import * as fs from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { checkDurability, openDatabase, openSession } from '../../src/adapters/database.ts'
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../../src/adapters/embedded-postgres.ts'
import { type ServerConnection, silentLogger } from '../support/database.ts'

const isRoot = process.geteuid?.() === 0
if (!isRoot) console.warn('LOUD SKIP: not root, so running PostgreSQL as root is not tested')

describe('the embedded PostgreSQL', () => {
  let root: string
  let pristine: string // a data folder as a first start leaves it: copying it is faster than a first start
  let folders = 0
  const cleanups: (() => Promise<unknown>)[] = []

  beforeAll(async () => {
    root = await fs.mkdtemp(join(tmpdir(), 'countersign-embedded-'))
    await fs.chmod(root, 0o755)
    pristine = newFolder()
    await start(pristine).then(({ stop }) => stop())
  })
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
  })
  afterAll(() => fs.rm(root, { recursive: true }))

  const newFolder = () => join(root, `data-${folders++}`)

  async function copyFolder(): Promise<string> {
    const folder = newFolder()
    await fs.cp(pristine, folder, { recursive: true, filter: (source) => !source.includes('.s.PGSQL.') })
    return folder
  }

  /** Started, with `facts` logged so far, and stopped at the end of the test at the latest. */
  async function start(dataDir: string) {
    const facts = new EventEmitter()
    const note = (...args: unknown[]) => void facts.emit(String(args.at(-1)))
    const postgres = await startEmbeddedPostgres({ dataDir, logger: { info: note, warn: note, error: note } })
    const stop = () => postgres.stop()
    cleanups.push(stop)
    return { postgres, stop, facts }
  }

  /** The same in a process of its own. Resolves with what it says: its server's pid, or why it was refused. */
  async function startOwner(dataDir: string, options: { uid?: number; gid?: number; env?: NodeJS.ProcessEnv } = {}) {
    const child = spawnOwner(dataDir, options)
    if (!child.stdout) throw new Error('no stdout')
    const [line] = await once(createInterface(child.stdout), 'line')
    return { child, ...(JSON.parse(line) as { pid?: number; refused?: string }) }
  }

  function spawnOwner(dataDir: string, options = {}): ChildProcess {
    const script = fileURLToPath(new URL('../support/embedded-owner.ts', import.meta.url))
    const stdio = ['ignore', 'pipe', 'inherit'] as const
    const child = spawn(process.execPath, [script, dataDir], { ...options, stdio: [...stdio] })
    cleanups.push(async () => {
      child.kill('SIGTERM')
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    })
    return child
  }

  async function kill(child: ChildProcess) {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }

  const note = (connection: EmbeddedPostgres['connection']) => ask(connection, 'create table note as select 1 as one')
  const readNote = (connection: EmbeddedPostgres['connection']) => ask(connection, 'select one from note')

  async function ask(connection: EmbeddedPostgres['connection'], text: string) {
    const session = await openSession(connection)
    const rows = await session.query(text)
    await session.close()
    return rows
  }

  const connectionOf = async (dataDir: string): Promise<ServerConnection> => ({
    host: join(dataDir, 'socket'),
    port: 5432,
    user: 'countersign',
    password: await fs.readFile(join(dataDir, 'postgres.password'), 'utf8'),
    database: 'postgres',
  })

  it('is durable, in ways that a cluster setting cannot weaken', async () => {
    const { postgres } = await start(await copyFolder())
    await ask(postgres.connection, 'alter system set fsync = off')
    await ask(postgres.connection, 'select pg_reload_conf()')
    const database = openDatabase({ connection: postgres.connection, poolSize: 1, logger: silentLogger })
    await checkDurability(database, silentLogger)
    await database.close()
  })

  it('keeps its password and its socket to itself', async () => {
    const modeOf = async (path: string) => ((await fs.stat(path)).mode & 0o777).toString(8)
    const { postgres } = await start(await copyFolder())
    const { host } = postgres.connection as ServerConnection
    expect(await modeOf(host)).toBe('700')
    expect(await modeOf(join(host, '../postgres.password'))).toBe('600')
    const wrong = openSession({ ...(postgres.connection as ServerConnection), password: 'wrong' })
    await expect(wrong).rejects.toMatchObject({ code: '28P01' })
  })

  it('is gone once stopped, and may be stopped twice', async () => {
    const { postgres } = await start(await copyFolder())
    const { pid = 0 } = postgres
    expect(isAlive(pid)).toBe(true)
    await Promise.all([postgres.stop(), postgres.stop()])
    expect(isAlive(pid)).toBe(false)
    expect(postgres.pid).toBe(undefined)
  })

  it('does not get the signals of the terminal', async () => {
    const { postgres } = await start(await copyFolder())
    const stat = await fs.readFile(`/proc/${postgres.pid}/stat`, 'utf8').catch(() => undefined)
    if (stat === undefined) return console.warn('LOUD SKIP: no /proc, so the process group is not tested')
    const [, , processGroup] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    expect(processGroup).toBe(String(postgres.pid))
  })

  it('is started again when it is killed, with everything that was committed', async () => {
    const { postgres, facts } = await start(await copyFolder())
    await note(postgres.connection)
    for (let times = 0; times < 2; times++) {
      const { pid = 0 } = postgres
      process.kill(pid, 'SIGKILL')
      await once(facts, 'postgres.restarted')
      expect(postgres.pid).not.toBe(pid)
      expect(await readNote(postgres.connection)).toEqual([{ one: 1 }])
    }
  })

  it('is still owned after one of its processes crashed', async () => {
    const dataDir = await copyFolder()
    const { postgres, facts } = await start(dataDir)
    const { pid } = postgres
    const session = await openSession(postgres.connection)
    const [backend] = await session.query<{ pid: number }>('select pg_backend_pid() as pid')
    process.kill(backend?.pid ?? 0, 'SIGKILL')
    await once(facts, 'postgres.restarted')
    expect(postgres.pid).toBe(pid)
    await expect(start(dataDir)).rejects.toMatchObject({ code: 'data_folder_in_use' })
  })

  it('refuses a second relay on its data folder', async () => {
    const dataDir = await copyFolder()
    const { postgres } = await start(dataDir)
    expect((await startOwner(dataDir)).refused).toBe('data_folder_in_use')
    expect(await ask(postgres.connection, 'select 1 as one')).toEqual([{ one: 1 }])
  })

  it('has one owner when two relays start at once on an empty folder', async () => {
    const dataDir = newFolder()
    const outcomes = await Promise.all([startOwner(dataDir), startOwner(dataDir)])
    const winner = outcomes.find(({ pid }) => pid !== undefined)
    expect(outcomes.map(({ refused }) => refused).toSorted()).toEqual(['data_folder_in_use', undefined])
    expect(isAlive(winner?.pid ?? 0)).toBe(true)
    expect((await fs.readdir(dataDir)).filter((name) => name.includes('scratch'))).toEqual([])
  })

  it('is taken over from a relay that was killed', async () => {
    const dataDir = await copyFolder()
    const { child, pid: orphan = 0 } = await startOwner(dataDir)
    await note(await connectionOf(dataDir))
    await kill(child)
    expect(isAlive(orphan)).toBe(true)
    const { postgres } = await start(dataDir)
    expect(isAlive(orphan)).toBe(false)
    expect(await readNote(postgres.connection)).toEqual([{ one: 1 }])
  })

  it('recovers from a first start that was killed', async () => {
    const dataDir = newFolder()
    const child = spawnOwner(dataDir)
    const begun = async () => (await fs.readdir(dataDir).catch(() => [])).some((name) => name.includes('scratch'))
    while (!(await begun())) await delay(5)
    await kill(child)
    const { postgres } = await start(dataDir)
    expect(await ask(postgres.connection, 'select 1 as one')).toEqual([{ one: 1 }])
  })

  it('removes what a killed first start left, once it is old', async () => {
    const dataDir = await copyFolder()
    const old = join(dataDir, 'postgres.scratch-old')
    const recent = join(dataDir, 'postgres.scratch-recent')
    await fs.mkdir(old)
    await fs.mkdir(recent)
    await fs.utimes(old, 0, 0)
    await start(dataDir)
    expect((await fs.readdir(dataDir)).filter((name) => name.includes('scratch'))).toEqual(['postgres.scratch-recent'])
  })

  it('is not fooled by a stranger who got the process number of a dead server', async () => {
    const dataDir = await copyFolder()
    const { child, pid: orphan = 0 } = await startOwner(dataDir)
    await note(await connectionOf(dataDir))
    await kill(child)
    process.kill(orphan, 'SIGKILL')
    const stranger = spawn('sleep', ['600'])
    cleanups.push(() => kill(stranger))
    for (const file of ['postgres/postmaster.pid', 'socket/.s.PGSQL.5432.lock']) {
      const [, ...rest] = (await fs.readFile(join(dataDir, file), 'utf8')).split('\n')
      await fs.writeFile(join(dataDir, file), [stranger.pid, ...rest].join('\n'))
    }
    const { postgres } = await start(dataDir)
    expect(await readNote(postgres.connection)).toEqual([{ one: 1 }])
    expect(stranger.exitCode ?? stranger.signalCode).toBe(null)
  })

  it('runs in a folder whose path is too long for a socket, and full of odd characters', async () => {
    const dataDir = join(root, `d "quoted", ${'long '.repeat(30)}end`)
    await fs.cp(pristine, dataDir, { recursive: true })
    const { postgres } = await start(dataDir)
    const { host } = postgres.connection as ServerConnection
    expect(host.startsWith(tmpdir())).toBe(true)
    expect(await ask(postgres.connection, 'select 1 as one')).toEqual([{ one: 1 }])
    await postgres.stop()
    await fs.rmdir(host)
  })

  it('runs in a folder with odd characters', async () => {
    const dataDir = join(root, `"q", 'x' ä`)
    await fs.cp(pristine, dataDir, { recursive: true })
    const { postgres } = await start(dataDir)
    expect((postgres.connection as ServerConnection).host).toBe(join(dataDir, 'socket'))
    expect(await ask(postgres.connection, 'select 1 as one')).toEqual([{ one: 1 }])
  })

  it('refuses a socket folder that others may enter', async () => {
    const dataDir = await copyFolder()
    await fs.chmod(join(dataDir, 'socket'), 0o777)
    await expect(start(dataDir)).rejects.toMatchObject({ code: 'socket_folder_unsafe' })
  })

  it('refuses a cluster of another major version', async () => {
    const dataDir = await copyFolder()
    await fs.writeFile(join(dataDir, 'postgres/PG_VERSION'), '17\n')
    await expect(start(dataDir)).rejects.toMatchObject({ code: 'postgres_not_startable' })
  })

  it('refuses a cluster whose password is lost', async () => {
    const dataDir = await copyFolder()
    await fs.rm(join(dataDir, 'postgres.password'))
    await expect(start(dataDir)).rejects.toMatchObject({ code: 'postgres_not_startable' })
  })

  it.runIf(isRoot)('runs as an ordinary user', async () => {
    const dataDir = newFolder()
    await fs.mkdir(dataDir)
    await fs.chown(dataDir, 65534, 65534)
    const { pid } = await startOwner(dataDir, { uid: 65534, gid: 65534 })
    expect(pid).toBeGreaterThan(0)
  })

  it.runIf(isRoot)('runs as nobody when root may make no user namespace', async () => {
    const programs = join(root, 'programs') // a PATH without unshare
    await fs.mkdir(programs)
    for (const name of ['id', 'chown']) await fs.symlink(`/usr/bin/${name}`, join(programs, name))
    const dataDir = await copyFolder()
    const { child, pid } = await startOwner(dataDir, { env: { PATH: programs } })
    expect((await fs.stat(`/proc/${pid}`)).uid).toBe(65534)
    await kill(child)
    await start(dataDir) // with unshare again: the folder belongs to nobody now, and stays so
  })
})

/** A zombie is not: who inherits an orphan may take its time to bury it. */
function isAlive(pid: number): boolean {
  const { stdout } = spawnSync('ps', ['-o', 'stat=', '-p', String(pid)], { encoding: 'utf8' })
  return stdout.trim() !== '' && !stdout.startsWith('Z')
}
