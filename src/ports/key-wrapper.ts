/** What a wrapped key is bound to. Wrapping binds every pair; unwrapping must present the same pairs. */
export type WrapContext = Readonly<Record<string, string>>

export interface WrappedKey {
  /** Ciphertext, opaque to everyone but the wrapper that made it. */
  readonly blob: Uint8Array
  /** Names the wrapping key, e.g. `local:3f2a…` or a KMS key ARN. */
  readonly wrappingKey: string
  /** Which version of it, where the wrapper can tell: KMS's key material, which rotates under one ARN. */
  readonly version?: string
}

/**
 * Wraps seeds and data keys, and keeps none. `unwrap` rejects unless `context` equals the one given to `wrap`.
 * Implementations retry transient faults themselves, so a rejection here is final.
 */
export interface KeyWrapper {
  wrap(plain: Uint8Array, context: WrapContext): Promise<WrappedKey>

  /** The caller erases what it gets. */
  unwrap(wrapped: WrappedKey, context: WrapContext): Promise<Uint8Array>

  /** 32 fresh random bytes, plain (the caller erases them) and wrapped. */
  generateDataKey(context: WrapContext): Promise<{ plain: Uint8Array; wrapped: WrappedKey }>

  /**
   * A fresh Ed25519 key whose private half the caller never sees here. `publicKey` is 32 raw bytes; unwrapping yields
   * the 32-byte seed or a PKCS#8 document around it, as the wrapping service has it (keyring/jwk.ts reads both).
   */
  generateSigningKey(context: WrapContext): Promise<{ publicKey: Uint8Array; wrapped: WrappedKey }>
}
