-- Runs as it is under psql (in one transaction: psql -1 -v ON_ERROR_STOP=1 -f FILE), in the
-- Supabase SQL editor, through `supabase db push`, and by `npm run migrate`; on Postgres 15 or
-- newer, with the roles of a Supabase project or without.
--
-- Text that is a key, a filter or unique sorts by bytes (collate "C"): the order of lists is then
-- the same on every storage, and no index depends on the collations of the operating system.
-- Every list is served by an index that ends in (created_at, key); every filter by one that
-- starts with it.

-- Each migration records its own name here, whoever applies it; `npm run migrate` adds the checksum.
create table public.schema_migrations (
  version text collate "C" primary key,
  checksum text,
  applied_at timestamptz(3) not null default now()
);

-- The tables that the functions below may touch, and nothing else.
create table public.api_tables (
  name text collate "C" primary key,
  key_column text not null,
  -- The column that confines a row to its tenant; null where rows belong to none.
  scope_column text,
  -- The timestamp that lists are sorted by.
  order_column text not null
);

-- Numbers the commits. A commit's number is the version of the rows that it wrote, and none is ever
-- given twice, so that the ETag of a deleted row cannot match the row that later takes its key.
create sequence public.row_version as bigint;

-- Closes a table to everybody but its owner. On Supabase, new tables of `public` are open to anon,
-- authenticated and service_role by default privilege; service_role keeps reading.
create function public.close_table(table_name text) returns void
language plpgsql set search_path = '' as $$
declare
  role_name text;
begin
  execute format('alter table public.%I enable row level security', table_name);
  execute format('revoke all on table public.%I from public', table_name);
  for role_name in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on table public.%I from %I', table_name, role_name);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    execute format('grant select on table public.%I to service_role', table_name);
  end if;
end
$$;

-- Makes `insert_row` of the listed tables as they are. A statement for each table is planned once by
-- each connection, or a few times; one put together for each row is planned for each row, at more
-- than the cost of the insert. A migration that changes the columns of a table calls this afterwards.
create function public.define_insert_row() returns void
language plpgsql set search_path = '' as $$
declare
  inserts text;
begin
  with columns as (
    select
      t.name as table_name,
      a.attname as name,
      a.attnum as place,
      case
        when a.attname = 'version' then 'coalesce(commit_version, nextval(''public.row_version''))'
        when a.atttypid = 'jsonb'::regtype then format('nullif(new_row->%L, ''null'')', a.attname)
        -- Without its length: a cast would cut what is too long, the insert refuses it.
        else format('(new_row->>%L)::%s', a.attname, format_type(a.atttypid, null))
      end as value,
      case when a.attname <> 'version' then pg_get_expr(d.adbin, d.adrelid) end as default_value
    from public.api_tables t
    join pg_attribute a on a.attrelid = to_regclass(format('public.%I', t.name))
      and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attidentity = ''
    left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  ), statements as (
    select format(
      $insert$
        when %1$L then
          if new_row - %2$L::text[] <> '{}' then
            raise undefined_column using message = %1$L || ' has none of the columns '
              || (select string_agg(name, ', ') from jsonb_object_keys(new_row - %2$L::text[]) name);
          end if;
          insert into public.%1$I as t (%3$s) values (%4$s) returning to_jsonb(t) into stored;
      $insert$,
      table_name,
      array_agg(name),
      string_agg(format('%I', name), ', ' order by place),
      string_agg(
        -- Columns that the row does not name keep their defaults: they are of a newer release.
        case when default_value is null then value
          else format('case when new_row ? %L then %s else %s end', name, value, default_value)
        end, ', ' order by place)
    ) as statement
    from columns group by table_name order by table_name
  )
  select string_agg(statement, '') into inserts from statements;
  execute format(
    $function$
      create or replace function public.insert_row(
        table_name text, new_row jsonb, commit_version bigint
      ) returns jsonb
      language plpgsql set search_path = '' as $body$
      declare
        stored jsonb;
      begin
        case table_name %s end case;
        return stored;
      end
      $body$
    $function$,
    inserts
  );
end
$$;

-- Puts a table under the rules of this API. A migration that adds a table calls it once.
create function public.add_api_table(
  table_name text,
  key_column text,
  scope_column text,
  order_column text
) returns void
language plpgsql set search_path = '' as $$
begin
  perform public.close_table(table_name);
  insert into public.api_tables (name, key_column, scope_column, order_column)
    values (table_name, key_column, scope_column, order_column);
  perform public.define_insert_row();
end
$$;

create table public.tenants (
  id text collate "C" primary key,
  name text collate "C" not null unique,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null
);

create table public.users (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null unique,
  email text collate "C" not null unique,
  name text not null,
  role text collate "C" not null,
  password_hash text,
  sessions_from timestamptz(3),
  session_kept text,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id)
);
create index users_list on public.users (tenant_id, created_at, id);
create index users_by_role on public.users (tenant_id, role, created_at, id);

