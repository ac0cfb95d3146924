import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto'
import { publicJwk, rawPublicKey, thumbprint } from '../../src/keyring/jwk.ts'
import { receiptHeader } from '../../src/keyring/jws.ts'
import { jwsSigningInput } from '../../src/keyring/signing-input.ts'
import { signCheckpoint } from '../../src/log/checkpoint.ts'
import type { Cosigner } from '../../src/log/cosigner.ts'
import { makeNoteSigner, makeVerifierKey } from '../../src/log/note.ts'
import { entryOf, state } from '../../src/log/statement.ts'
import { formatProof } from '../../src/log/tlog-proof.ts'
import { hashLeaf, TreeEdge } from '../../src/log/tree.ts'
import { canonicalizePayload } from '../../src/message/canonical.ts'
import { sha256 } from '../../src/message/digest.ts'
import { parseJson } from '../../src/message/json.ts'
import type { MessageReceipt, SubjectReceipt } from '../../src/receipt/receipt.ts'

export const issuer = 'http://localhost:8080'
export const origin = 'localhost:8080/log'

/** When everything here is stated. */
export const now = new Date('2026-03-01T12:00:00Z')

/** A payload key, with its member of the JWKS. */
export function makePayloadKey() {
  const { privateKey } = generateKeyPairSync('ed25519')
  const jwk = publicJwk(rawPublicKey(privateKey))
  const kid = thumbprint(jwk)
  const activatedAtS = now.getTime() / 1000 - 3600
  return { privateKey, kid, published: { ...jwk, kid, use: 'sig', iat: activatedAtS, nbf: activatedAtS } }
}

/** A log key, with its vkey. */
export function makeLogKey(name = origin) {
  const { privateKey } = generateKeyPairSync('ed25519')
  return { signer: makeNoteSigner(name, privateKey), vkey: makeVerifierKey(name, rawPublicKey(privateKey)) }
}

/** The statement that `payload` was accepted as `id`. */
export function stateAccepted(id: string, payload: Uint8Array): Uint8Array {
  const canonical = canonicalizePayload(parseJson(payload))
  const digests = {
    bytes: canonical.length,
    sha256: sha256(canonical).toString('base64url'),
    received_sha256: sha256(payload).toString('base64url'),
  }
  const parties = { tenant: 'ten_1', source: 'src_1', actor: 'key_1' }
  const request = { id: 'req_1', address: '192.0.2.1' }
  return state(issuer, { kind: 'message.accepted', sub: id, ...parties, request, payload: digests }, now).statement
}

/** The three parts of a receipt's compact form. */
export function signReceipt(statement: Uint8Array, { kid, privateKey }: { kid: string; privateKey: KeyObject }) {
  const header = receiptHeader(kid)
  const payload = Buffer.from(statement).toString('base64url')
  const signature = sign(null, jwsSigningInput(header, payload), privateKey).toString('base64url')
  return { protected: header, payload, signature }
}

/** A receipt whose statement is the last of a log of five leaves, at a checkpoint that these witnesses cosigned. */
export function makeReceipt(
  id: string,
  payload: Uint8Array,
  keys: { payloadKey: ReturnType<typeof makePayloadKey>; logKey: ReturnType<typeof makeLogKey> },
  witnesses: readonly Cosigner[] = [],
): MessageReceipt {
  return { message: id, ...logged(stateAccepted(id, payload), keys, witnesses) }
}

/** The receipt that source `id` was created, which is the last of a log of five leaves likewise. */
export function makeSourceReceipt(id: string, keys: Parameters<typeof makeReceipt>[2]): SubjectReceipt {
  const stated = state(issuer, { kind: 'source.created', sub: id, tenant: 'ten_1', actor: 'key_1', settings: {} }, now)
  return { subject: id, ...logged(stated.statement, keys) }
}

function logged(statement: Uint8Array, keys: Parameters<typeof makeReceipt>[2], witnesses: readonly Cosigner[] = []) {
  const entries = [...['a', 'b', 'c', 'd'].map((text) => sha256(Buffer.from(text))), entryOf(statement)]
  const { edge, prove } = TreeEdge.empty.append(entries.map(hashLeaf))
  const { treeSize, rootHash } = edge
  const checkpoint = signCheckpoint({ origin, treeSize, rootHash }, [
    keys.logKey.signer,
    ...witnesses.map((witness) => witness.at(now)),
  ])
  const proof = formatProof({ leafIndex: 4, proof: prove(4), checkpoint })
  return { ...signReceipt(statement, keys.payloadKey), header: { 'tlog-proof': proof } }
}
