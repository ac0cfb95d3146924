/** What a wrapped key is bound to. Wrapping binds every pair; unwrapping must present the same pairs. */
export type WrapContext = Readonly<Record<string, string>>

export interface WrappedKey {
  /** Ciphertext, opaque to everyone but the wrapper that made it. */
  readonly blob: Uint8Array
  /** Names the wrapping key, e.g. `local:3f2a…` or a KMS key ARN. */
  readonly wrappingKey: string
}

/**
 * Wraps seeds and data keys, and keeps none. `unwrap` rejects unless `context` equals the one given to `wrap`.
 * Implementations retry transient faults themselves, so a rejection here is final.
 */
export interface KeyWrapper {
  wrap(plain: Uint8Array, context: WrapContext): Promise<WrappedKey>
  unwrap(wrapped: WrappedKey, context: WrapContext): Promise<Uint8Array>
}
