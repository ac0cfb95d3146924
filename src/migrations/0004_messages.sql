create table messages (
  id               text collate "C" primary key,
  tenant_id        text collate "C" not null,
  source_id        text collate "C" not null,
  leaf_index       bigint not null,
  accepted_at      timestamptz not null,
  idempotency_hash bytea,                         -- SHA-256 of the Idempotency-Key, or the identity of a signed request
  content_type     text,                          -- of exact bytes; null for canonical JSON
  payload          bytea not null                 -- sealed canonical payload, or the sealed bytes as posted
);
create unique index messages_by_idempotency on messages (source_id, idempotency_hash)
  where idempotency_hash is not null;
alter table messages alter column payload set storage external;   -- sealed bytes do not compress
