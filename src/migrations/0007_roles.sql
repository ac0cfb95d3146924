-- Who may do what in the database. The relay's login does not act under its own name: its pool runs as countersign_relay,
-- which can add to the log and neither change nor remove what is there; what it reads for a tenant, it reads as
-- countersign_reader, which sees the rows of that tenant only. The tables of the log belong to countersign_owner, which
-- nobody logs in as; making and dropping monthly partitions goes through its functions below.
--
-- Whoever is superuser can undo all of this. That is found out (log/README.md); these rules keep everybody else from it.

-- Roles are shared by all databases of a cluster: another one may have made them, or be making them at this moment.
do $$
declare
  role_name text;
begin
  foreach role_name in array array['countersign_owner', 'countersign_relay', 'countersign_reader'] loop
    if not exists (select from pg_roles where rolname = role_name) then
      begin
        execute format('create role %I nologin', role_name);
      exception when duplicate_object or unique_violation then
        null;
      end;
    end if;
    begin
      execute format('set local role %I', role_name);
      reset role;
    exception when insufficient_privilege then
      begin
        execute format('grant %I to %I', role_name, current_user);
      exception when unique_violation then
        null;
      end;
    end;
  end loop;
exception when insufficient_privilege then
  raise insufficient_privilege using message = format(
    'The login %1$I may not create the roles that the relay runs under. Let an administrator of the cluster run this ' ||
    'once, and start again: create role countersign_owner nologin; create role countersign_relay nologin; ' ||
    'create role countersign_reader nologin; ' ||
    'grant countersign_owner, countersign_relay, countersign_reader to %1$I;', current_user);
end
$$;

revoke create on schema public from public;
grant usage on schema public to countersign_relay, countersign_reader;
grant usage, create on schema public to countersign_owner;

-- The relay: everything it does in tables that are not the log, nothing but additions in those that are. The head is
-- the one row of the log that moves.
grant select, insert, update, delete on all tables in schema public to countersign_relay;
alter default privileges in schema public grant select, insert, update, delete on tables to countersign_relay;
revoke update, delete on statements, messages, payloads, idempotency_keys, settled_deliveries, answers, tiles, entry_bundles
  from countersign_relay;
revoke delete on log, tenants, keys from countersign_relay;
revoke insert, update, delete on schema_migrations from countersign_relay;

-- Each tenant's rows, and which is which: enforced even for the owner of the table. Rows of the whole deployment have no
-- tenant, so no reader sees them.
do $$
declare
  relation regclass;
  tenant   text;
