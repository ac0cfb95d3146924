-- What is known of a message, kept as long as its statement and partitioned like it (0001_log.sql): by the month in which
-- rows expire. Unique over all months are the identifier, by its 80 random bits, and (source_id, idempotency_hash), which
-- is asked about under the lock of the head.
create table messages (
  id               text collate "C" not null,
  tenant_id        text collate "C" not null,
  source_id        text collate "C" not null,
  leaf_index       bigint not null,
  accepted_at      timestamptz not null,
  idempotency_hash bytea,                         -- SHA-256 of the Idempotency-Key
  expires_at       timestamptz not null,
  primary key (id, expires_at)
) partition by range (expires_at);
create index messages_by_idempotency on messages (source_id, idempotency_hash)
  where idempotency_hash is not null;

-- Its sealed canonical payload, which expires sooner.
create table payloads (
  leaf_index bigint not null,
  sealed     bytea not null,
  expires_at timestamptz not null,
  primary key (leaf_index, expires_at)
) partition by range (expires_at);
alter table payloads alter column sealed set storage external;   -- sealed bytes do not compress
