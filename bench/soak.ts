import { residentMiB } from './cpu.ts'
import type { Figures } from './figures.ts'
import { clockMs } from './ledger.ts'
import { type Cast, measureMessages, type Pace } from './message-load.ts'

const postsPerS = 1000
const minuteMs = 60_000
const sampleMs = 10_000
/** The heap has found its size by then; what it gains later, it gains for ever. */
const settledMinute = 3

/**
 * End to end for as many minutes as other scenarios take seconds: does memory grow? Compared are means over whole
 * minutes, since a heap swings with each collection; of a run of three minutes or less there is nothing to compare.
 */
export async function measureSoak(cast: Cast, pace: Pace, say: (sentence: string) => void): Promise<Figures> {
  const minutes = Math.floor(pace.seconds)
  const memory = watchMemory(cast.target.pids[0] ?? 0, say)
  try {
    const load = { ...pace, seconds: minutes * 60, payload: 1024, connections: 512, rate: postsPerS }
    const { figures, beganMs } = await measureMessages(cast, load)
    return { ...figures, memoryGrowth: memoryGrowth(memory.samples, beganMs, minutes) }
  } finally {
    memory.stop()
  }
}

interface MemorySample {
  readonly atMs: number
  readonly residentMiB: number
}

/** The mean of the last minute over that of the third, counted from `beganMs`. */
function memoryGrowth(samples: readonly MemorySample[], beganMs: number, minutes: number): number | undefined {
  if (minutes <= settledMinute) return undefined
  const meanOfMinute = (minute: number) => {
    const inside = samples.filter(({ atMs }) => Math.ceil((atMs - beganMs) / minuteMs) === minute)
    return inside.reduce((sum, { residentMiB }) => sum + residentMiB, 0) / inside.length
  }
  return meanOfMinute(minutes) / meanOfMinute(settledMinute)
}

function watchMemory(pid: number, say: (sentence: string) => void) {
  const samples: MemorySample[] = []
  const look = async () => {
    const size = await residentMiB(pid)
    if (size === undefined) return
    samples.push({ atMs: clockMs(), residentMiB: size })
    if (samples.length % (minuteMs / sampleMs) === 0) say(`  resident memory ${Math.round(size)} MiB`)
  }
  const timer = setInterval(() => void look(), sampleMs)
  return { samples, stop: () => clearInterval(timer) }
}