create table public.sessions (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  user_id text collate "C" not null,
  generation bigint not null,
  expires_at timestamptz(3) not null,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references public.users (tenant_id, id) on delete cascade
);
create index sessions_list on public.sessions (tenant_id, expires_at, id);
create index sessions_by_user on public.sessions (tenant_id, user_id, expires_at, id);

create table public.api_keys (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null unique,
  name text not null,
  role text not null,
  prefix text not null,
  hash text collate "C" not null unique,
  previous_hash text collate "C" unique,
  previous_expires_at timestamptz(3),
  expires_at timestamptz(3),
  last_used_at timestamptz(3),
  owner_id text collate "C" not null,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id)
);
create index api_keys_list on public.api_keys (tenant_id, created_at, id);

create table public.templates (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  name text not null,
  description text not null,
  definition jsonb,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id)
);
create index templates_list on public.templates (tenant_id, created_at, id);

create table public.flows (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  name text not null,
  status text collate "C" not null,
  definition jsonb,
  template_id text collate "C",
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, template_id) references public.templates (tenant_id, id)
);
create index flows_list on public.flows (tenant_id, created_at, id);
create index flows_by_status on public.flows (tenant_id, status, created_at, id);
create index flows_by_template on public.flows (tenant_id, template_id, created_at, id);

create table public.executions (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  flow_id text collate "C" not null,
  status text collate "C" not null,
  started_at timestamptz(3),
  finished_at timestamptz(3),
  error text,
  input jsonb,
  output jsonb,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, flow_id) references public.flows (tenant_id, id) on delete cascade
);
create index executions_list on public.executions (tenant_id, created_at, id);
create index executions_by_flow on public.executions (tenant_id, flow_id, created_at, id);
create index executions_by_flow_and_status on public.executions
  (tenant_id, flow_id, status, created_at, id);
create index executions_by_status on public.executions (tenant_id, status, created_at, id);

create table public.connections (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  provider text collate "C" not null,
  category text collate "C" not null,
  account text not null,
  status text collate "C" not null,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id)
);
create index connections_list on public.connections (tenant_id, created_at, id);
create index connections_by_provider on public.connections (tenant_id, provider, created_at, id);
create index connections_by_category on public.connections (tenant_id, category, created_at, id);
create index connections_by_status on public.connections (tenant_id, status, created_at, id);

create table public.secrets (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  name text collate "C" not null,
  ciphertext text not null,
  key_id text not null,
  expires_at timestamptz(3),
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, name)
);
create index secrets_list on public.secrets (tenant_id, created_at, name);

create table public.audit (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  actor text collate "C" not null,
  action text collate "C" not null,
  resource text collate "C" not null,
  resource_id text collate "C" not null,
  fields jsonb not null,
  at timestamptz(3) not null,
  request_id text,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id)
);
create index audit_list on public.audit (tenant_id, at, id);
create index audit_by_actor on public.audit (tenant_id, actor, at, id);
create index audit_by_action on public.audit (tenant_id, action, at, id);
create index audit_by_resource on public.audit (tenant_id, resource, at, id);
create index audit_by_resource_id on public.audit (tenant_id, resource_id, at, id);

create table public.idempotency_keys (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  request_digest text not null,
  resource_id text not null,
  content jsonb,
  expires_at timestamptz(3) not null,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id)
);
create index idempotency_keys_list on public.idempotency_keys (tenant_id, expires_at, id);

create table public.encryption_keys (
  id text collate "C" primary key,
  canary text not null,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null
);

create table public.leases (
  id text collate "C" primary key,
  expires_at timestamptz(3) not null,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null
);

-- Applies the changes of one commit in order, all or none, and returns an array: the row as stored
-- for each insert and update, null for the rest. Every change is confined to the tenant; rows that
-- belong to no tenant are changed under the nil UUID, and only they are. Any tenant may check them.
--
-- All rows that a commit writes have one version. The first write takes it, and takes it again when
-- it had to wait for another transaction; a later write that finds a row with a newer version is
-- raised as a serialization failure, to be tried again whole. So the versions of a row only grow.
--
-- A change is {op, resource, key} with `row` (insert), `set` (update), and `expect`, the version
-- that the row must have. Refusals are raised with an SQLSTATE that PostgREST answers as an HTTP
-- status (PT409 as 409) and a JSON detail {code, resource, key, fields}.
create function public.apply_changes(tenant text, changes jsonb) returns jsonb
language plpgsql volatile security definer
set search_path = '' set timezone = 'UTC' as $$
declare
  no_tenant constant text := '00000000-0000-0000-0000-000000000000';
  change jsonb;
  api_table public.api_tables;
  place text;
  expected text;
  columns text;
  -- The commit's number, once the first write has taken it.
  commit_version bigint;
  found_version bigint;
  affected bigint;
  stored jsonb;
  results jsonb[] := '{}';
  violated text;
  violated_table text;
  fields text[];
