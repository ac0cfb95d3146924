import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { countersign } from './run.ts'

/** What the shell that runs a demo may hold, and no demo may touch. */
const env = {
  DATABASE_URL: 'postgres://nowhere.invalid/precious',
  HOST: '0.0.0.0',
  PUBLIC_URL: 'https://precious.invalid',
}

const folderOf = (stdout: string): string => /data in (\S+)/.exec(stdout)?.[1] ?? ''

test('a demo of 20 payloads delivers and verifies all of them, and leaves nothing behind', async () => {
  const { code, stdout, stderr } = await countersign(['demo', '--limit', '20', '--concurrency', '8'], { env })
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  expect(stdout).toMatch(/\n +posted +20 payloads/)
  expect(stdout).toMatch(/\n +accepted +20\n/)
  expect(stdout).toMatch(/\n +delivered +20\n/)
  expect(stdout).toMatch(/\n +verified at the receiver +20 signatures \(v1a\), 20 receipts/)
  expect(stdout).toMatch(/\n +receipts verified offline +20,/)
  expect(stdout).toMatch(/\neverything verified\n$/)
  expect(folderOf(stdout)).not.toBe('')
  expect(existsSync(folderOf(stdout))).toBe(false)
})

test('a demo told to keep its folder does, and says where it is', async () => {
  const { code, stdout } = await countersign(['demo', '--limit', '1', '--keep'], { env })
  const folder = folderOf(stdout)
  try {
    expect(code).toBe(0)
    expect(stdout).toContain(`kept ${folder}\n`)
    expect(existsSync(folder)).toBe(true)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

test('a demo that is interrupted ends its processes and removes its folder', async () => {
  const interruptAt = { seen: 'starting a receiver', signal: 'SIGINT' } as const
  const { code, stdout, stderr } = await countersign(['demo'], { env, interruptAt })
  expect(code).toBe(1)
  expect(stderr).toMatch(/^\ncountersign: stopped by SIGINT\n$/)
  expect(stdout).not.toContain('everything verified')
  expect(existsSync(folderOf(stdout))).toBe(false)
})
