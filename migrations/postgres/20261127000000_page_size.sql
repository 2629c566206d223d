-- `query` has a `size`, too, and the answer is {rows, cut, total}: a page ends with the row with which
-- its rows come to so many bytes of JSON, and is cut where others would have followed. A release that
-- gives no size gets whole pages. `long` says that the rows of the table are.

create or replace function public.read_page(resource text, tenant text, query jsonb) returns json
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
  cut boolean;
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

  if (query->>'long')::boolean then
    -- Row by row, and no further: a step for each is slow, but not as slow as rows that are long.
    execute format(
      'with recursive stored as materialized (
         select row_number() over () as place, listed.key from (
           select t.%5$I as key from public.%1$I t where %2$s%3$s
           order by t.%4$I %6$s, t.%5$I %6$s limit %7$L
         ) listed
       ), walk as (
         select s.place, found.row, octet_length(found.row::text)::bigint as size
         from stored s, lateral (
           select to_json(t) as row from public.%1$I t where t.%5$I = s.key and %2$s offset 0
         ) found where s.place = 1
         union all
         select s.place, found.row, walk.size + octet_length(found.row::text)
         from walk join stored s on s.place = walk.place + 1, lateral (
           select to_json(t) as row from public.%1$I t where t.%5$I = s.key and %2$s offset 0
         ) found where walk.size < %8$L
       )
       select coalesce(json_agg(walk.row), ''[]''),
         coalesce((select max(place) from stored) > max(walk.place), false) from walk',
      api_table.name, condition, beyond, api_table.order_column, api_table.key_column, direction,
      query->>'limit', query->>'size'
    ) into rows, cut;
  else
    execute format(
      'select coalesce(json_agg(page.row), ''[]''), coalesce(bool_and(page.goes_on), false) from (
         select *, sum(octet_length(listed.row::text)) over before as size_before,
           lead(1) over before is not null as goes_on
         from (
           select to_json(t) as row from public.%1$I t where %2$s%3$s
           order by t.%4$I %6$s, t.%5$I %6$s limit %7$L
         ) listed window before as (rows between unbounded preceding and 1 preceding)
       ) page where coalesce(size_before, 0) < coalesce(%8$L, ''infinity'')::float8',
      api_table.name, condition, beyond, api_table.order_column, api_table.key_column, direction,
      query->>'limit', query->>'size'
    ) into rows, cut;
  end if;
  if (query->>'count')::boolean then
    execute format('select count(*) from public.%I t where %s', api_table.name, condition) into total;
  end if;
  return json_build_object('rows', rows, 'cut', cut, 'total', total);
end
$$;

insert into public.schema_migrations (version) values ('20261127000000_page_size');
notify pgrst, 'reload schema';