begin
  if tenant is null or jsonb_typeof(changes) is distinct from 'array' then
    raise exception using errcode = 'PT400', message = 'a tenant and an array of changes are needed';
  end if;

  for change in select value from jsonb_array_elements(changes) loop
    stored := null;
    select * into api_table from public.api_tables where name = change->>'resource';
    if not found then
      raise exception using errcode = 'PT400', message = 'no such table: ' || (change->>'resource');
    end if;
    if (api_table.scope_column is null) <> (tenant = no_tenant)
      and not (api_table.scope_column is null and change->>'op' = 'check')
    then
      raise exception using errcode = 'PT400',
        message = api_table.name || ' cannot be changed as tenant ' || tenant;
    end if;
    if change->>'key' is null then
      raise exception using errcode = 'PT400', message = 'a change needs a key';
    end if;

    if change->>'op' = 'insert' then
      stored := public.insert_row(
        api_table.name,
        (change->'row') - 'version'
          || jsonb_build_object(api_table.key_column, change->'key')
          || case when api_table.scope_column is null then '{}'
               else jsonb_build_object(api_table.scope_column, tenant) end,
        commit_version
      );
    else
      place := format('t.%I = %L', api_table.key_column, change->>'key');
      if api_table.scope_column is not null then
        place := place || format(' and t.%I = %L', api_table.scope_column, tenant);
      end if;
      expected := '';
      if change->>'expect' is not null then
        expected := format(' and t.version = %L', change->>'expect');
      end if;

      case change->>'op'
        when 'update' then
          if (change->'set') ?| array[api_table.key_column, api_table.scope_column, 'version'] then
            raise exception using errcode = 'PT400', message = 'keys and versions cannot be set';
          end if;
          select string_agg(format('%I', name), ', ') into columns
            from jsonb_object_keys(change->'set') as name;
          execute format(
            'update public.%1$I t
               set (%2$s) = (select %2$s from jsonb_populate_record(null::public.%1$I, $1)),
                   version = coalesce($2, nextval(''public.row_version''))
               where %3$s and coalesce(t.version <= $2, true) returning to_jsonb(t)',
            api_table.name, columns, place || expected
          ) using change->'set', commit_version into stored;
          get diagnostics affected = row_count;

        when 'delete' then
          execute format('delete from public.%I t where %s', api_table.name, place || expected);
          get diagnostics affected = row_count;

        when 'check' then
          -- Locked as by an update: two that share a lock and then update wait for each other.
          execute format(
            'select from public.%I t where %s for no key update', api_table.name, place || expected
          );
          get diagnostics affected = row_count;

        else
          raise exception using errcode = 'PT400', message = 'no such operation';
      end case;

      if affected = 0 then
        execute format('select version from public.%I t where %s', api_table.name, place)
          into found_version;
        get diagnostics affected = row_count;
        if found_version > commit_version
          and coalesce(change->>'expect', found_version::text) = found_version::text
        then
          raise exception using errcode = '40001', message = 'the row is newer than this commit';
        end if;
        raise exception using
          errcode = case affected when 0 then 'PT404' else 'PT412' end,
          message = case affected when 0 then 'there is no such row' else 'the row has changed' end,
          detail = jsonb_build_object(
            'code', case affected when 0 then 'not_found' else 'stale' end,
            'resource', api_table.name,
            'key', change->'key'
          );
      end if;
    end if;
    commit_version := coalesce(commit_version, (stored->>'version')::bigint);
    results := array_append(results, stored);
  end loop;
  return to_jsonb(results);

exception
  when unique_violation or foreign_key_violation then
    get stacked diagnostics violated = constraint_name, violated_table = table_name;
    select array_agg(a.attname::text order by c.place) into fields
      from pg_catalog.pg_constraint
      cross join unnest(conkey) with ordinality as c (attnum, place)
      join pg_catalog.pg_attribute a on a.attrelid = conrelid and a.attnum = c.attnum
      where conname = violated and conrelid = to_regclass(format('public.%I', violated_table));
    -- Within a tenant, every constraint carries the tenant's column: it tells nothing.
    if cardinality(fields) > 1 then
      fields := array_remove(fields, 'tenant_id');
    end if;
    if sqlstate = '23505' then
      raise exception using errcode = 'PT409', message = 'the value is taken',
        detail = jsonb_build_object('code', 'conflict', 'resource', api_table.name,
          'key', change->'key', 'fields', coalesce(fields, '{}'));
    elsif change->>'op' = 'delete' then
      raise exception using errcode = 'PT409', message = 'other rows refer to this one',
        detail = jsonb_build_object('code', 'reference_in_use', 'resource', api_table.name,
          'key', change->'key');
    else
      raise exception using errcode = 'PT422', message = 'the referenced row does not exist',
        detail = jsonb_build_object('code', 'reference_missing', 'resource', api_table.name,
          'key', change->'key', 'fields', coalesce(fields, '{}'));
    end if;
