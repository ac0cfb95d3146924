import { receiptHeader } from '../keyring/jws.ts'
import type { Keyring } from '../keyring/keyring.ts'
import { jwsSigningInput } from '../keyring/signing-input.ts'
import { canonicalJson } from '../message/canonical.ts'
import { sha256 } from '../message/digest.ts'
import { Randomness } from '../message/randomness.ts'

declare const exact: unique symbol

/** The exact RFC 8785 bytes of one audit event, salt included. Only {@link state} makes them. */
export type Statement = Uint8Array & { readonly [exact]: 'statement' }

/**
 * One fact we vouch for. Kinds are `noun.verb`; `sub` names what the fact is about; `tenant` is absent where the fact
 * belongs to the whole deployment. Members are what the statement carries beside `v`, `iss`, `iat` and `salt`.
 */
export type AuditEvent =
  | { kind: 'log.created'; sub: string; vkey: string }
  | KeyEvent<'key.generated' | 'key.retired' | 'key.rewrapped'>
  /** Signs from `from` (RFC 3339) on; `predecessor` stops then. */
  | (KeyEvent<'key.activated'> & { from: string; predecessor?: string })
  | (KeyEvent<'key.revoked'> & { from: string; reason: string })
  /** `sub` is the tenant whose data key it is; empty for the deployment's own. */
  | { kind: 'data_key.rewrapped'; sub: string; wrapping_key: string }
  | { kind: 'tenant.created'; sub: string; tenant: string; actor: string; tier: string }
  /** As it is afterwards. */
  | {
      kind: 'tenant.updated'
      sub: string
      tenant: string
      actor: string
      tier: string
      payload_days: number
      statement_months: number
    }
  /** Of the deployment, not of the tenant: it must stay readable when the tenant's data key is gone. */
  | { kind: 'tenant.erased'; sub: string; actor: string }
  /** `sub` is what was dropped: all of it that expired before `expired_before` (RFC 3339). */
  | {
      kind: 'retention.applied'
      sub: 'statements' | 'messages' | 'payloads' | 'idempotency_keys' | 'settled_deliveries' | 'answers'
      expired_before: string
      rows: number
      /** The leaves of the rows dropped lie between these; absent where there was none. */
      first_leaf?: number
      last_leaf?: number
    }
  /** `settings` are the source's own, as tenants read them; of secrets there are only hints in them. */
  | { kind: 'source.created' | 'source.updated'; sub: string; tenant: string; actor: string; settings: object }
  | { kind: 'source.deleted'; sub: string; tenant: string; actor: string }
  /** An ingest URL of `source`, without its token. */
  | { kind: 'ingest_url.created' | 'ingest_url.revoked'; sub: string; tenant: string; actor: string; source: string }
  | {
      kind: 'endpoint.created' | 'endpoint.updated'
      sub: string
      tenant: string
      actor: string
      /** Digests are base64url SHA-256: of the URL, and of the RFC 8785 bytes of `{ca, certificate, key}`. */
      url_sha256: string
      tls_sha256?: string
      /** As tenant/records.ts has them. */
      options: object
      /** Names of the custom headers. */
      headers: readonly string[]
    }
  | { kind: 'endpoint.secret_rotated'; sub: string; tenant: string; actor: string; previous_until: string }
  /** It has had no success since `since` (RFC 3339); `stage` counts how often that was said. */
  | { kind: 'endpoint.failing'; sub: string; tenant: string; since: string; stage: number }
  | { kind: 'endpoint.paused'; sub: string; tenant: string; actor: string; reason: string }
  | { kind: 'endpoint.resumed' | 'endpoint.deleted'; sub: string; tenant: string; actor: string }
  | {
      kind: 'api_key.created'
      sub: string
      tenant?: string
      actor: string
      role: string
      source?: string
    }
  | { kind: 'api_key.revoked'; sub: string; tenant?: string; actor: string }
  | {
      kind: 'message.accepted'
      sub: string
      tenant: string
      source: string
      /** The API key, or the source itself where its scheme vouches for the post. */
      actor: string
      /** The call that brought it, which needs no `api.called` of its own. Absent where the relay itself made it. */
      request?: { id: string; address: string }
      /** That scheme. */
      authentication?: string
      /**
       * `bytes` counts the payload; the digests are base64url SHA-256, of it and of the bytes received. Canonical JSON
       * unless `canonicalization` is `none`: then payload and bytes received are the same, of media type `content_type`.
       */
      payload: {
        bytes: number
        sha256: string
        received_sha256: string
        canonicalization?: 'none'
        content_type?: string
      }
    }
  | ({ kind: 'api.called'; tenant?: string; actor: string; status: number } & Called & CallFacts)
  /** A call without a valid key. Strangers can make any number of them, so not each is stated: `suppressed` counts those
   *  of any address that this process did not state since the one it stated before. */
  | ({ kind: 'api.refused'; code: string; suppressed?: number } & Called)
  | {
      kind: 'delivery.attempted'
      sub: string
      tenant: string
      message: string
      endpoint: string
      attempt: number
      outcome: 'delivered' | 'refused' | 'unreachable'
      status?: number
      reason?: string
      duration_ms: number
      /** What came back, as far as it was read; `sha256` is base64url. */
      response?: { status?: number; bytes: number; sha256: string; incomplete?: true }
      /** The key that signed this attempt; absent where nothing was sent. */
      kid?: string
    }
  | {
      kind: 'delivery.abandoned'
      sub: string
      tenant: string
      message: string
      endpoint: string
      attempts: number
      reason: 'schedule_exhausted' | 'gone' | 'endpoint_deleted' | 'payload_expired' | 'tenant_erased'
    }
  | {
      /** The tenant's leaves in [`from`, `upto`) are `count`, and roll `previous`, the digest of all before them, on to
       *  `digest` (tenant-digest.ts); base64url. `from` is the `upto` of an earlier head, or 0. */
      kind: 'tenant.head'
      sub: string
      tenant: string
      from: number
      upto: number
      count: number
      previous: string
      digest: string
    }
  /** `from` and `to` are RFC 3339, as asked for. */
  | {
      kind: 'export.requested'
      sub: string
      tenant: string
      actor: string
      from?: string
      to?: string
      kinds?: readonly string[]
      compression: string
    }
  /** The file: its length, and its base64url SHA-256. */
  | { kind: 'export.finished'; sub: string; tenant: string; bytes: number; sha256: string }
  | { kind: 'export.failed'; sub: string; tenant: string; reason: string }
  /** The bytes sent for, from 0, the last included. */
  | { kind: 'export.downloaded'; sub: string; tenant: string; actor: string; first_byte: number; last_byte: number }
  | { kind: 'export.deleted'; sub: string; tenant: string; actor: string }
  /** `sub` repeats the delivery `repeats`: alone, as `actor` wished, or in the course of `replay`. */
  | (ReplayEvent<'delivery.replayed'> & { actor?: string; replay?: string })
  /** The payload of `sub` has expired, so `replay` went on without it. */
  | (ReplayEvent<'delivery.skipped'> & { replay: string })
  | {
      kind: 'replay.requested'
      sub: string
      tenant: string
      actor: string
      endpoint: string
      source?: string
      /** RFC 3339: of messages accepted from `from` to before `to`. */
      from: string
      to: string
      outcome: string
      /** Deliveries a second. */
      rate: number
    }
  | { kind: 'replay.cancelled'; sub: string; tenant: string; actor: string }
  | { kind: 'replay.finished'; sub: string; tenant: string }

