/**
 * Makes `npm start`, `npm test` and `npm run demo` work on a fresh clone and after every pull: installs what
 * package-lock.json asks for when node_modules is not that. Silent when it is.
 *
 * This file alone is JavaScript for Node 20: it is what the system's Node runs. Among the packages it installs is the
 * Node 26 that runs everything else, since npm puts node_modules/.bin first on the PATH of its scripts.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const pinnedNode = join(root, 'node_modules/.bin/node')
const neededMajor = 26
const installerMajor = 20
const withDevelopment = process.env.npm_lifecycle_event === 'pretest'

if (majorOf(process.version) < installerMajor) {
  refuse(`Node ${process.version} is too old to install Countersign: Node ${installerMajor} or later is needed.`)
}
const reason = whyInstall()
if (reason) install(reason)
// Without a Node for this platform among the packages, the one that runs this script also runs what comes next.
if (majorOf(process.version) < neededMajor && majorOf(pinnedVersion()) < neededMajor) {
  refuse(
    `The packages hold no Node ${neededMajor} that runs on ${process.platform}-${process.arch}, and the Node on your ` +
      `PATH is ${process.version}. Put Node ${neededMajor} or later on the PATH.`,
  )
}

/** Compares what is to be installed with what npm noted it has, by content: a checkout changes times at will. The note
 *  is the last thing `npm ci` writes, so an interrupted one leaves none. Undefined when both agree. */
function whyInstall() {
  const wanted = readLock('package-lock.json')
  if (!wanted) return refuse('package-lock.json is missing or damaged. Restore it, e.g. with git checkout.')
  const present = readLock('node_modules/.package-lock.json')
  if (!present) return 'node_modules is missing'
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '') continue // ourselves
    const found = present[path]
    if (!found && mayBeAbsent(entry)) continue
    if (!found || found.version !== entry.version || found.integrity !== entry.integrity) {
      return `${path} is not what package-lock.json asks for`
    }
  }
  const surplus = Object.keys(present).find((path) => !(path in wanted))
  return surplus && `${surplus} is not in package-lock.json`
}

/** Packages by path, or undefined where there is no lock file. */
function readLock(path) {
  try {
    return JSON.parse(readFileSync(join(root, path), 'utf8')).packages
  } catch {
    return undefined
  }
}

/** What npm leaves out: packages for other platforms, and on a production host the development ones. */
function mayBeAbsent({ dev, optional, os, cpu, libc }) {
  if (dev && !withDevelopment) return true
  const isForUs = os?.includes(process.platform) && (cpu === undefined || cpu.includes(process.arch))
  return Boolean(optional) && (!isForUs || libc !== undefined)
}

function install(reason) {
  console.error(`countersign: running npm ci to install the packages, since ${reason}`)
  // Under npm, npm itself by the Node it runs on: when that on the PATH is ours, npm ci is about to replace it.
  const { npm_execpath: npm, npm_node_execpath: node = process.execPath } = process.env
  const command = npm && basename(npm) === 'npm-cli.js' ? [node, npm] : ['npm']
  const options = [
    '--ignore-scripts',
    '--loglevel=error',
    '--no-audit',
    '--no-fund',
    '--include=dev',
    '--include=optional',
  ]
  const [file, ...args] = [...command, 'ci', ...options]
  const { status, signal, error } = spawnSync(file, args, { cwd: root, stdio: 'inherit' })
  if (status === 0) return
  const outcome = error ? error.message : signal ? `ended by ${signal}` : `exit status ${status}`
  refuse(`npm ci failed (${outcome}). It needs the package registry and a writable ${join(root, 'node_modules')}.`)
}

function pinnedVersion() {
  return spawnSync(pinnedNode, ['--version'], { encoding: 'utf8' }).stdout || 'v0'
}

function majorOf(version) {
  return Number.parseInt(version.slice(1), 10)
}

function refuse(message) {
  console.error(`countersign: ${message}`)
  process.exit(1)
}
