import { parseArgs } from 'node:util'

/** A command of the table in main.ts. The same record parses its arguments and writes its help, so the two agree. */
export interface Command {
  readonly name: string
  /** One sentence. */
  readonly purpose: string
  /** In order, as the help shows them: `<required>`, then `[optional]`. */
  readonly operands: readonly string[]
  readonly options: Options
  /** A command line that works as it stands. */
  readonly example: string
  /** Resolves to the exit code, or to undefined for a command that now runs until it is stopped. */
  readonly run: (args: string[]) => Promise<number | undefined>
}

export interface Option {
  readonly type: 'string' | 'boolean'
  /** What stands for the value of a string in the help, e.g. `port`. */
  readonly value?: string
  readonly purpose: string
  readonly default?: string
  readonly required?: true
  /** May be given more than once. */
  readonly multiple?: true
}

type Options = Readonly<Record<string, Option>>

/** What the arguments said. An option has a value if it is required or has a default; a flag is there or not. */
type Values<O extends Options> = {
  readonly [Name in keyof O]: O[Name] extends { type: 'boolean' }
    ? boolean
    : O[Name] extends { multiple: true }
      ? string[]
      : O[Name] extends { default: string } | { required: true }
        ? string
        : string | undefined
}

/** Ends a command with one sentence on standard error and exit code 2: it could not do what was asked. */
export class CommandError extends Error {
  override readonly name: string = 'CommandError'
}

/** The arguments make no sense; whoever reads this wants to hear of --help. */
export class UsageError extends CommandError {
  override readonly name = 'UsageError'
}

/** A command whose `run` receives its options by name, with their types, and its operands in order. */
export function defineCommand<const O extends Options>(
  command: Omit<Command, 'run' | 'options'> & {
    readonly options: O
    readonly run: (values: Values<O>, operands: string[]) => Promise<number | undefined>
  },
): Command {
  return {
    ...command,
    async run(args) {
      const { help, values, operands } = parse(command, args)
      if (!help) return command.run(values as Values<O>, operands)
      process.stdout.write(helpOf(command))
      return 0
    },
  }
}

type Value = string | boolean | (string | boolean)[] | undefined

function parse({ operands, options }: Pick<Command, 'operands' | 'options'>, args: string[]) {
  const { values: found, positionals } = parseStrictly(args, options)
  const values: Record<string, Value> = { ...found }
  const help = values.help === true
  if (help) return { help, values, operands: positionals }
  const required = operands.filter((operand) => operand.startsWith('<'))
  if (positionals.length < required.length) throw new UsageError(`${required[positionals.length]} is missing`)
  const [surplus] = positionals.slice(operands.length)
  if (surplus !== undefined) throw new UsageError(`${JSON.stringify(surplus)} is one argument too many`)
  for (const [name, option] of Object.entries(options)) {
    if (option.type === 'boolean') values[name] ??= false
    if (option.required && values[name] === undefined) throw new UsageError(`--${name} is missing`)
    if (option.multiple) values[name] ??= []
  }
  return { help, values, operands: positionals }
}

function parseStrictly(args: string[], options: Options) {
  try {
    return parseArgs({ args, options: { ...options, ...helpOption }, strict: true, allowPositionals: true })
  } catch (error) {
    if (!(error instanceof TypeError)) throw error
    const [sentence = ''] = error.message.split(/\.(?:\s|$)/) // what follows is advice about "--"
    throw new UsageError(`${sentence.charAt(0).toLowerCase()}${sentence.slice(1)}`)
  }
}

const helpOption = { help: { type: 'boolean', short: 'h' } } as const

/** The page that `countersign <command> --help` shows. */
export function helpOf({ name, purpose, operands, options, example }: Omit<Command, 'run'>): string {
  const rows = Object.entries(options).map(([option, { type, value = 'value', purpose, required, ...rest }]) => {
    const shown = type === 'string' ? `--${option} <${value}>` : `--${option}`
    const note = required ? ' Required.' : rest.default === undefined ? '' : ` Default: ${rest.default}.`
    return [shown, `${purpose}${note}${rest.multiple ? ' May be repeated.' : ''}`] as const
  })
  const usage = [`countersign ${name}`, ...operands, ...(rows.length > 0 ? ['[options]'] : [])].join(' ')
  const list = rows.length > 0 ? `\nOptions\n${columns(rows)}` : ''
  return `${purpose}\n\nUsage\n  ${usage}\n${list}\nExample\n  ${example}\n`
}

/** Rows of two columns, indented and aligned. */
export function columns(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([first]) => first.length))
  return rows.map(([first, second]) => `  ${first.padEnd(width)}  ${second}\n`).join('')
}

/** The whole number an option was given as. UsageError unless it lies from `least` to `most`. */
export function wholeNumber(option: string, text: string, least: number, most: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  if (value >= least && value <= most) return value
  throw new UsageError(`--${option} must be a whole number from ${least} to ${most}, not ${JSON.stringify(text)}`)
}
