-- Identifiers are text under the "C" collation: compared byte by byte, they sort in the order they were made.
-- Everything a tenant would call content is sealed (keyring/vault.ts) before it comes here.

-- The head of the log, one row. A batch locks it, appends behind it and moves it on, all in one transaction; so whoever
-- holds the lock knows the tree, however many relay processes there are.
create table log (
  only_row      boolean primary key default true check (only_row),
  issuer        text not null,                -- `iss` of every statement; fixed when the log is created
  origin        text not null,                -- names the log in every checkpoint; fixed likewise
  tree_size     bigint not null check (tree_size >= 0),
  root_hash     bytea not null check (length(root_hash) = 32),
  checkpoint    text not null,                -- the signed note over (origin, tree_size, root_hash)
  configuration bigint not null default 0     -- counts administrative changes: caches are as old as the count they saw
) with (fillfactor = 20);                     -- rewritten by every batch: room on the page keeps that a HOT update

-- One leaf. The entry stays for ever; the sealed statement may expire or become unreadable with its data key.
create table statements (
  leaf_index bigint primary key check (leaf_index >= 0),
  tenant_id  text collate "C",                -- null: deployment-wide
  entry      bytea not null check (length(entry) = 32),
  sealed     bytea not null,
  kid        text collate "C",                -- who signed the statement, and how, where a receipt was issued with it
  signature  bytea,
  check ((kid is null) = (signature is null))
);

-- Full tiles only (256 hashes); partial ones are read from the rows above. root_hash is the tile's hash one level up.
create table tiles (
  level      smallint not null,
  tile_index bigint not null,
  hashes     bytea not null check (length(hashes) = 8192),
  root_hash  bytea not null check (length(root_hash) = 32),
  primary key (level, tile_index)
);
create table entry_bundles (
  tile_index bigint primary key,
  entries    bytea not null check (length(entries) = 8192)
);
alter table tiles alter column hashes set storage external;
alter table entry_bundles alter column entries set storage external;

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

create table tenants (
  id            text collate "C" primary key,
  name          text not null,
  tier          text not null check (tier in ('standard', 'operation')),
  created_at    timestamptz not null,
  configuration bigint not null                   -- the value of log.configuration at this tenant's latest change
);
create index tenants_by_configuration on tenants (configuration);

create table sources (
  id         text collate "C" primary key,
  tenant_id  text collate "C" not null references tenants,
  name       text not null,
  created_at timestamptz not null
);
create index sources_by_tenant on sources (tenant_id, id);

create table endpoints (
  id         text collate "C" primary key,
  tenant_id  text collate "C" not null references tenants,
  url        text not null,
  name       text not null,
  created_at timestamptz not null,
  deleted_at timestamptz
);
create index endpoints_by_tenant on endpoints (tenant_id, id);

-- An admin key has no tenant. The secret is kept as its SHA-256: it has at least 190 bits, so nothing slower is needed.
create table api_keys (
  id          text collate "C" primary key,
  tenant_id   text collate "C" references tenants,
  source_id   text collate "C" references sources,
  role        text not null check (role in ('admin', 'tenant', 'ingest', 'export')),
  name        text not null,
  secret_hash bytea not null check (length(secret_hash) = 32),
  created_at  timestamptz not null,
  revoked_at  timestamptz,
  check ((role = 'admin') = (tenant_id is null)),
  check ((role = 'ingest') = (source_id is not null))
);
create index api_keys_by_tenant on api_keys (tenant_id, id);

create table messages (
  id               text collate "C" primary key,
  tenant_id        text collate "C" not null,
  source_id        text collate "C" not null,
  leaf_index       bigint not null,
  accepted_at      timestamptz not null,
  idempotency_hash bytea,                         -- SHA-256 of the Idempotency-Key
  payload          bytea not null                 -- sealed canonical payload
);
create unique index messages_by_idempotency on messages (source_id, idempotency_hash)
  where idempotency_hash is not null;
alter table messages alter column payload set storage external;   -- sealed bytes do not compress
alter table statements alter column sealed set storage external;

-- The queue: what is owed and not settled. A row is written with its message, and deleted when it is settled, so that
-- claiming costs what is due and not what there ever was.
create table deliveries (
  id              text collate "C" primary key,
  tenant_id       text collate "C" not null,
  message_id      text collate "C" not null,
  endpoint_id     text collate "C" not null,
  -- Falls due then. A claim moves that into the future, as a lease; one that is not answered for falls due again by
  -- itself.
  next_attempt_at timestamptz not null,
  claim           text,
  attempts        jsonb not null default '[]'
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);   -- every row dies young
create index deliveries_due on deliveries (next_attempt_at);
create index deliveries_by_message on deliveries (message_id);

-- What became of them. Written once.
create table settled_deliveries (
  id          text collate "C" primary key,
  tenant_id   text collate "C" not null,
  message_id  text collate "C" not null,
  endpoint_id text collate "C" not null,
  state       text not null check (state in ('delivered', 'abandoned')),
  attempts    jsonb not null
);
create index settled_deliveries_by_message on settled_deliveries (message_id);
