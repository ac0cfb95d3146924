/** How long what is written for a tenant is kept. */
export interface Retention {
  /** Payloads, in days. */
  readonly payloadDays: number
  /** Statements, and what is known of messages, in calendar months. */
  readonly statementMonths: number
}

/** What everything is kept for at least. A tenant may choose longer, in steps, so that months stay few. */
export const leastRetention: Retention = { payloadDays: 30, statementMonths: 12 }
export const payloadDaysOffered = [30, 60, 90, 180, 365] as const
export const statementMonthsOffered = [12, 24, 36, 60, 84, 120] as const

const dayMs = 86_400_000

/** From then on a payload of `at` is not shown any more. */
export const payloadExpiry = (at: Date, { payloadDays }: Retention): Date =>
  new Date(at.getTime() + payloadDays * dayMs)

/** The same for a statement: the same day of a later month, or the first of the next where that month is too short. */
export function statementExpiry(at: Date, { statementMonths }: Retention): Date {
  const expiry = new Date(at)
  expiry.setUTCMonth(expiry.getUTCMonth() + statementMonths)
  return expiry
}
