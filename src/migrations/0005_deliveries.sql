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
  attempts    jsonb not null,
  abandoned_leaf bigint,                          -- of the statement that it was given up
  check ((state = 'abandoned') = (abandoned_leaf is not null))
);
create index settled_deliveries_by_message on settled_deliveries (message_id);
