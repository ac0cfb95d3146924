-- Signing keys, for payloads and for the log. The public half and the times are kept for ever. A time may lie ahead:
-- activation is put on record before it happens, so that every process switches at the same moment.
create table keys (
  kid             text collate "C" primary key,   -- RFC 7638 thumbprint
  serial          text not null unique,           -- known before the key exists, so that wrapping can bind to it
  purpose         text not null check (purpose in ('payload', 'log')),
  public_key      bytea not null check (length(public_key) = 32),
  wrapped_seed    bytea,                          -- null once destroyed
  wrapping_key    text not null,
  wrapping_version text,                          -- of the wrapping key, where the wrapper can tell
  generated_at    timestamptz not null,
  activated_at    timestamptz,
  retiring_at     timestamptz,
  retired_at      timestamptz,
  revoked_at      timestamptz,                    -- nothing it signed from then on counts
  revoked_reason  text,
  revoked_leaf    bigint,                         -- the leaf that says so: what is older in the log was signed before
  check (retiring_at is null or activated_at is not null),
  check (retired_at is null or wrapped_seed is null),
  check ((revoked_at is null) = (revoked_leaf is null))
);
create unique index one_active_key on keys (purpose)
  where activated_at is not null and retiring_at is null and revoked_at is null;

-- The relay processes that are alive, and the signing keys each has unwrapped: a key signs only once all have it.
create table processes (
  id      text collate "C" primary key,
  seen_at timestamptz not null,
  kids    jsonb not null
);

-- Keys that seal data at rest: one per tenant, and one for the deployment (tenant_id '').
create table data_keys (
  tenant_id    text collate "C" primary key,
  wrapped      bytea not null,
  wrapping_key text not null,
  created_at   timestamptz not null
);
