create table tenants (
  id            text collate "C" primary key,
  name          text not null,
  tier          text not null check (tier in ('standard', 'operation')),
  created_at    timestamptz not null,
  -- How long what is written from now on is kept. Longer than the least is the tenant's choice (log/retention.ts).
  payload_days     integer not null default 30 check (payload_days >= 30),
  statement_months integer not null default 12 check (statement_months >= 12),
  erased_at     timestamptz,                      -- its data key is destroyed and nothing else of it is left
  erased_leaf   bigint,                           -- the leaf that says so
  configuration bigint not null,                  -- the value of log.configuration at this tenant's latest change
  check ((erased_at is null) = (erased_leaf is null))
);
create index tenants_by_configuration on tenants (configuration);

create table sources (
  id         text collate "C" primary key,
  tenant_id  text collate "C" not null references tenants,
  name       text not null,
  settings   jsonb not null,                      -- what it takes and from whom; no secret in it
  secrets    bytea,                               -- of its scheme, sealed
  created_at timestamptz not null,
  deleted_at timestamptz
);
create index sources_by_tenant on sources (tenant_id, id);

-- For vendors that can be given a URL and nothing else. The token is kept as its SHA-256, as the secret of an API key is.
create table ingest_urls (
  id         text collate "C" primary key,
  tenant_id  text collate "C" not null references tenants,
  source_id  text collate "C" not null references sources,
  token_hash bytea not null unique check (length(token_hash) = 32),
  created_at timestamptz not null,
  revoked_at timestamptz
);
create index ingest_urls_by_source on ingest_urls (source_id) where revoked_at is null;

create table endpoints (
  id         text collate "C" primary key,
  tenant_id  text collate "C" not null references tenants,
  name       text not null,
  sealed     bytea not null,              -- URL, headers, secrets, TLS: what tenant/records.ts calls EndpointSecrets
  options    jsonb not null,              -- EndpointOptions; what a row does not say is the default
  revision   integer not null default 1,  -- counts changes of the above, so that two at once cannot undo each other
  created_at timestamptz not null,
  paused_at  timestamptz,
  paused_reason text,
  deleted_at timestamptz,
  check ((paused_at is null) = (paused_reason is null))
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
