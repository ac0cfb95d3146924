/** Loaded into a relay by `node --import`: tells the bench, over IPC, how long the relay's event loop stood still. */
import { monitorEventLoopDelay } from 'node:perf_hooks'

export interface Stalls {
  readonly p99Ms: number
  readonly maxMs: number
}

/** How often the probe looks. A stall is what a look comes late by, so this much is taken off. */
const resolutionMs = 5

const delay = monitorEventLoopDelay({ resolution: resolutionMs })
delay.enable()
const lateMs = (nanoseconds: number) => Math.max(0, nanoseconds / 1e6 - resolutionMs)

process.on('message', (question) => {
  if (question === 'reset') delay.reset()
  else process.send?.({ p99Ms: lateMs(delay.percentile(99)), maxMs: lateMs(delay.max) } satisfies Stalls)
})
process.once('disconnect', () => process.kill(process.pid, 'SIGTERM')) // the bench was killed: drain and end
process.channel?.unref() // the probe must not keep a relay alive that wants to end
