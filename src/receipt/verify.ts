import { type KeyObject, verify } from 'node:crypto'
import { RelayError } from '../errors.ts'
import { kidOfReceiptHeader, verifyJws } from '../keyring/jws.ts'
import { webhookSigningInput } from '../keyring/signing-input.ts'
import { type LogTrust, openCheckpoint, type VerifiedCheckpoint } from '../log/checkpoint.ts'
import type { LastProof } from '../log/last-proof.ts'
import { NoteError } from '../log/note.ts'
import { parseProof } from '../log/tlog-proof.ts'
import { hashLeaf, verifyInclusion } from '../log/tree.ts'
import { canonicalizePayload, canonicalJson } from '../message/canonical.ts'
import { decodeBase64url, sha256, sha256Text } from '../message/digest.ts'
import { type JsonObject, type JsonValue, parseJson, parsePayload } from '../message/json.ts'
import { aboutOf, type Receipt, readReceipt } from './receipt.ts'

/** What a verifier brings. The keys come from outside the receipt: a receipt that brings its own proves nothing. */
export interface TrustMaterial {
  /** The key with this kid, or undefined. Judged at the time of the statement, not of the verification. */
  findKey(kid: string): TrustedKey | undefined
  /** Every payload key, for a webhook signature, which names none. */
  readonly keys: () => readonly TrustedKey[]
  /** Which log, and its keys. Undefined: the proof is not checked, and the verdict is that of the signature alone. */
  readonly openCheckpoint: CheckpointOpener | undefined
  /** Undefined: as RFC 8032 says, here and now. The issuer brings the answer of another thread. */
  readonly signatureHolds?: typeof verifyJws
  /** Expected `iss`. Undefined: any. */
  readonly issuer: string | undefined
  /** What the proof before left behind. Undefined: each is read and hashed from the leaf to the root. The issuer brings
   *  one, whose receipts come by the batch. */
  readonly lastProof?: Pick<LastProof, 'hashOf' | 'over'>
  /** How many witnesses must have cosigned the checkpoint. Undefined: none need, and no check is made of it. */
  readonly quorum?: number | undefined
}

/** Opens a checkpoint of the one log trusted; throws NoteError, and nothing else, for anything but that. */
export type CheckpointOpener = (note: string) => VerifiedCheckpoint

export const trustLog =
  (log: LogTrust): CheckpointOpener =>
  (note) =>
    openCheckpoint(note, log)

export interface TrustedKey {
  readonly kid: string
  readonly publicKey: KeyObject
  /** When it signed. An open end is undefined. */
  readonly validFrom: Date | undefined
  readonly validUntil: Date | undefined
  /** Nothing it signed from `from` on counts; and from then on nothing proves when it signed but the log. */
  readonly revoked: { readonly from: Date; readonly leafIndex: number } | undefined
}

/** Each check by name, in the order made. A check that needs what an earlier one did not yield is not made. */
export type CheckName =
  | 'format'
  | 'key_known'
  | 'signature'
  | 'statement'
  | 'key_state'
  | 'payload_digest'
  | 'checkpoint_signature'
  | 'cosignatures'
  | 'log_inclusion'
  | 'webhook_signature'
  | 'webhook_key_state'

export interface Check {
  readonly name: CheckName
  readonly ok: boolean
  /** One sentence: what was found. */
  readonly detail: string
}

export interface Verdict {
  /** `valid` if at least one check was made and all hold. */
  readonly verdict: 'valid' | 'invalid'
  readonly checks: readonly Check[]
  /** The key that signed, once the signature holds. */
  readonly key?: { readonly kid: string }
  /** Where in which log, once the proof holds. */
  readonly log?: {
    readonly origin: string
    readonly leafIndex: number
    readonly treeSize: number
    readonly rootHash: string
    /** By those witnesses that the verifier knows, by name. */
    readonly cosignatures: readonly { readonly witness: string; readonly cosignedAt: Date }[]
  }
  /** What was stated, once the signature holds. */
  readonly statement?: JsonObject
}

