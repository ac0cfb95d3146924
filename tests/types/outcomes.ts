/** What must not compile: facts of another kind, and codes that the table does not have. `tsc` is what runs this. */
import { RelayError } from '../../src/errors.ts'
import { state } from '../../src/log/statement.ts'
import type { Id } from '../../src/message/id.ts'

export function throwsCodesOfTheTable(): RelayError[] {
  // @ts-expect-error no such code
  const misspelt = new RelayError('payload_duplicate_key')
  // @ts-expect-error what a caller may read has a shape; the rest is a cause
  const leaking = new RelayError('internal', { sql: 'select 1' })
  return [misspelt, leaking]
}

export function statesWholeFacts(): Uint8Array[] {
  const parties = { tenant: '', source: '', actor: '', request: { id: '', address: '' } }
  // @ts-expect-error an acceptance names its payload
  const partial = state('iss', { kind: 'message.accepted', sub: '', ...parties }, new Date())
  // @ts-expect-error no such kind
  const unknown = state('iss', { kind: 'message.lost', sub: '' }, new Date())
  return [partial.statement, unknown.statement]
}

export function namesOneKindOfThing(message: Id<'msg'>): Id[] {
  // @ts-expect-error a message is no tenant
  const tenant: Id<'ten'> = message
  return [tenant]
}
