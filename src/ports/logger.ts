/** The part of pino that the stages use: facts first, then the name of what happened. Never payloads or secrets. */
export interface Logger {
  /** Whether what is said for debugging goes anywhere: asked where gathering the facts costs. */
  isLevelEnabled(level: 'debug'): boolean
  debug(facts: object, what: string): void
  info(facts: object, what: string): void
  warn(facts: object, what: string): void
  error(facts: object, what: string): void
}
