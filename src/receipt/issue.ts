import { receiptHeader } from '../keyring/jws.ts'
import type { SequencedEntry } from '../log/sequencer.ts'
import { formatProof } from '../log/tlog-proof.ts'
import type { Receipt } from './receipt.ts'
import { type TrustMaterial, verifyEvidence } from './verify.ts'

/** A statement with the signature its receipt shows. */
export interface SignedBytes {
  readonly statement: Uint8Array
  readonly kid: string
  readonly signature: Uint8Array
}

/**
 * Makes the receipt of a committed statement, and verifies it as its holder will: one that does not hold never leaves.
 * Throws a plain Error then, which is a fault of ours.
 */
export function issueReceipt(
  messageId: string,
  signed: SignedBytes,
  place: Pick<SequencedEntry, 'leafIndex' | 'proof' | 'checkpoint'>,
  trust: TrustMaterial,
): Receipt {
  const receipt: Receipt = {
    message: messageId,
    protected: receiptHeader(signed.kid),
    payload: Buffer.from(signed.statement).toString('base64url'),
    signature: Buffer.from(signed.signature).toString('base64url'),
    header: { 'tlog-proof': formatProof(place) },
  }
  const { verdict, checks } = verifyEvidence({ receipt: { ...receipt, header: { ...receipt.header } } }, trust)
  if (verdict !== 'valid') {
    const failed = checks.filter((check) => !check.ok).map((check) => `${check.name}: ${check.detail}`)
    throw new Error(`the receipt of ${messageId} does not verify: ${failed.join('; ')}`)
  }
  return receipt
}
