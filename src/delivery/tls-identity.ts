import { X509Certificate } from 'node:crypto'
import { createSecureContext, getCACertificates, type SecureContext, type SecureContextOptions } from 'node:tls'
import { sha256 } from '../message/digest.ts'
import type { TlsIdentity } from '../tenant/records.ts'

/**
 * What a connection is made with: the endpoint's own certificate and CA, or else no certificate, and the system's roots
 * with `ca` beside them. Parsing the roots is slow, so keep it. Throws if OpenSSL does not take the identity.
 */
export function secureContextOf(tls: TlsIdentity | null, ca: readonly string[]): SecureContext {
  const trusted = ca.length === 0 ? {} : { ca: [...getCACertificates('default'), ...ca] }
  return createSecureContext({ minVersion: 'TLSv1.2', ...trusted, ...(tls && partsOf(tls)) })
}

const partsOf = ({ certificate, key, ca }: TlsIdentity): SecureContextOptions => ({
  ...(certificate !== null && { cert: certificate }),
  ...(key !== null && { key }),
  ...(ca !== null && { ca }),
})

/** Equal for equal identities. */
export const fingerprintOf = ({ certificate, key, ca }: TlsIdentity): string =>
  sha256(Buffer.from(JSON.stringify([certificate, key, ca]))).toString('base64')

/** Throws `RangeError` unless OpenSSL takes the identity: PEM that parses, and a key that is the certificate's. */
export function checkTlsIdentity(tls: TlsIdentity): void {
  const { certificate, key, ca } = tls
  if ((certificate === null) !== (key === null)) throw new RangeError('a certificate and its key come together')
  // OpenSSL ignores a CA text that holds no certificate, and would then trust nobody without a word.
  for (const pem of [certificate, ca]) if (pem !== null) parseCertificates(pem)
  try {
    createSecureContext(partsOf(tls))
  } catch {
    // Without the cause, which might quote the key.
    throw new RangeError('the key cannot be read, or is not the key of the certificate')
  }
}

function parseCertificates(pem: string): void {
  const blocks = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? []
  try {
    for (const block of blocks) new X509Certificate(block)
  } catch {
    throw new RangeError('a certificate in it cannot be read')
  }
  if (blocks.length === 0) throw new RangeError('there is no certificate in it; PEM is expected')
}
