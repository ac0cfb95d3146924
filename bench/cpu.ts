import { readdir, readFile } from 'node:fs/promises'

/**
 * CPU time from /proc, so from Linux only: elsewhere everything here is undefined, and the figures made of it are left
 * out. The kernel counts in ticks of 10 ms, which over some seconds is well below the noise.
 */

/** User and system microseconds of a process so far, all its threads. */
export async function cpuUs(pid: number): Promise<number | undefined> {
  const stat = await readStat(`${pid}`)
  return stat && (stat.user + stat.system) * tickUs
}

/** The same of its main thread alone: in Node, the one that runs JavaScript. */
export async function mainThreadUs(pid: number): Promise<number | undefined> {
  const stat = await readStat(`${pid}/task/${pid}`)
  return stat && (stat.user + stat.system) * tickUs
}

/** The same of a server and of all its children, those that have ended included. */
export async function cpuUsOfFamily(pid: number): Promise<number | undefined> {
  const head = await readStat(`${pid}`)
  if (head === undefined) return undefined
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const everyone = await Promise.all(pids.map(readStat))
  const children = everyone.filter((stat) => stat?.parent === pid)
  const living = [head, ...children].reduce((sum, stat) => sum + (stat ? stat.user + stat.system : 0), 0)
  return (living + head.endedUser + head.endedSystem) * tickUs
}

/** Resident memory now, in MiB. */
export async function residentMiB(pid: number): Promise<number | undefined> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  const kiB = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]
  return kiB === undefined ? undefined : Number(kiB) / 1024
}

/** USER_HZ is 100 on every Linux that Node runs on. */
const tickUs = 10_000

interface Stat {
  readonly parent: number
  readonly user: number
  readonly system: number
  /** Of children that ended and were waited for. */
  readonly endedUser: number
  readonly endedSystem: number
}

/** proc_pid_stat(5). The name stands in parentheses and may hold any character, so fields count from the last one. */
async function readStat(path: string): Promise<Stat | undefined> {
  const text = await readFile(`/proc/${path}/stat`, 'utf8').catch(() => '')
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  if (fields.length < 15) return undefined
  const field = (number: number) => Number(fields[number - 3])
  return { parent: field(4), user: field(14), system: field(15), endedUser: field(16), endedSystem: field(17) }
}