interface ReplayEvent<Kind extends string> {
  kind: Kind
  sub: string
  tenant: string
  message: string
  endpoint: string
  repeats: string
}

interface Called {
  /** `req_…`, as the answer's `x-request-id` says. */
  sub: string
  address: string
  method: string
  /** The pattern, e.g. `/v1/messages/:message`; absent where the path is no route's. */
  route?: string
}

/** What some calls have to say beside. */
export interface CallFacts {
  /** Why it was refused: a code of the table of errors. */
  code?: string
  /** A post with an Idempotency-Key that was used before: the message it repeated. */
  message?: string
  /** Of a verification, and what the receipt was about, if its signature holds. */
  verdict?: string
  about?: string
}

interface KeyEvent<Kind extends string> {
  kind: Kind
  /** The kid. */
  sub: string
  purpose: string
  /** The public key, base64url. */
  x: string
  wrapping_key: string
  /** Of the wrapping key, where the wrapper can tell. */
  wrapping_version?: string
}

/** A statement, and what the audit log files it under. */
export interface Stated {
  readonly statement: Statement
  /** Whose data key seals it; null for the deployment's own. */
  readonly tenantId: string | null
  readonly kind: AuditEvent['kind']
  /** The API key that acted, as `key_<id>`; null where nobody did. */
  readonly actor: string | null
  /** Its `iat`: whole seconds. */
  readonly statedAt: Date
}

/** States `event`: adds version, issuer, time (unix seconds) and a fresh 16-byte salt, which makes the entry hiding. */
export function state(issuer: string, event: AuditEvent, now: Date): Stated {
  const iat = Math.floor(now.getTime() / 1000)
  return {
    statement: canonicalJson({ ...event, v: 1, iss: issuer, iat, salt: salts.text(16) }) as Statement,
    tenantId: ('tenant' in event ? event.tenant : undefined) ?? null,
    kind: event.kind,
    actor: ('actor' in event ? event.actor : undefined) ?? null,
    statedAt: new Date(iat * 1000),
  }
}

const salts = new Randomness(16 * 256)

/** What the log stores of a statement: its SHA-256, 32 bytes. */
export const entryOf = (statement: Uint8Array): Uint8Array => sha256(statement)

/** What a sealed statement is bound to. Its place in the log is not known when it is sealed; its entry binds that. */
export const statementContext = (tenantId: string | null): Uint8Array => Buffer.from(`statement\0${tenantId ?? ''}`)

/** A statement and the signature of the payload key that a receipt shows for it. */
export interface SignedStatement {
  readonly statement: Statement
  readonly kid: string
  /** 64 bytes, over the JWS signing input of {@link receiptHeader} and the statement. */
  readonly signature: Uint8Array
}

export async function signStatement(keyring: Keyring, statement: Statement): Promise<SignedStatement> {
  const payload = Buffer.from(statement).toString('base64url')
  return { statement, ...(await keyring.sign((kid) => jwsSigningInput(receiptHeader(kid), payload))) }
}
