-- What is known of a message, kept as long as its statement and partitioned like it (0001_log.sql): by the month in which
-- rows expire. An identifier is unique over all months by its 80 random bits.
create table messages (
  id           text collate "C" not null,
  tenant_id    text collate "C" not null,
  source_id    text collate "C" not null,
  leaf_index   bigint not null,
  accepted_at  timestamptz not null,
  content_type text,                              -- of exact bytes; null for canonical JSON
  expires_at   timestamptz not null,
  primary key (id, expires_at)
) partition by range (expires_at);

-- The Idempotency-Keys of the last 30 days, as SHA-256, or the identities of signed requests. Asked about under the lock of
-- the head, which is what makes a key unique over the two or three months there are.
create table idempotency_keys (
  source_id  text collate "C" not null,
  key_hash   bytea not null check (length(key_hash) = 32),
  message_id text collate "C" not null,
  expires_at timestamptz not null,
  primary key (source_id, key_hash, expires_at)
) partition by range (expires_at);

-- Its payload, canonical or the bytes as posted, sealed. Expires sooner.
create table payloads (
  leaf_index bigint not null,
  sealed     bytea not null,
  expires_at timestamptz not null,
  primary key (leaf_index, expires_at)
) partition by range (expires_at);
alter table payloads alter column sealed set storage external;   -- sealed bytes do not compress
