import { type Command, CommandError, defineCommand, helpOf, UsageError } from './command.ts'

/** `countersign log <subcommand>`: about the log itself, from its database and its object store. */
const check = defineCommand({
  name: 'log check',
  purpose:
    'Rebuilds the log from every copy of it and holds it against all it signed. Names the first leaf that is wrong, and which copy. Exits with 0 if nothing is wrong, 1 if something is, 2 if it cannot tell.',
  operands: [],
  options: {
    checkpoints: {
      type: 'string',
      value: 'file or folder',
      purpose: 'Checkpoints, or receipts, kept elsewhere: what the log must still agree with.',
    },
    vkey: {
      type: 'string',
      value: 'file or URL',
      purpose: 'The keys of the log, from somewhere its operator cannot change them. Default: those in the database.',
    },
    'object-store-only': {
      type: 'boolean',
      purpose:
        'Checks what was published, without the database. Takes the keys published beside it unless --vkey says.',
    },
    json: { type: 'boolean', purpose: 'Prints the report as JSON.' },
  },
  example: 'countersign log check --vkey vkey.txt --checkpoints ./receipts',
  async run({ checkpoints, vkey, 'object-store-only': objectStoreOnly, json }) {
    const { checkWholeLog } = await import('./log/check.ts')
    return checkWholeLog({ checkpoints, vkey, objectStoreOnly, json }, process.env)
  },
})

const subcommands: readonly Command[] = [check]

const nameOf = ({ name }: Command): string => name.slice('log '.length)

export const log: Command = {
  name: 'log',
  purpose: 'Checks the log against everything it ever signed: `log check --help`.',
  operands: [`<${subcommands.map(nameOf).join(' | ')}>`],
  options: {},
  example: subcommands.map(({ example }) => example).join('\n  '),
  async run([name, ...args]) {
    if (name === '--help' || name === '-h') {
      process.stdout.write(helpOf(log))
      return 0
    }
    const subcommand = subcommands.find((candidate) => nameOf(candidate) === name)
    if (subcommand === undefined) {
      throw new UsageError(name === undefined ? 'the subcommand is missing' : `there is no log ${JSON.stringify(name)}`)
    }
    try {
      return await subcommand.run(args)
    } catch (error) {
      if (!(error instanceof UsageError)) throw error
      throw new CommandError(`${error.message}. See countersign ${subcommand.name} --help`)
    }
  },
}
