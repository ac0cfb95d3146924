import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { commands } from '../../src/cli/main.ts'
import { countersign } from './run.ts'

describe('help', () => {
  test.each(commands)('$name --help shows every option of the table, and an example', async (command) => {
    const { code, stdout } = await countersign([command.name, '--help'])
    expect(code).toBe(0)
    expect(stdout).toContain(command.purpose)
    expect(stdout).toContain(command.example)
    for (const [name, { purpose }] of Object.entries(command.options)) {
      expect(stdout).toContain(`--${name}`)
      expect(stdout).toContain(purpose)
    }
  })

  test.each([[[]], [['help']], [['--help']], [['-h']]])('countersign %j lists every command', async (args) => {
    const { code, stdout } = await countersign(args)
    expect(code).toBe(0)
    for (const { name } of commands) expect(stdout).toMatch(new RegExp(`^  ${name} +\\S`, 'm'))
  })

  test('help of a command is that of its --help', async () => {
    const [one, other] = await Promise.all([countersign(['help', 'verify']), countersign(['verify', '--help'])])
    expect(one).toEqual(other)
  })
})

test.each([
  ['an unknown command', ['frobnicate']],
  ['an unknown option in place of a command', ['--frobnicate']],
  ['a name that every object has', ['constructor']],
  ['an unknown option', ['serve', '--frobnicate']],
  ['an operand too many', ['verify', 'a', 'b', 'c', '--jwks', 'd']],
  ['a missing operand', ['verify', '--jwks', 'd']],
  ['a missing required option', ['verify', 'a']],
  ['an option without its value', ['receive', '--jwks']],
  ['a flag with a value', ['demo', '--keep=yes']],
  ['a number that is none', ['demo', '--limit', '1e3']],
  ['a number out of range', ['receive', '--jwks', 'http://localhost/', '--port', '65536']],
  ['a witness without a log', ['witness']],
  [
    'a witness of two logs',
    [
      'witness',
      '--log',
      'PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop',
    ],
  ],
  ['a witness that cannot listen', ['witness', '--log', 'x', '--listen', '7380']],
  ['a URL that is none', ['receive', '--jwks', 'jwks.json']],
])('%s is told in one line that leads to --help, with exit code 2', async (_what, args) => {
  const { code, stdout, stderr } = await countersign(args)
  expect(code).toBe(2)
  expect(stdout).toBe('')
  expect(stderr).toMatch(/^countersign: .+--help\n$/)
})

test.each([
  ['PORT', 'eighty'],
  ['WITNESSES', 'acme.example/witness https://acme.example'],
  ['WITNESS_QUORUM', '1'], // of no witnesses
])('a configuration that cannot be is told in one line, without a stack: %s', async (name, value) => {
  const { code, stderr } = await countersign(['serve'], { env: { [name]: value } })
  expect(code).toBe(1)
  expect(stderr).toMatch(new RegExp(`^countersign: ${name}\\b.+\n$`))
})

describe('the file that npx runs', () => {
  const file = fileURLToPath(new URL('../../src/cli/countersign.js', import.meta.url))

  test('passes on arguments, output and exit code', async () => {
    const [direct, shimmed] = await Promise.all([countersign(['verify']), countersign(['verify'], { file })])
    expect(shimmed).toEqual(direct)
    expect(shimmed.code).toBe(2)
  })

  test('passes on a signal, and ends as the command does', async () => {
    const args = ['receive', '--jwks', 'http://127.0.0.1/', '--port', '0']
    const interruptAt = { seen: 'listening', signal: 'SIGTERM' } as const
    const { code, stdout } = await countersign(args, { file, interruptAt })
    expect(code).toBe(0)
    expect(stdout).toContain('0 verified, 0 again, 0 failed')
  })
})
