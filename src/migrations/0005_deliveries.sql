-- The queue: what is owed and not settled. A row is written with its message, and deleted when it is settled, so that
-- claiming costs what is due and not what there ever was.
create table deliveries (
  id              text collate "C" primary key,   -- by age
  tenant_id       text collate "C" not null,
  message_id      text collate "C" not null,
  endpoint_id     text collate "C" not null,
  -- Falls due then. A claim moves that into the future, as a lease; one that is not answered for falls due again by
  -- itself.
  next_attempt_at timestamptz not null,
  claim           text,
  -- Null: nothing but its time. 'endpoint': its endpoint, in whose backlog it is. 'turn': an older delivery of the same
  -- order key, which is still pending.
  waits_for       text collate "C" check (waits_for in ('endpoint', 'turn')),
  order_key       text collate "C",               -- those alike go one after the other; null: in any order
  position        bigint,                         -- where order_key is not null: the leaf of the message, which is the order
  attempts        jsonb not null default '[]',
  replay          text collate "C",               -- what it was replayed by; null: owed when its message was accepted
  expires_at      timestamptz not null,           -- its message's, for the row that it leaves when it is settled
  check ((order_key is null) = (position is null))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);   -- every row dies young
-- What waits for its endpoint or its turn is not in here: a backlog of millions costs a claim nothing.
create index deliveries_due on deliveries (next_attempt_at) where waits_for is null;
create index deliveries_backlog on deliveries (endpoint_id, id) where waits_for = 'endpoint';
create index deliveries_in_order on deliveries (endpoint_id, order_key, position, id) where order_key is not null;
create index deliveries_by_message on deliveries (message_id);
create index deliveries_by_endpoint on deliveries (endpoint_id, id);

-- One row for each endpoint that has a backlog: deliveries that this or that process had no room for, that must not
-- exceed a rate, that keep an order, or whose endpoint is paused or fails.
create table endpoint_backlogs (
  endpoint_id text collate "C" primary key,
  tenant_id   text collate "C" not null,
  drain_at    timestamptz not null,               -- looked at again then
  not_before  timestamptz,                        -- and no earlier, whatever comes into it meanwhile
  paid_until  timestamptz                         -- a rate limit: what was let through is paid for at that time
);
create index endpoint_backlogs_due on endpoint_backlogs (drain_at);

-- One row for each endpoint that fails, shared by all processes (delivery/breaker.ts); none for one that is well.
create table endpoint_health (
  endpoint_id    text collate "C" primary key,
  tenant_id      text collate "C" not null,
  failures       bigint not null,
  failing_since  timestamptz,
  last_failed_at timestamptz,
  trips          bigint not null,
  open_until     timestamptz,
  held_until     timestamptz,
  stage          bigint not null default 0,       -- how much the tenant was told
  changed_at     timestamptz not null default clock_timestamp()   -- by the database's own clock: others read what is new
);
create index endpoint_health_changed on endpoint_health (changed_at);

-- Messages of a range of leaves, for the reconciler: they are stored in that order, so it is enough to know the blocks.
create index messages_by_leaf on messages using brin (leaf_index) with (autosummarize = on, pages_per_range = 64);

-- How many deliveries the messages of a batch are owed, until the reconciler has found them.
create table owed_deliveries (
  first_leaf bigint primary key,
  last_leaf  bigint not null,
  deliveries bigint not null,
  owed_at    timestamptz not null
);

-- What became of them. Written once, kept as long as the message and partitioned like it (0004_messages.sql). An id is
-- unique over all months because it comes here only by being deleted from the queue, where it is the key.
create table settled_deliveries (
  id          text collate "C" not null,
  tenant_id   text collate "C" not null,
  message_id  text collate "C" not null,
  endpoint_id text collate "C" not null,
  state       text not null check (state in ('delivered', 'abandoned')),
  attempts    jsonb not null,
  replay      text collate "C",
  abandoned_leaf bigint,                          -- of the statement that it was given up
  expires_at  timestamptz not null,
  primary key (id, expires_at),
  check ((state = 'abandoned') = (abandoned_leaf is not null))
) partition by range (expires_at);
create index settled_deliveries_by_message on settled_deliveries (message_id);
create index settled_deliveries_by_endpoint on settled_deliveries (endpoint_id, state, id);

-- How answers to attempts that failed begin: at most 4 KiB each, sealed. The digest of the whole is in `attempts`. They
-- are kept from the attempt on for as long as a payload; that a leaf is here once is as true as that it is given out once.
create table answers (
  leaf_index bigint not null,                     -- of the statement of the attempt
  tenant_id  text collate "C" not null,
  sealed     bytea not null,
  expires_at timestamptz not null,
  primary key (leaf_index, expires_at)
) partition by range (expires_at);
alter table answers alter column sealed set storage external;   -- sealed bytes do not compress

-- Replays of ranges, one row each for ever. A running one is claimed as deliveries are: by moving `next_at`, as a lease.
create table replays (
  id            text collate "C" primary key,
  tenant_id     text collate "C" not null,
  endpoint_id   text collate "C" not null,
  source_id     text collate "C",
  accepted_from timestamptz not null,
  accepted_to   timestamptz not null,
  outcome       text not null check (outcome in ('delivered', 'abandoned', 'any')),
  rate          bigint not null check (rate > 0),
  state         text not null default 'running' check (state in ('running', 'finished', 'cancelled')),
  found         bigint not null,
  replayed      bigint not null default 0,
  skipped       bigint not null default 0,
  cursor        text collate "C" not null default '',   -- the last delivery that was replayed or skipped
  next_at       timestamptz not null,
  claim         text,
  requested_at  timestamptz not null,
  finished_at   timestamptz,
  check ((state = 'running') = (finished_at is null))
);
create index replays_due on replays (next_at) where state = 'running';
