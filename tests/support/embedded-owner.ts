/** A relay reduced to its database: starts one on the given data folder, says its pid or why not, and holds it until
 *  it is killed. Run as a process of its own by tests that kill it. */
import pino from 'pino'
import { StartupRefused } from '../../src/adapters/database.ts'
import { startEmbeddedPostgres } from '../../src/adapters/embedded-postgres.ts'

const [dataDir = ''] = process.argv.slice(2)
try {
  const postgres = await startEmbeddedPostgres({ dataDir, logger: pino({ level: 'silent' }) })
  process.once('SIGTERM', () => void postgres.stop())
  console.log(JSON.stringify({ pid: postgres.pid }))
} catch (error) {
  console.log(JSON.stringify({ refused: error instanceof StartupRefused ? error.code : String(error) }))
}