begin
  for relation, tenant in
    select c.oid::regclass, a.attname
      from pg_class c join pg_attribute a on a.attrelid = c.oid
     where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
       and a.attname = case c.relname when 'tenants' then 'id' else 'tenant_id' end
  loop
    execute format('alter table %s enable row level security', relation);
    execute format('alter table %s force row level security', relation);
    execute format('create policy everyone on %s to countersign_relay, countersign_owner using (true)', relation);
    execute format(
      'create policy one_tenant on %s for select to countersign_reader using (%I = nullif(current_setting(''countersign.tenant'', true), ''''))',
      relation, tenant);
    if relation not in ('api_keys'::regclass, 'ingest_urls'::regclass) then   -- what opens doors, if only as a hash
      execute format('grant select on %s to countersign_reader', relation);
    end if;
  end loop;
end
$$;
grant select on log, tiles, entry_bundles to countersign_reader;   -- public anyway: what a tenant's proofs are made of

-- A rule for everyone, superusers included, whatever session_replication_role says.
create function refuse_change() returns trigger language plpgsql as $$
begin
  raise insufficient_privilege using message = format('%s on %s: the log is append-only', tg_op, tg_table_name);
end
$$;

do $$
declare
  relation text;
begin
  foreach relation in array array['statements', 'messages', 'payloads', 'idempotency_keys', 'settled_deliveries', 'answers',
                                  'tiles', 'entry_bundles'] loop
    -- Row by row, since such a trigger also holds for a partition that is addressed by its own name.
    execute format('create trigger append_only before update or delete on %I for each row execute function refuse_change()', relation);
    execute format('alter table %I enable always trigger append_only', relation);
  end loop;
  foreach relation in array array['statements', 'messages', 'payloads', 'idempotency_keys', 'settled_deliveries', 'answers',
                                  'tiles', 'entry_bundles', 'log'] loop
    execute format('create trigger never_empty before truncate on %I execute function refuse_change()', relation);
    execute format('alter table %I enable always trigger never_empty', relation);
    execute format('alter table %I owner to countersign_owner', relation);
  end loop;
end
$$;
create trigger never_gone before delete on log for each row execute function refuse_change();
alter table log enable always trigger never_gone;

-- What is in monthly partitions.
create function kept_for_a_time() returns text[]
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select array['statements', 'messages', 'payloads', 'idempotency_keys', 'settled_deliveries', 'answers']
$$;

-- Partitions: made by anyone who writes, dropped when their month is over. Nobody has rights on a partition itself, so
-- they are reached through their table alone, with its policies.
create function make_partition(parent text, month date) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  partition text := format('%s_%s', parent, to_char(month, 'YYYYMM'));
begin
  if parent <> all (kept_for_a_time()) or month <> date_trunc('month', month) then
    raise invalid_parameter_value using message = format('no partition of %s begins at %s', parent, month);
  end if;
  perform pg_advisory_xact_lock(4857264073);   -- processes that need the same one at once
  if to_regclass(partition) is not null then
    return;
  end if;
  -- Attaching a finished table, rather than making it in place, lets others go on writing.
  execute format('create table %I (like %I including all)', partition, parent);
  execute format('create trigger never_empty before truncate on %I execute function refuse_change()', partition);
  execute format('alter table %I enable always trigger never_empty', partition);
  execute format('alter table %I attach partition %I for values from (%L) to (%L)', parent, partition,
                 month::timestamp at time zone 'UTC', (month + interval '1 month') at time zone 'UTC');
end
$$;

-- What a message id that was made at `at` begins with: 48 bits of milliseconds in Crockford's base 32 (message/id.ts).
create function message_id_at(at timestamptz) returns text
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select 'msg_' || string_agg(substr('0123456789abcdefghjkmnpqrstvwxyz',
                                     1 + ((extract(epoch from at) * 1000)::bigint >> (5 * (9 - digit)) & 31)::integer, 1),
                              '' order by digit)
    from generate_series(0, 9) digit
$$;

-- The partitions whose month is over at `at`, and by the database's own clock, whatever the relay thinks the time is; and
-- why one must stay a while: a leaf of it is in no full bundle of entries yet, or a message of it is still owed.
create function expired_partitions(at timestamptz)
returns table (parent text, month date, row_count bigint, first_leaf bigint, last_leaf bigint, held_by text)
language plpgsql security definer set search_path = public, pg_temp as $$
declare
  partition regclass;
begin
  for parent, month, partition in
    select p.relname, to_date(right(c.relname, 6), 'YYYYMM'), c.oid
      from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
     where p.relname = any (kept_for_a_time()) and c.relkind = 'r'
       and p.relnamespace = 'public'::regnamespace
     order by 2, 1
  loop
    continue when (month + interval '1 month') at time zone 'UTC' > least(at, now());
    execute format('select count(*) from %s', partition) into row_count;
    first_leaf := null;
    last_leaf := null;
    held_by := null;
    if parent in ('statements', 'messages', 'payloads', 'answers') then
      execute format('select min(leaf_index), max(leaf_index) from %s', partition) into first_leaf, last_leaf;
    end if;
    if parent = 'statements' then
      held_by := (select 'bundle' from log where last_leaf >= tree_size - tree_size % 256);
    elsif parent in ('messages', 'payloads') then
      -- Nothing is kept for less than 30 days, which leaves few deliveries to look at.
      execute format(
        'select ''delivery'' where exists
           (select from deliveries d join messages m on m.id = d.message_id
             where d.message_id < $1 and m.leaf_index in (select leaf_index from %s))', partition)
         into held_by using message_id_at((month + interval '1 month') at time zone 'UTC' - interval '30 days');
    elsif parent = 'settled_deliveries' then
      -- What is still owed will need its place here. No message is kept for less than a year.
      held_by := (select 'delivery' where exists
        (select from deliveries d
          where d.message_id < message_id_at((month + interval '1 month') at time zone 'UTC' - interval '365 days')
            and d.expires_at < (month + interval '1 month') at time zone 'UTC'));
    end if;
    return next;
  end loop;
end
$$;

-- Waits a moment for readers and no longer: everyone who writes waits behind it.
create function drop_partition(parent text, month date) returns void
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '3s' as $$
begin
  if not exists (select from expired_partitions(now()) e
                  where e.parent = $1 and e.month = $2 and e.held_by is null) then
    raise object_not_in_prerequisite_state using message = format('the partition of %s for %s must stay', $1, $2);
  end if;
  execute format('drop table %I', format('%s_%s', $1, to_char($2, 'YYYYMM')));
end
$$;

grant select on deliveries to countersign_owner;   -- to know what is still owed
revoke execute on function kept_for_a_time, make_partition, expired_partitions, drop_partition from public;
grant execute on function make_partition, expired_partitions, drop_partition to countersign_relay;
alter function kept_for_a_time owner to countersign_owner;
alter function make_partition owner to countersign_owner;
alter function expired_partitions owner to countersign_owner;
alter function drop_partition owner to countersign_owner;
