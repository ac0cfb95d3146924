import type { Static } from 'typebox'
import type { Page } from './schemas.ts'

export type Paged = { Querystring: Static<typeof Page> }

/** Pages by id. One row more than asked for is read, to know whether there is a next page. */
export async function page<Row extends { id: string }, Shown extends { id: string }>(
  { after = '', limit: most = '100' }: Static<typeof Page>,
  list: (after: string, limit: number) => Promise<Row[]>,
  show: (row: Row) => Shown,
): Promise<{ data: Shown[]; next?: string }> {
  const limit = Number(most)
  const rows = await list(after, limit + 1)
  const data = rows.slice(0, limit).map(show)
  const last = data.at(-1)
  return rows.length > limit && last !== undefined ? { data, next: last.id } : { data }
}
