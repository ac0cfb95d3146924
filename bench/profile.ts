import { mkdtemp, readdir, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Measured, measureMessages, type Pace } from './message-load.ts'
import { forgetStatements, readStatements, statementSettings } from './postgres-counters.ts'
import { assemble, fullSpeed } from './scenarios.ts'
import { Testbed } from './testbed.ts'

/** Where the time of the end-to-end scenario goes. Per message; `relay` adds up to the relay's whole CPU. */
export interface Profile {
  readonly messages: number
  readonly relay: readonly { part: string; usPerMessage: number }[]
  readonly postgres: readonly {
    statement: string
    callsPerMessage: number
    usPerMessage: number
    walBytesPerMessage: number
  }[]
}

/**
 * What a function belongs to: the first row that fits, of the innermost frame that any row fits. `file` is matched
 * against the URL, `name` against the function. Rows of one part stand together where order allows.
 */
const parts: readonly { part: string; file?: RegExp; name?: RegExp }[] = [
  { part: 'garbage collection', name: /^\(garbage collector\)$/ },
  { part: 'idle', name: /^\(idle\)$/ },
  { part: 'Ed25519 sign', file: /crypto\/sig/, name: /^(sign|signOneShot)$/ },
  { part: 'Ed25519 verify', file: /crypto\/sig/, name: /^(verify|verifyOneShot)$/ },
  { part: 'SHA-256', file: /internal\/crypto\/hash/ },
  { part: 'AES-GCM', file: /crypto\/cipher|keyring\/vault/ },
  { part: 'random bytes', file: /crypto\/random/ },
  { part: 'parse JSON strictly', file: /message\/json/ },
  { part: 'canonicalize', file: /canonicalize|message\/canonical/ },
  { part: 'JSON.stringify and JSON.parse', name: /^(stringify|parse)$/, file: /^$/ },
  { part: 'Merkle tree', file: /log\/tree/ },
  {
    part: 'receipt: make and read texts',
    file: /src\/receipt|log\/(note|checkpoint|tlog-proof)|keyring\/(jws|signing-input)/,
  },
  { part: 'statements', file: /log\/statement/ },
  { part: 'sequencer', file: /log\/(sequencer|store|reader|publication)/ },
  { part: 'identifiers', file: /message\/id/ },
  { part: 'delivery: client (undici)', file: /undici|delivery\/client|delivery\/guard/ },
  { part: 'delivery: worker', file: /src\/delivery/ },
  { part: 'PostgreSQL protocol: encode arrays', file: /adapters\/database/ },
  { part: 'PostgreSQL protocol: pg', file: /node_modules\/pg/ },
  { part: 'metrics', file: /prom-client|adapters\/metrics/ },
  { part: 'HTTP edge: ours', file: /src\/http|src\/tenant|src\/relay/ },
  {
    part: 'HTTP edge: fastify',
    file: /node_modules\/(fastify|find-my-way|avvio|@fastify|fast-json|secure-json|light-my)/,
  },
  { part: 'HTTP edge: node:http', file: /_http_|internal\/http/ },
  { part: 'sockets and streams', file: /node:(net|internal\/streams|internal\/stream_base|stream)/ },
  { part: 'timers, ticks and promises', file: /node:(internal\/(timers|process|async)|timers|events)/ },
  { part: 'system calls and V8 outside functions', name: /^\(program\)$/ },
]

/** Runs the scenario once with the profilers of V8 and of PostgreSQL on. Flame graphs stay in a folder it names. */
export async function profileMessages(pace: Pace, say: (sentence: string) => void): Promise<Profile> {
  const folder = await mkdtemp(join(tmpdir(), 'countersign-profile-'))
  const testbed = await Testbed.open(statementSettings)
  try {
    say(`profiling end-to-end; the .cpuprofile goes to ${folder}`)
    const { measured, statements } = await testbed.during(async function profiled() {
      const cast = await assemble(testbed, {}, folder)
      const { session } = cast.database
      const measured = await measureMessages(cast, { ...fullSpeed, ...pace }, () => forgetStatements(session))
      return { measured, statements: await readStatements(session) }
    })
    const { messages } = measured
    return {
      messages,
      relay: await relayParts(folder, measured),
      postgres: statements.map(({ statement, calls, totalMs, walBytes }) => ({
        statement,
        callsPerMessage: calls / messages,
        usPerMessage: (totalMs * 1000) / messages,
        walBytesPerMessage: walBytes / messages,
      })),
    }
  } finally {
    await testbed.close()
  }
}

/**
 * The relay's CPU by part, largest first. The profiler looks at the main thread by the clock, also while that waits for a
 * core; so its shares are taken of the CPU time that the kernel counts, and other threads are counted by the kernel alone.
 */
async function relayParts(folder: string, { beganMs, settledMs, figures }: Measured): Promise<Profile['relay']> {
  const [file = ''] = (await readdir(folder)).filter((name) => name.endsWith('.cpuprofile'))
  const profile = JSON.parse(await readFile(join(folder, file), 'utf8')) as CpuProfile
  const partOf = classify(profile.nodes)
  const spentUs = new Map<string, number>()
  let atUs = profile.startTime
  for (const [sample, node] of profile.samples.entries()) {
    const deltaUs = profile.timeDeltas[sample] ?? 0
    atUs += deltaUs
    if (atUs < beganMs * 1000 || atUs > settledMs * 1000) continue
    const part = partOf.get(node) ?? unknownPart
    spentUs.set(part, (spentUs.get(part) ?? 0) + deltaUs)
  }
  spentUs.delete(idle)
  const busyUs = [...spentUs.values()].reduce((sum, us) => sum + us, 0)
  const { relayUs = 0, mainThreadUs = 0 } = figures
  const parts = [...spentUs].map(([part, us]) => ({ part, usPerMessage: (us / busyUs) * mainThreadUs }))
  parts.push({
    part: 'other threads: V8 compiles and collects, signatures in the pool',
    usPerMessage: relayUs - mainThreadUs,
  })
  return parts.sort((one, other) => other.usPerMessage - one.usPerMessage)
}

/** The part of each node of the call tree: its own if the table knows it, else that of its caller. */
function classify(nodes: CpuProfile['nodes']): Map<number, string> {
  const byId = new Map(nodes.map((node) => [node.id, node]))
  const partOf = new Map<number, string>()
  const visit = (node: CpuProfile['nodes'][number], inherited: string) => {
    const { functionName, url } = node.callFrame
    const known = parts.find(({ file, name }) => (file?.test(url) ?? true) && (name?.test(functionName) ?? true))
    const part = known?.part ?? inherited
    partOf.set(node.id, part)
    for (const id of node.children ?? []) {
      const child = byId.get(id)
      if (child !== undefined) visit(child, part)
    }
  }
  const [root] = nodes
  if (root !== undefined) visit(root, unknownPart)
  return partOf
}

const idle = 'idle'
const unknownPart = 'other'

/** What `--cpu-prof` writes. Its clock is the machine's monotonic one, as ours; microseconds. */
interface CpuProfile {
  readonly startTime: number
  readonly samples: readonly number[]
  readonly timeDeltas: readonly number[]
  readonly nodes: readonly {
    readonly id: number
    readonly children?: readonly number[]
    readonly callFrame: { readonly functionName: string; readonly url: string }
  }[]
}
