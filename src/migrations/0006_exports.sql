-- What each `tenant.head` said (log/tenant-heads.ts). Kept for ever: the next head goes on from the one before, also
-- when the statements that it counted have expired.
create table tenant_heads (
  tenant_id  text collate "C" not null,
  leaf_index bigint not null,                     -- of its statement
  upto       bigint not null check (upto <= leaf_index),
  digest     bytea not null check (length(digest) = 32),
  made_at    timestamptz not null,
  primary key (tenant_id, upto, leaf_index)
);

-- Exports, and how far each is. What is written stands in the object store, in parts; a row that is leased and not
-- saved in time falls to another process, which goes on behind the last part that is recorded here.
create table exports (
  id           text collate "C" primary key,
  tenant_id    text collate "C" not null references tenants,
  wish         jsonb not null,                    -- as it was asked for: ExportWish
  requested_at timestamptz not null,
  state        text not null check (state in ('pending', 'running', 'done', 'failed')),
  plan         jsonb,                             -- fixed when it begins: ExportPlan
  progress     jsonb,                             -- behind the last part: ExportProgress
  parts        jsonb not null default '[]',       -- [{"key", "bytes"}], bytes before sealing
  sha256       bytea,                             -- of the whole file
  finished_at  timestamptz,
  failures     integer not null default 0,
  reason       text,                              -- why it failed, for the tenant
  holder       text,
  leased_until timestamptz,
  check ((state in ('done', 'failed')) = (finished_at is not null)),
  check ((state = 'done') = (sha256 is not null)),
  check ((state = 'failed') = (reason is not null)),
  check ((plan is null) = (progress is null))
);
create index exports_by_tenant on exports (tenant_id, id);
create index exports_unfinished on exports (id) where state in ('pending', 'running');
