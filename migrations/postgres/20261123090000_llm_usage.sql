create table public.llm_usage (
  tenant_id text collate "C" not null references public.tenants (id) on delete cascade,
  id text collate "C" not null,
  day timestamptz(3) not null,
  user_id text collate "C" not null,
  model text collate "C" not null,
  instance text collate "C" not null,
  calls bigint not null,
  errors bigint not null,
  prompt_tokens bigint not null,
  completion_tokens bigint not null,
  created_at timestamptz(3) not null,
  updated_at timestamptz(3) not null,
  version bigint not null,
  primary key (tenant_id, id)
);
create index llm_usage_list on public.llm_usage (tenant_id, day, id);
create index llm_usage_by_user on public.llm_usage (tenant_id, user_id, day, id);
create index llm_usage_by_model on public.llm_usage (tenant_id, model, day, id);

select public.add_api_table('llm_usage', 'id', 'tenant_id', 'day');

insert into public.schema_migrations (version) values ('20261123090000_llm_usage');
-- PostgREST, where there is one, learns of the new table.
notify pgrst, 'reload schema';
