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

-- One leaf. The entry stays for ever, in a bundle; the sealed statement expires, or becomes unreadable with its data key.
--
-- Partitioned by the month in which rows expire, not by that in which they were stated: a tenant that keeps statements
-- for three years shares no partition with those that keep them for one, and what is over is dropped whole
-- (0007_roles.sql). A unique index must contain the partition key, so the key below does not exclude the same leaf in two
-- months. What does is the head: leaves are given out under its compare-and-swap, each once.
create table statements (
  leaf_index bigint not null check (leaf_index >= 0),
  tenant_id  text collate "C",                -- null: deployment-wide
  stated_at  timestamptz not null,            -- its iat
  kind       text collate "C" not null,       -- these three are what the audit log is filtered by
  actor      text collate "C",
  entry      bytea not null check (length(entry) = 32),
  sealed     bytea not null,
  kid        text collate "C",                -- who signed the statement, and how, where a receipt was issued with it
  signature  bytea,
  expires_at timestamptz not null,            -- log/retention.ts
  primary key (leaf_index, expires_at),
  check ((kid is null) = (signature is null))
) partition by range (expires_at);

create index statements_by_tenant on statements (tenant_id, leaf_index);
alter table statements alter column sealed set storage external;   -- sealed bytes do not compress

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

-- Checkpoints as they were published, with the cosignatures of witnesses, where there are any: the newest, and older
-- ones that more witnesses cosigned. Nothing here is appended to: it is a copy that can be asked for again.
create table cosigned_checkpoints (
  tree_size    bigint primary key check (tree_size >= 0),
  root_hash    bytea not null check (length(root_hash) = 32),
  cosignatures integer not null check (cosignatures >= 0),
  note         text not null                 -- the signed note, with a line for each witness
);
