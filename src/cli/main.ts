import { readFile } from 'node:fs/promises'
import { type JsonObject, parseJson } from '../message/json.ts'
import { type Command, CommandError, columns, defineCommand, helpOf, UsageError, wholeNumber } from './command.ts'
import { keys } from './keys.ts'
import { log } from './log.ts'

/**
 * `countersign <command>`. Each command is a row here, and its modules are loaded only once it is asked for: `verify`
 * starts no server and must not wait for one to load.
 */
const serve = defineCommand({
  name: 'serve',
  purpose: 'Runs the relay, as npm start does. The environment configures it: src/config.ts is the manual.',
  operands: [],
  options: {
    role: { type: 'string', value: 'role', purpose: 'ingress, delivery or all: ROLE.' },
    workers: { type: 'string', value: 'count', purpose: 'Relay processes that share the port: WORKERS.' },
  },
  example: 'PORT=8080 DATA_DIR=./data countersign serve --workers 4',
  async run({ role, workers }) {
    const { serve } = await import('../main.ts')
    const told = { ...(role !== undefined && { ROLE: role }), ...(workers !== undefined && { WORKERS: workers }) }
    await serve({ ...process.env, ...told })
    return undefined
  },
})

const demo = defineCommand({
  name: 'demo',
  purpose: "Sends every example of GitHub's webhooks through a relay of its own to a receiver, and verifies it all.",
  operands: [],
  options: {
    concurrency: { type: 'string', value: 'posts', purpose: 'How many posts are under way at once.', default: '32' },
    limit: { type: 'string', value: 'count', purpose: 'Posts only the first so many payloads.' },
    keep: { type: 'boolean', purpose: 'Leaves the data folder behind and says where it is.' },
  },
  example: 'countersign demo --limit 100',
  async run({ concurrency, limit, keep }) {
    const posts = wholeNumber('concurrency', concurrency, 1, 1000)
    const most = limit === undefined ? undefined : wholeNumber('limit', limit, 1, 1_000_000)
    const { demo } = await import('./demo.ts')
    return demo({ concurrency: posts, limit: most, keep })
  },
})

const verify = defineCommand({
  name: 'verify',
  purpose:
    'Verifies a receipt offline, and a payload against it. Exits with 0 if valid, 1 if not, 2 if it cannot tell.',
  operands: ['<receipt.json>', '[payload.json]'],
  options: {
    jwks: { type: 'string', value: 'file or URL', purpose: 'The published keys (JWKS).', required: true },
    vkey: {
      type: 'string',
      value: 'file or URL',
      purpose: 'The keys of the log. Without them inclusion is not checked.',
    },
    witness: {
      type: 'string',
      value: 'vkey',
      purpose: 'A witness that must have cosigned the checkpoint.',
      multiple: true,
    },
    quorum: { type: 'string', value: 'count', purpose: 'How many of these witnesses are enough. Default: all.' },
    issuer: { type: 'string', value: 'URL', purpose: 'Who must have issued the receipt.' },
    json: { type: 'boolean', purpose: 'Prints the verdict as JSON, in the form of POST /v1/verify.' },
  },
  example: 'countersign verify receipt.json payload.json --jwks jwks.json --vkey vkey.txt',
  async run({ jwks, vkey, witness: witnesses, quorum, issuer, json }, [receipt = '', payload]) {
    if (quorum !== undefined && witnesses.length === 0) throw new UsageError('--quorum needs a --witness')
    const enough = quorum === undefined ? undefined : wholeNumber('quorum', quorum, 1, witnesses.length)
    const { verify } = await import('./verify.ts')
    return verify({ receipt, payload, jwks, vkey, witnesses, quorum: enough, issuer, json })
  },
})

const verifyExport = defineCommand({
  name: 'verify export',
  purpose: 'Verifies an export of the audit log offline. Exits with 0 if valid, 1 if not, 2 if it cannot tell.',
  operands: ['<file>'],
  options: {
    vkey: { type: 'string', value: 'vkey, file or URL', purpose: 'The keys of the log.', required: true },
    jwks: {
      type: 'string',
      value: 'file or URL',
      purpose: 'The published keys, /v1/keys or a JWKS. Without them those in the file are used.',
    },
    json: { type: 'boolean', purpose: 'Prints the verdict as JSON.' },
  },
  example: 'countersign verify export audit.ndjson.zst --vkey vkey.txt --jwks keys.json',
  async run({ vkey, jwks, json }, [file = '']) {
    const { checkExport } = await import('./verify-export.ts')
    return checkExport({ file, vkey, jwks, json })
  },
})

