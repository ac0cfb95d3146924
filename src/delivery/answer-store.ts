import { byteaArray, int8Array, type Transaction, type Tx, textArray, timestamptzArray } from '../ports/database.ts'

/** How an answer begins, sealed under the data key of its tenant. */
export interface SealedAnswer {
  /** Of the statement of the attempt. */
  leafIndex: number
  tenantId: string
  sealed: Uint8Array
  /** When it is not shown any more. */
  expiresAt: Date
}

/** What a sealed answer is bound to. Where its statement will stand in the log is not known when it is sealed. */
export const answerContext = (tenantId: string, deliveryId: string, attempt: number): Uint8Array =>
  Buffer.from(`answer\0${tenantId}\0${deliveryId}\0${attempt}`)

const insertRows = `
  insert into answers (leaf_index, tenant_id, sealed, expires_at)
  select * from unnest($1::bigint[], $2::text[], $3::bytea[], $4::timestamptz[])`

export const insertAnswers = (tx: Transaction, answers: readonly SealedAnswer[]): void =>
  tx.send(insertRows, [
    int8Array(answers.map((answer) => answer.leafIndex)),
    textArray(answers.map((answer) => answer.tenantId)),
    byteaArray(answers.map((answer) => answer.sealed)),
    timestamptzArray(answers.map((answer) => answer.expiresAt)),
  ])

const selectRows = `
  select leaf_index as "leafIndex", tenant_id as "tenantId", sealed, expires_at as "expiresAt"
    from answers where leaf_index = any($1::bigint[]) and expires_at > $2`

/** The answers that were kept of these attempts' statements, and have not expired. */
export const findAnswers = (tx: Tx, leafIndexes: readonly number[], now: Date): Promise<SealedAnswer[]> =>
  tx.query(selectRows, [int8Array(leafIndexes), now])
