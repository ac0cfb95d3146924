/** The import rule of the river: a stage knows the stages before it, never one after it. Types count as imports. */
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../src/', import.meta.url))

/** From the spring to the mouth. Each may import itself and what stands before it. */
const river = [
  'message',
  'keyring',
  'log',
  'tenant',
  'receipt',
  'delivery',
  'housekeeping.ts',
  'assembly.ts',
  'relay.ts',
]

/** At the side, for all: contracts and the one table of codes. They know nobody but each other. */
const banks = ['ports', 'errors.ts']

/** Beyond the river. They import all of it, and these beside it. */
const edges: Record<string, readonly string[]> = {
  http: ['http'],
  cli: ['cli', 'main.ts'],
  'main.ts': ['adapters', 'http', 'cli', 'primary.ts'],
  'primary.ts': [],
  'config.ts': [],
  // Ports are all that an adapter knows of us; each is chosen once, in main.ts.
  adapters: ['adapters'],
}

/** Who may import a package: one folder or file each, so that what it does for us can be seen in one place. */
const packages: Record<string, readonly string[]> = {
  '@fastify/swagger': ['http'],
  cbor2: ['receipt/cose.ts'],
  canonicalize: ['message/canonical.ts'],
  fastify: ['http'],
  'ipaddr.js': ['delivery/guard.ts'],
  jose: ['cli'],
  pg: ['adapters/database.ts'],
  pino: ['main.ts', 'adapters/database.ts', 'adapters/embedded-postgres.ts'], // the adapters import its type only
  'prom-client': ['adapters/metrics.ts'],
  typebox: ['http'],
  undici: ['delivery/client.ts'],
}

/** JSON.parse returns wrong member names for some texts (nodejs/node#63785), so bytes from outside never meet it. */
const jsonParsers: Record<string, string> = {
  'adapters/postgres-cluster.ts': 'the list of symbolic links in the PostgreSQL package, pinned by the lock file',
  'cli/ensure-installed.js': 'our own lock file, and it runs before anything of ours can',
}

interface Import {
  /** The file that imports, from `src/`. */
  readonly from: string
  /** The file imported, from `src/`, or the package or Node module. */
  readonly to: string
}

const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter((file) => /\.[jt]s$/.test(file))
const sources = new Map(files.map((file) => [file, readFileSync(join(root, file), 'utf8')]))
const imports: Import[] = [...sources].flatMap(([from, source]) =>
  [...source.matchAll(/^(?:import|export) (?:[\w$*{},\s]+ from )?'([^']+)'|\bimport\('([^']+)'\)/gm)].map((match) => {
    const to = match[1] ?? match[2] ?? ''
    return { from, to: to.startsWith('.') ? normalize(join(dirname(from), to)) : to }
  }),
)

const stageOf = (file: string): string => file.split('/')[0] ?? ''
const inside = (file: string, place: string): boolean => file === place || file.startsWith(`${place}/`)
const isOurs = ({ to }: Import): boolean => sources.has(to)
const show = ({ from, to }: Import): string => `${from} imports ${to}`

test('every file is a stage of the river, a bank, or an edge', () => {
  const known = [...river, ...banks, ...Object.keys(edges), 'migrations']
  expect([...new Set(files.map(stageOf))].filter((stage) => !known.includes(stage))).toEqual([])
  expect(imports.filter((found) => found.to.endsWith('.ts') && !isOurs(found)).map(show)).toEqual([])
  expect(imports.length).toBeGreaterThan(200)
})

test('imports flow one way', () => {
  const wrong = imports.filter(isOurs).filter(({ from, to }) => {
    const [here, there] = [stageOf(from), stageOf(to)]
    if (banks.includes(here)) return !banks.includes(there)
    if (banks.includes(there)) return false
    if (there === 'config.ts') return !['config.ts', 'assembly.ts', 'relay.ts', 'main.ts', 'http', 'cli'].includes(here)
    if (here in edges) return !(edges[here] ?? []).includes(there) && (here === 'adapters' || !river.includes(there))
    return !river.slice(0, river.indexOf(here) + 1).includes(there)
  })
  expect(wrong.map(show)).toEqual([])
})

test.each([
  ['receipts', 'receipt/verify.ts'],
  ['exports', 'receipt/verify-export.ts'],
  ['the lines of exports', 'receipt/export-lines.ts'],
])('the verifier of %s stands on no port and no adapter, so that a consumer can use it alone', (_what, verifier) => {
  const reached = new Set<string>()
  const reach = (file: string): void => {
    if (reached.has(file)) return
    reached.add(file)
    for (const found of imports) if (found.from === file) reach(found.to)
  }
  reach(verifier)
  expect([...reached].filter((file) => ['ports', 'adapters', 'http', 'config.ts'].includes(stageOf(file)))).toEqual([])
  const foreign = [...reached].filter((file) => !sources.has(file) && !file.startsWith('node:'))
  expect(foreign, 'of all packages, only the canonicalizer').toEqual(foreign.length > 0 ? ['canonicalize'] : [])
})

describe('each package has one place', () => {
  const foreign = imports.filter((found) => !isOurs(found) && !found.to.startsWith('node:'))
  const packageOf = (to: string): string => to.split('/', to.startsWith('@') ? 2 : 1).join('/')

  test('and no package is imported that has none', () => {
    const placed = (to: string) => Object.keys(packages).includes(packageOf(to)) || to.startsWith('@aws-sdk/')
    expect(foreign.filter(({ to }) => !placed(to)).map(show)).toEqual([])
  })

  test.each(Object.entries(packages))('%s is imported in %s', (name, places) => {
    const importers = foreign.filter(({ to }) => packageOf(to) === name)
    expect(importers.length).toBeGreaterThan(0)
    expect(importers.filter(({ from }) => !places.some((place) => inside(from, place))).map(show)).toEqual([])
  })

  test('an AWS client is imported by the one adapter that needs it', () => {
    for (const [client, adapter] of [
      ['client-kms', 'key-wrapper-aws-kms.ts'],
      ['client-s3', 'object-store-s3.ts'],
    ]) {
      const importers = foreign.filter(({ to }) => to === `@aws-sdk/${client}`)
      expect(importers.filter(({ from }) => from !== `adapters/${adapter}`).map(show)).toEqual([])
    }
  })
})

test('JSON.parse is not called on what comes from outside', () => {
  const callers = [...sources].filter(([, source]) => /\bJSON\.parse\(|\.json\(\)/.test(withoutComments(source)))
  expect(callers.map(([file]) => file).sort()).toEqual(Object.keys(jsonParsers).sort())
})

const withoutComments = (source: string): string => source.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '')
