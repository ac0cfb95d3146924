#!/usr/bin/env node
/**
 * The command as npx finds it. Plain JavaScript for Node 20, since whatever Node is on the PATH runs it: it sees to the
 * packages, then hands over to main.ts under the Node 26 among them, and ends as that ends.
 */
import './ensure-installed.js'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const pathOf = (path) => fileURLToPath(new URL(path, import.meta.url))
const pinnedNode = pathOf('../../node_modules/.bin/node')
const node = existsSync(pinnedNode) ? pinnedNode : process.execPath

const command = spawn(node, [pathOf('main.ts'), ...process.argv.slice(2)], { stdio: 'inherit' })
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR2']) process.on(signal, () => command.kill(signal))
command.on('error', ({ message }) => {
  console.error(`countersign: ${message}`)
  process.exit(1)
})
command.on('exit', (code, signal) => {
  if (signal === null) process.exit(code)
  process.removeAllListeners(signal)
  process.kill(process.pid, signal) // so that a shell sees what it would have seen of main.ts itself
})
