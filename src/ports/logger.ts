/** The part of pino that the stages use: facts first, then the name of what happened. Never payloads or secrets. */
export interface Logger {
  debug(facts: object, what: string): void
  info(facts: object, what: string): void
  warn(facts: object, what: string): void
  error(facts: object, what: string): void
}