end
$$;

-- Reads a page of one table, or of all tenants' rows where `tenant` is null, as {rows, total}.
-- `query` is {filter, since, until, order, limit, after: {at, key}, count}. PostgREST's own way of
-- reading tables has no row comparison, narrows its count by the cursor, and cuts at max-rows
-- without saying so.
create function public.read_page(resource text, tenant text, query jsonb) returns json
language plpgsql stable
set search_path = '' set timezone = 'UTC' as $$
declare
  api_table public.api_tables;
  condition text := 'true';
  beyond text := '';
  direction text := case query->>'order' when 'asc' then 'asc' else 'desc' end;
  field text;
  value text;
  rows json;
  total bigint;
begin
  select * into api_table from public.api_tables where name = resource;
  if not found then
    raise exception using errcode = 'PT400', message = 'no such table: ' || resource;
  end if;
  if api_table.scope_column is not null and tenant is not null then
    condition := format('t.%I = %L', api_table.scope_column, tenant);
  end if;
  for field, value in select * from jsonb_each_text(coalesce(query->'filter', '{}')) loop
    condition := condition || case
      when value is null then format(' and t.%I is null', field)
      else format(' and t.%I = %L', field, value)
    end;
  end loop;
  if query->>'since' is not null then
    condition := condition || format(' and t.%I >= %L', api_table.order_column, query->>'since');
  end if;
  if query->>'until' is not null then
    condition := condition || format(' and t.%I < %L', api_table.order_column, query->>'until');
  end if;
  if query->'after'->>'key' is not null then
    beyond := format(
      ' and (t.%I, t.%I) %s (%L, %L)',
      api_table.order_column, api_table.key_column,
      case direction when 'asc' then '>' else '<' end,
      query->'after'->>'at', query->'after'->>'key'
    );
  end if;

  execute format(
    'select coalesce(json_agg(page.row), ''[]'') from (
       select to_json(t) as row from public.%1$I t where %2$s%3$s
       order by t.%4$I %6$s, t.%5$I %6$s limit %7$L
     ) page',
    api_table.name, condition, beyond, api_table.order_column, api_table.key_column, direction,
    query->>'limit'
  ) into rows;
  if (query->>'count')::boolean then
    execute format('select count(*) from public.%I t where %s', api_table.name, condition) into total;
  end if;
  return json_build_object('rows', rows, 'total', total);
end
$$;

select public.close_table('schema_migrations');
select public.close_table('api_tables');
select public.add_api_table('tenants', 'id', 'id', 'created_at');
select public.add_api_table('users', 'id', 'tenant_id', 'created_at');
select public.add_api_table('sessions', 'id', 'tenant_id', 'expires_at');
select public.add_api_table('api_keys', 'id', 'tenant_id', 'created_at');
select public.add_api_table('templates', 'id', 'tenant_id', 'created_at');
select public.add_api_table('flows', 'id', 'tenant_id', 'created_at');
select public.add_api_table('executions', 'id', 'tenant_id', 'created_at');
select public.add_api_table('connections', 'id', 'tenant_id', 'created_at');
select public.add_api_table('secrets', 'name', 'tenant_id', 'created_at');
select public.add_api_table('audit', 'id', 'tenant_id', 'at');
select public.add_api_table('idempotency_keys', 'id', 'tenant_id', 'expires_at');
select public.add_api_table('encryption_keys', 'id', null, 'created_at');
select public.add_api_table('leases', 'id', null, 'created_at');

-- Functions and sequences, too, are open on Supabase by default privilege.
revoke all on sequence public.row_version from public;
revoke all on function public.close_table, public.add_api_table, public.define_insert_row,
  public.insert_row, public.apply_changes, public.read_page from public;
do $$
declare
  role_name text;
begin
  for role_name in
    select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role')
  loop
    execute format('revoke all on sequence public.row_version from %I', role_name);
    execute format(
      'revoke all on function public.close_table, public.add_api_table, public.define_insert_row,
         public.insert_row, public.apply_changes, public.read_page from %I', role_name);
  end loop;
  if exists (select from pg_roles where rolname = 'service_role') then
    grant execute on function public.apply_changes, public.read_page to service_role;
  end if;
end
$$;

insert into public.schema_migrations (version) values ('20261123000000_init');
-- PostgREST, where there is one, learns of the new tables and functions.
notify pgrst, 'reload schema';
