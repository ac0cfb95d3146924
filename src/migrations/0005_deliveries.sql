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
  check ((order_key is null) = (position is null))
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);   -- every row dies young
-- What waits for its endpoint or its turn is not in here: a backlog of millions costs a claim nothing.
create index deliveries_due on deliveries (next_attempt_at) where waits_for is null;
create index deliveries_backlog on deliveries (endpoint_id, id) where waits_for = 'endpoint';
create index deliveries_in_order on deliveries (endpoint_id, order_key, position, id) where order_key is not null;
create index deliveries_by_message on deliveries (message_id);

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

-- What became of them. Written once.
create table settled_deliveries (
  id          text collate "C" primary key,
  tenant_id   text collate "C" not null,
  message_id  text collate "C" not null,
  endpoint_id text collate "C" not null,
  state       text not null check (state in ('delivered', 'abandoned')),
  attempts    jsonb not null,
  abandoned_leaf bigint,                          -- of the statement that it was given up
  check ((state = 'abandoned') = (abandoned_leaf is not null))
);
create index settled_deliveries_by_message on settled_deliveries (message_id);