/** The part `log` of a verdict as it is answered and printed. */
export const describeLog = ({ origin, leafIndex, treeSize, rootHash, cosignatures }: NonNullable<Verdict['log']>) => ({
  ...{ origin, leaf_index: leafIndex, tree_size: treeSize, root_hash: rootHash },
  cosignatures: cosignatures.map(({ witness, cosignedAt }) => ({ witness, cosigned_at: cosignedAt.toISOString() })),
})

export interface WebhookTriple {
  /** The headers as received: webhook-id, webhook-timestamp, webhook-signature. */
  readonly id: string
  readonly timestamp: string
  readonly signature: string
}

/** What is to be verified: any of the three, the payload only together with another. */
export interface Evidence {
  /** A receipt, parsed by the strict parser. */
  readonly receipt?: JsonValue
  /** The payload's bytes: as posted, or as forwarded. */
  readonly payload?: Uint8Array
  readonly webhook?: WebhookTriple
}

/** Verifies offline: no network, no port. Never throws for anything the evidence holds. */
export function verifyEvidence(evidence: Evidence, trust: TrustMaterial): Verdict {
  const findings: Findings = { checks: [] }
  if (evidence.receipt !== undefined) verifyReceipt(evidence.receipt, evidence.payload, trust, findings)
  if (evidence.webhook !== undefined) verifyWebhook(evidence.webhook, evidence.payload, trust, findings)
  const valid = findings.checks.length > 0 && findings.checks.every((check) => check.ok)
  return { verdict: valid ? 'valid' : 'invalid', ...findings }
}

interface Findings {
  checks: Check[]
  key?: { kid: string }
  log?: NonNullable<Verdict['log']>
  statement?: JsonObject
}

function verifyReceipt(
  value: JsonValue,
  payload: Uint8Array | undefined,
  trust: TrustMaterial,
  findings: Findings,
): void {
  const note = (name: CheckName, problem: string | undefined, fine: string): boolean => {
    findings.checks.push({ name, ok: problem === undefined, detail: problem ?? fine })
    return problem === undefined
  }

  const receipt = readReceipt(value)
  if (typeof receipt === 'string') return void note('format', receipt, '')
  const bytes = decodeBase64url(receipt.payload)
  const signature = decodeBase64url(receipt.signature)
  const kid = kidOfReceiptHeader(receipt.protected)
  const malformed =
    kid === undefined
      ? 'the protected header is not that of a receipt'
      : bytes === undefined || signature?.length !== 64
        ? 'the payload or the signature is not canonical base64url'
        : undefined
  if (!note('format', malformed, 'a receipt by its form')) return
  if (kid === undefined || bytes === undefined || signature === undefined) return

  // The log speaks of the statement's bytes, so it is asked whatever the signature is worth.
  const { openCheckpoint: open } = trust
  if (open !== undefined) verifyLogged(receipt.header['tlog-proof'], bytes, open, trust, findings, note)

  const key = trust.findKey(kid)
  if (!note('key_known', key ? undefined : `no key ${kid} is published`, `key ${kid}`) || key === undefined) return
  const holds = trust.signatureHolds ?? verifyJws
  const signed = holds(receipt.protected, receipt.payload, signature, key.publicKey)
  if (!note('signature', signed ? undefined : 'the signature is not of these bytes by this key', 'signed by this key'))
    return
  findings.key = { kid }

  const statement = readStatement(bytes)
  const problem = typeof statement === 'string' ? statement : contradiction(receipt, statement, trust)
  note('statement', problem, 'a statement of this issuer about what the receipt names')
  if (typeof statement === 'string') return
  findings.statement = statement
  const { iat } = statement
  if (typeof iat === 'number') {
    const state = stateProblem(key, iat, findings.log?.leafIndex, 'message' in receipt ? 'at once' : 'when asked')
    note('key_state', state, 'the key may sign for the time of the statement')
  }
  if (payload !== undefined) verifyDigest(payload, statement, note)
}

