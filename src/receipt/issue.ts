import { receiptHeader } from '../keyring/jws.ts'
import type { Keyring } from '../keyring/keyring.ts'
import { jwsSigningInput } from '../keyring/signing-input.ts'
import { LastProof } from '../log/last-proof.ts'
import type { SequencedEntry } from '../log/sequencer.ts'
import { formatProof } from '../log/tlog-proof.ts'
import { aboutOf, type Receipt } from './receipt.ts'
import { type TrustMaterial, verifyEvidence } from './verify.ts'

/** A statement with the signature its receipt shows. */
export interface SignedBytes {
  readonly statement: Uint8Array
  readonly kid: string
  readonly signature: Uint8Array
}

/** A receipt but for the proof: the statement may not be committed yet. */
export type ReceiptDraft = Subject & {
  readonly protected: string
  readonly payload: string
  readonly signature: string
  /** Whether the signature holds. Found out on another thread, while the batch commits. */
  readonly sound: Promise<boolean>
}

type Subject = { readonly message: string } | { readonly subject: string }

/** `check` is `confirm` for a signature made just now, and `verify` for one that was kept. */
export function draftReceipt(
  about: Subject,
  signed: SignedBytes,
  keyring: Keyring,
  check: 'confirm' | 'verify',
): ReceiptDraft {
  const header = receiptHeader(signed.kid)
  const payload = Buffer.from(signed.statement).toString('base64url')
  const sound = keyring[check](signed.kid, jwsSigningInput(header, payload), signed.signature)
  sound.catch(() => {}) // answered for when the receipt is issued, if it ever is
  const signature = Buffer.from(signed.signature).toString('base64url')
  return { ...about, protected: header, payload, signature, sound }
}

/**
 * Makes the receipt of a committed statement, and verifies it as its holder will: one that does not hold never leaves.
 * Rejects with a plain Error then, which is a fault of ours.
 */
export type IssueReceipt = (
  draft: ReceiptDraft,
  place: Pick<SequencedEntry, 'leafIndex' | 'proof' | 'checkpoint'>,
) => Promise<Receipt>

export function issuing(trust: TrustMaterial): IssueReceipt {
  // Two, so that what verifies a receipt has nothing from what made it.
  const lastMade = new LastProof()
  const lastProof = new LastProof()
  return async function issueReceipt({ sound, ...draft }, place) {
    const receipt: Receipt = { ...draft, header: { 'tlog-proof': formatProof(place, lastMade.lineOf) } }
    const holds = await sound
    const evidence = { receipt: { ...receipt, header: { ...receipt.header } } }
    const { verdict, checks } = verifyEvidence(evidence, { ...trust, signatureHolds: () => holds, lastProof })
    if (verdict !== 'valid') {
      const failed = checks.filter((check) => !check.ok).map((check) => `${check.name}: ${check.detail}`)
      throw new Error(`the receipt of ${aboutOf(receipt)} does not verify: ${failed.join('; ')}`)
    }
    return receipt
  }
}
