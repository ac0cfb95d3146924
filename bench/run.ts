/**
 * npm run bench: what the relay does on this machine, beside what the machine could do.
 *
 *     options -> scenarios, each on a fresh database -> figures -> table, JSON, comparison, RESULTS.md
 *
 * A scenario that loses a message, or whose sample does not verify, has no figures: the bench exits 1.
 */
import { readFile, writeFile } from 'node:fs/promises'
import { compare } from './compare.ts'
import { clockMs } from './ledger.ts'
import { type Options, readOptions } from './options.ts'
import { profileMessages } from './profile.ts'
import { derive, describeMachine, type Report, table } from './report.ts'
import { drillOf, resultsFile, resultsPage } from './results-page.ts'
import { scenarios } from './scenarios.ts'
import { Testbed } from './testbed.ts'

const startedMs = clockMs()
const options = readOptions(process.argv.slice(2))
if (typeof options === 'string') {
  console.log(options)
  process.exit(process.argv.includes('--help') ? 0 : 2)
}

if (options.resultsOf.length > 0) {
  const reports = await Promise.all(options.resultsOf.map(async (file) => JSON.parse(await readFile(file, 'utf8'))))
  await writeResults(reports as Report[])
  process.exit()
}

const pace = { seconds: options.seconds, warmUpSeconds: options.warmUpSeconds }
const report: Report = { ...describeMachine(), ...pace, runs: [] }
const failures: string[] = []

if (!options.profile || options.writeResults) await measureAll(options)
if (options.profile) report.profile = await profileMessages(pace, say)

await writeFile(options.jsonFile, `${JSON.stringify(report, null, 1)}\n`)
console.log(table(report))
say(`figures: ${options.jsonFile}`)
if (options.compareFile !== undefined) {
  console.log(compare(JSON.parse(await readFile(options.compareFile, 'utf8')) as Report, report))
}
if (options.writeResults) await writeResults([report])
for (const failure of failures) say(`FAILED ${failure}`)
process.exitCode = failures.length > 0 ? 1 : 0

async function writeResults(reports: readonly Report[]): Promise<void> {
  const before = await readFile(resultsFile, 'utf8').catch(() => '')
  await writeFile(resultsFile, resultsPage(reports, drillOf(before)))
}

async function measureAll({ scenarios: names, runs, statements }: Options): Promise<void> {
  say('starting PostgreSQL')
  const testbed = await Testbed.open()
  try {
    for (let run = 1; run <= runs; run++) {
      const found: Report['runs'][number] = {}
      for (const [at, name] of names.entries()) {
        const place = `${runs > 1 ? `run ${run}/${runs}, ` : ''}${at + 1}/${names.length}`
        say(`[${place}] ${name}: ${scenarios[name]?.title}`)
        try {
          found[name] = await testbed.during(
            async () => (await scenarios[name]?.measure(testbed, { ...pace, statements }, say)) ?? {},
          )
        } catch (error) {
          const { message, cause } = error as Error
          failures.push(`${name}: ${message}${cause instanceof Error ? ` (${cause.message})` : ''}`)
        }
      }
      report.runs.push(derive(found))
    }
  } finally {
    await testbed.close()
  }
}

/** Progress goes to stderr, so that stdout is the table alone. */
function say(sentence: string): void {
  process.stderr.write(`${((clockMs() - startedMs) / 1000).toFixed(0).padStart(4)} s  ${sentence}\n`)
}
