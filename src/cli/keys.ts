import { type Command, CommandError, defineCommand, helpOf, UsageError } from './command.ts'

/**
 * `countersign keys <subcommand>`. All but `rewrap` ask a running relay over HTTP: what it publishes, or as its
 * administrator. keys/README.md is the ceremony they belong to.
 */
const relay = {
  type: 'string',
  value: 'URL',
  purpose: 'The running relay to ask.',
  default: 'http://127.0.0.1:8080',
} as const

const list = defineCommand({
  name: 'keys list',
  purpose: 'Shows every key of a relay as a bar across the months, and verifies the signature over the answer.',
  operands: [],
  options: {
    relay,
    ascii: { type: 'boolean', purpose: 'Draws with ASCII characters only.' },
    json: { type: 'boolean', purpose: 'Prints the answer as it came, to be kept: it carries its signature.' },
  },
  example: 'countersign keys list',
  async run({ relay, ascii, json }) {
    const { listKeys } = await import('./keys/list.ts')
    return listKeys({ relay, ascii, json, now: new Date() })
  },
})

const rotate = defineCommand({
  name: 'keys rotate',
  purpose: 'Rotates at once, out of turn, and says what receivers will see. Needs COUNTERSIGN_ADMIN_KEY.',
  operands: [],
  options: {
    purpose: { type: 'string', value: 'payload|log', purpose: 'Which kind of key to rotate.', required: true },
    'dry-run': { type: 'boolean', purpose: 'Changes nothing: says what is due, and what rotating now would mean.' },
    relay,
  },
  example: 'countersign keys rotate --purpose payload --dry-run',
  async run({ purpose, 'dry-run': dryRun, relay }) {
    if (purpose !== 'payload' && purpose !== 'log') throw new UsageError('--purpose must be payload or log')
    const { foretellRotation, rotateKey } = await import('./keys/administer.ts')
    return dryRun ? foretellRotation({ relay, purpose }) : rotateKey({ relay, purpose })
  },
})

const revoke = defineCommand({
  name: 'keys revoke',
  purpose: 'Revokes a key, for good, and says what receivers will see. Needs COUNTERSIGN_ADMIN_KEY.',
  operands: ['<kid>'],
  options: {
    reason: { type: 'string', value: 'text', purpose: 'Why. Published with the key.', required: true },
    from: { type: 'string', value: 'time', purpose: 'What it signed from then on does not count.', required: true },
    relay,
  },
  example: 'countersign keys revoke 4kPBAQFb --reason "laptop stolen" --from 2026-11-20T18:00:00Z',
  async run({ reason, from, relay }, [kid = '']) {
    const { revokeKey } = await import('./keys/administer.ts')
    return revokeKey({ relay, kid, reason, from })
  },
})

const exportPublic = defineCommand({
  name: 'keys export-public',
  purpose: 'Prints the JWKS, or writes everything public about the keys into a folder. Private halves never leave.',
  operands: [],
  options: {
    dir: {
      type: 'string',
      value: 'folder',
      purpose: 'Writes jwks.json, vkeys.txt, keys.json (the history) and a PEM of each payload key there.',
    },
    relay,
  },
  example: 'countersign keys export-public --dir ./public-keys',
  async run({ dir, relay }) {
    const { exportPublicKeys } = await import('./keys/export-public.ts')
    return exportPublicKeys({ relay, dir })
  },
})

const rewrap = defineCommand({
  name: 'keys rewrap',
  purpose:
    'Wraps every key anew under another wrapper, changing no kid. The relay is stopped; its environment is used.',
  operands: [],
  options: {
    to: { type: 'string', value: 'aws-kms|local', purpose: 'The wrapper to move to from KEY_WRAPPER.', required: true },
  },
  example: 'KMS_KEY_ID=alias/countersign countersign keys rewrap --to aws-kms',
  async run({ to }) {
    if (to !== 'aws-kms' && to !== 'local') throw new UsageError('--to must be aws-kms or local')
    const { rewrapKeys } = await import('./keys/rewrap.ts')
    return rewrapKeys(to, process.env)
  },
})

const subcommands: readonly Command[] = [list, rotate, revoke, exportPublic, rewrap]

const nameOf = ({ name }: Command): string => name.slice('keys '.length)

export const keys: Command = {
  name: 'keys',
  purpose: 'Lists, rotates, revokes, exports and re-wraps the keys of a relay. Each of these has its own --help.',
  operands: [`<${subcommands.map(nameOf).join(' | ')}>`],
  options: {},
  example: subcommands.map(({ example }) => example).join('\n  '),
  async run([name, ...args]) {
    if (name === '--help' || name === '-h') {
      process.stdout.write(helpOf(keys))
      return 0
    }
    const subcommand = subcommands.find((candidate) => nameOf(candidate) === name)
    if (subcommand === undefined) {
      throw new UsageError(
        name === undefined ? 'the subcommand is missing' : `there is no keys ${JSON.stringify(name)}`,
      )
    }
    try {
      return await subcommand.run(args)
    } catch (error) {
      if (!(error instanceof UsageError)) throw error
      throw new CommandError(`${error.message}. See countersign ${subcommand.name} --help`) // not that of `keys`
    }
  },
}