type Note = (name: CheckName, problem: string | undefined, fine: string) => boolean

function readStatement(bytes: Buffer): JsonObject | string {
  try {
    const value = parseJson(bytes)
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'the statement is not an object'
    return Buffer.compare(canonicalJson(value), bytes) === 0 ? value : 'the statement is not canonical (RFC 8785)'
  } catch (error) {
    if (error instanceof RelayError) return 'the statement is not strict JSON'
    throw error
  }
}

function contradiction(receipt: Receipt, statement: JsonObject, trust: TrustMaterial): string | undefined {
  if (statement.v !== 1) return 'the statement is of an unknown version'
  if (typeof statement.iat !== 'number') return 'the statement has no time'
  if (statement.sub !== aboutOf(receipt)) return 'the receipt names another subject than its statement'
  if ((statement.kind === 'message.accepted') !== 'message' in receipt)
    return 'the receipt names another kind of subject'
  if (trust.issuer !== undefined && statement.iss !== trust.issuer) return `the statement is not by ${trust.issuer}`
  return undefined
}

/**
 * A key is judged at the time of the statement. The clock of the process that signed may have been a little ahead.
 *
 * Acceptances are signed when they are stated. Other statements are signed when somebody asks for their receipt, by the
 * key that is active then, which may have been activated long after. Such a late signature counts if and only if the
 * proof shows the statement in the log: then the log vouches for when it was stated. Without the proof, whoever holds
 * a new key could date anything back.
 */
export function stateProblem(
  key: TrustedKey,
  iatS: number,
  leafIndex: number | undefined,
  signed: 'at once' | 'when asked',
): string | undefined {
  const leewayMs = 60_000
  const at = iatS * 1000
  if (key.revoked !== undefined) {
    if (at >= key.revoked.from.getTime()) return 'the key was revoked before the statement was made'
    // Whoever stole the key can write any time into a statement, but cannot put it into the log before the revocation.
    if (leafIndex === undefined || leafIndex >= key.revoked.leafIndex) {
      return 'the key is revoked, and nothing proves that the statement is older'
    }
  }
  if (key.validFrom === undefined) return 'the key has not signed anything yet'
  if (at < key.validFrom.getTime() - leewayMs) {
    if (signed === 'at once') return 'the statement is older than the key'
    if (leafIndex === undefined) return 'the statement is older than the key, and nothing proves that it is in the log'
  }
  if (key.validUntil !== undefined && at > key.validUntil.getTime() + leewayMs)
    return 'the key had stopped signing by then'
  return undefined
}

/** The payload may be given as posted or as forwarded. Both have the same canonical form, or are the same bytes. */
function verifyDigest(payload: Uint8Array, statement: JsonObject, note: Note): void {
  const stated = statement.payload
  if (typeof stated !== 'object' || stated === null || Array.isArray(stated)) {
    return void note('payload_digest', 'the statement is not about a payload', '')
  }
  const same = (bytes: Uint8Array, digest: JsonValue | undefined): boolean => sha256Text(bytes) === digest
  const { canonicalization } = stated
  if (canonicalization === 'none') {
    const problem = same(payload, stated.sha256) ? undefined : 'these are other bytes than the ones stated'
    return void note('payload_digest', problem, 'these are the exact bytes posted')
  }
  if (canonicalization !== undefined) {
    return void note('payload_digest', 'the payload is stated in a canonical form unknown to this verifier', '')
  }
  if (same(payload, stated.sha256)) return void note('payload_digest', undefined, 'these are the canonical bytes')
  if (same(payload, stated.received_sha256))
    return void note('payload_digest', undefined, 'these are the bytes received')
  try {
    const canonical = canonicalizePayload(parsePayload(payload))
    const equal = same(canonical, stated.sha256)
    note('payload_digest', equal ? undefined : 'this is another payload', 'the same payload, written differently')
  } catch (error) {
    if (!(error instanceof RelayError)) throw error
    note('payload_digest', `these are other bytes, and no payload: ${error.code}`, '')
  }
}