const receive = defineCommand({
  name: 'receive',
  purpose:
    'Receives webhooks and verifies each with stock libraries, knowing nothing but where the keys are published.',
  operands: [],
  options: {
    jwks: { type: 'string', value: 'URL', purpose: 'Where the relay publishes its keys.', required: true },
    port: { type: 'string', value: 'port', purpose: 'Where to listen; 0 lets the system choose.', default: '9000' },
    host: { type: 'string', value: 'host', purpose: 'On which address to listen.', default: '127.0.0.1' },
  },
  example: 'countersign receive --jwks http://localhost:8080/.well-known/jwks.json --port 9000',
  async run({ jwks, port, host }) {
    const url = URL.parse(jwks)
    if (url?.protocol !== 'http:' && url?.protocol !== 'https:')
      throw new UsageError('--jwks must be an http or https URL')
    const listenOn = wholeNumber('port', port, 0, 65_535)
    const { receive } = await import('./receiver.ts')
    await receive({ jwks: url, port: listenOn, host })
    return undefined
  },
})

const witness = defineCommand({
  name: 'witness',
  purpose:
    'Watches a log for you: cosigns its checkpoints as long as each extends the one before, and says if one does not.',
  operands: [],
  options: {
    log: {
      type: 'string',
      value: 'vkey',
      purpose: 'A key of the log, from its /log/vkey. Its name is the origin of the log.',
      required: true,
      multiple: true,
    },
    key: { type: 'string', value: 'file', purpose: 'The secret key; made at first start.', default: 'witness.key' },
    name: { type: 'string', value: 'name', purpose: 'What a key made now is called.', default: 'witness.example' },
    state: {
      type: 'string',
      value: 'file',
      purpose: 'What was cosigned last. Never restore it from a backup.',
      default: 'witness.state',
    },
    listen: { type: 'string', value: 'host:port', purpose: 'Where to be asked.', default: '127.0.0.1:7380' },
  },
  example: 'countersign witness --log "$(curl -s https://relay.example/log/vkey)" --name acme.example/witness',
  async run({ log, key, name, state, listen }) {
    const { witness } = await import('./witness.ts')
    await witness({ log, key, name, state, listen })
    return undefined
  },
})

const help = defineCommand({
  name: 'help',
  purpose: 'Shows the commands, or the help of one.',
  operands: ['[command]', '[word]'],
  options: {},
  example: 'countersign help verify export',
  async run(_values, words) {
    const name = words.length === 0 ? undefined : words.join(' ')
    process.stdout.write(name === undefined ? overview() : helpOf(findCommand(name)))
    return 0
  },
})

const version = defineCommand({
  name: 'version',
  purpose: 'Shows the version.',
  operands: [],
  options: {},
  example: 'countersign version',
  async run() {
    const { version } = parseJson(await readFile(new URL('../../package.json', import.meta.url))) as JsonObject
    process.stdout.write(`${version}\n`)
    return 0
  },
})

export const commands: readonly Command[] = [
  serve,
  demo,
  keys,
  log,
  verify,
  verifyExport,
  receive,
  witness,
  help,
  version,
]

const overview = (): string => `Countersign: a webhook relay that proves what it did.

Usage
  countersign <command> [options]

Commands
${columns(commands.map(({ name, purpose }) => [name, purpose] as const))}
countersign <command> --help shows its options and an example.
`

function findCommand(name: string): Command {
  const aliases: Record<string, string> = { '--help': 'help', '-h': 'help', '--version': 'version' }
  const meant = Object.hasOwn(aliases, name) ? aliases[name] : name
  const command = commands.find((candidate) => candidate.name === meant)
  if (command !== undefined) return command
  throw new UsageError(`there is no ${name.startsWith('-') ? 'option' : 'command'} ${JSON.stringify(name)}`)
}

/** What a person can mend is told in one sentence, with exit code 2 where the command could not start on what was asked.
 *  Anything else is a fault of ours, and its stack is what we need to be sent. */
function explain(error: unknown, name: string | undefined): number {
  const say = (sentence: string): void => void process.stderr.write(`countersign: ${sentence}\n`)
  if (error instanceof UsageError) {
    const page = commands.some((command) => command.name === name) ? `countersign ${name} --help` : 'countersign --help'
    say(`${error.message}. See ${page}`)
    return 2
  }
  if (error instanceof CommandError) {
    say(error.message)
    return 2
  }
  const isForeseen = error instanceof Error && (error.name === 'ConfigError' || 'syscall' in error)
  say(isForeseen ? error.message : error instanceof Error ? (error.stack ?? error.message) : String(error))
  return 1
}

if (import.meta.main) {
  const [first = 'help', second, ...others] = process.argv.slice(2)
  const isOfTwoWords = commands.some((command) => command.name === `${first} ${second}`)
  const name = isOfTwoWords ? `${first} ${second}` : first
  const args = isOfTwoWords || second === undefined ? others : [second, ...others]
  process.stdout.on('error', () => process.exit(2)) // whoever read our output has left before the end, as `| head` does
  try {
    // The code is set, not exited with: what was written to a pipe has yet to leave.
    process.exitCode = await findCommand(name).run(args)
  } catch (error) {
    process.exitCode = explain(error, name)
  }
}
