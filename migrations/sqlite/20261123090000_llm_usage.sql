create table llm_usage (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  day text not null,
  user_id text not null,
  model text not null,
  instance text not null,
  calls integer not null,
  errors integer not null,
  prompt_tokens integer not null,
  completion_tokens integer not null,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id)
) strict;
create index llm_usage_list on llm_usage (tenant_id, day, id);
create index llm_usage_by_user on llm_usage (tenant_id, user_id, day, id);
create index llm_usage_by_model on llm_usage (tenant_id, model, day, id);