function verifyLogged(
  text: string,
  statement: Uint8Array,
  open: CheckpointOpener,
  { quorum, lastProof }: TrustMaterial,
  findings: Findings,
  note: Note,
): void {
  let checkpoint: VerifiedCheckpoint
  let proof: ReturnType<typeof parseProof>
  try {
    proof = parseProof(text, lastProof?.hashOf)
    checkpoint = open(proof.checkpoint)
  } catch (error) {
    if (!(error instanceof NoteError)) throw error
    return void note('checkpoint_signature', `the checkpoint does not verify: ${error.reason}`, '')
  }
  note('checkpoint_signature', undefined, `checkpoint of ${checkpoint.origin} at ${checkpoint.treeSize}`)
  const cosignatures = checkpoint.verified.flatMap(({ name, cosignedAt }) =>
    cosignedAt === undefined ? [] : [{ witness: name, cosignedAt }],
  )
  if (quorum !== undefined) {
    const found = `${cosignatures.length} of the witnesses given cosigned the checkpoint`
    note('cosignatures', cosignatures.length < quorum ? `${found}, ${quorum} must` : undefined, found)
  }
  const { leafIndex } = proof
  const { origin, treeSize, rootHash } = checkpoint
  const leafHash = hashLeaf(sha256(statement))
  const claim = { leafHash, leafIndex, treeSize, proof: proof.proof, rootHash }
  const included = verifyInclusion(claim, lastProof?.over)
  const problem = included ? undefined : 'the statement is not at this place in the log'
  if (note('log_inclusion', problem, `leaf ${leafIndex} of ${treeSize}`)) {
    findings.log = { origin, leafIndex, treeSize, rootHash: Buffer.from(rootHash).toString('base64'), cosignatures }
  }
}

/** One for each key of an overlap, and room for other schemes. */
const mostSignatures = 8

/** Standard Webhooks: any `v1a` signature in the header by any key published. The body is the payload as forwarded. */
function verifyWebhook(
  webhook: WebhookTriple,
  body: Uint8Array | undefined,
  trust: TrustMaterial,
  findings: Findings,
): void {
  const add = (name: CheckName, ok: boolean, detail: string) => findings.checks.push({ name, ok, detail })
  const timestampS = /^(0|[1-9]\d{0,15})$/.test(webhook.timestamp) ? Number(webhook.timestamp) : undefined
  if (body === undefined)
    return void add('webhook_signature', false, 'there is no payload to check the signature against')
  if (timestampS === undefined || !/^msg_[A-Za-z0-9_-]{1,64}$/.test(webhook.id)) {
    return void add('webhook_signature', false, 'the id or the timestamp is not of the form we sign')
  }
  const input = webhookSigningInput(webhook.id, timestampS, body)
  const signatures = webhook.signature.split(' ', mostSignatures).flatMap((item) => {
    const [version, text, ...rest] = item.split(',')
    if (version !== 'v1a' || text === undefined || rest.length > 0) return []
    const signature = Buffer.from(text, 'base64')
    return signature.length === 64 && signature.toString('base64') === text ? [signature] : []
  })
  const signers = trust
    .keys()
    .filter((key) => signatures.some((signature) => verify(null, input, key.publicKey, signature)))
  // In an overlap two keys may have signed. The one that was active vouches; the other is for who has pinned it.
  const signer = signers.find((key) => stateProblem(key, timestampS, undefined, 'at once') === undefined) ?? signers[0]
  if (signer === undefined)
    return void add('webhook_signature', false, 'no published key made this signature over these bytes')
  add('webhook_signature', true, `signed by key ${signer.kid}`)
  findings.key ??= { kid: signer.kid }
  const problem = stateProblem(signer, timestampS, undefined, 'at once')
  add('webhook_key_state', problem === undefined, problem ?? 'the key was active when the request was signed')
}
