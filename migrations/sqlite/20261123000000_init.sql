-- Times are ISO 8601 text in UTC with three decimals, JSON is text, booleans are 0 and 1.
-- Every list is served by an index that ends in (created_at, key); every filter by one that
-- starts with it.

-- The number of the last commit, which is the version of the rows that it wrote: numbers are never
-- used again, so that the ETag of a deleted row cannot match the row that later takes its key.
create table row_version (
  one integer primary key check (one = 1),
  value integer not null
) strict;
insert into row_version (one, value) values (1, 0);

create table tenants (
  id text primary key,
  name text not null unique,
  created_at text not null,
  updated_at text not null,
  version integer not null
) strict;

create table users (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null unique,
  email text not null unique,
  name text not null,
  role text not null,
  password_hash text,
  sessions_from text,
  session_kept text,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id)
) strict;
create index users_list on users (tenant_id, created_at, id);
create index users_by_role on users (tenant_id, role, created_at, id);

create table sessions (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  user_id text not null,
  generation integer not null,
  expires_at text not null,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, user_id) references users (tenant_id, id) on delete cascade
) strict;
create index sessions_list on sessions (tenant_id, expires_at, id);
create index sessions_by_user on sessions (tenant_id, user_id, expires_at, id);

create table api_keys (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null unique,
  name text not null,
  role text not null,
  prefix text not null,
  hash text not null unique,
  previous_hash text unique,
  previous_expires_at text,
  expires_at text,
  last_used_at text,
  owner_id text not null,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id)
) strict;
create index api_keys_list on api_keys (tenant_id, created_at, id);

create table templates (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  name text not null,
  description text not null,
  definition text,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id)
) strict;
create index templates_list on templates (tenant_id, created_at, id);

create table flows (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  name text not null,
  status text not null,
  definition text,
  template_id text,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, template_id) references templates (tenant_id, id)
) strict;
create index flows_list on flows (tenant_id, created_at, id);
create index flows_by_status on flows (tenant_id, status, created_at, id);
create index flows_by_template on flows (tenant_id, template_id, created_at, id);

create table executions (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  flow_id text not null,
  status text not null,
  started_at text,
  finished_at text,
  error text,
  input text,
  output text,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id),
  foreign key (tenant_id, flow_id) references flows (tenant_id, id) on delete cascade
) strict;
create index executions_list on executions (tenant_id, created_at, id);
create index executions_by_flow on executions (tenant_id, flow_id, created_at, id);
create index executions_by_flow_and_status on executions
  (tenant_id, flow_id, status, created_at, id);
create index executions_by_status on executions (tenant_id, status, created_at, id);

create table connections (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  provider text not null,
  category text not null,
  account text not null,
  status text not null,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id)
) strict;
create index connections_list on connections (tenant_id, created_at, id);
create index connections_by_provider on connections (tenant_id, provider, created_at, id);
create index connections_by_category on connections (tenant_id, category, created_at, id);
create index connections_by_status on connections (tenant_id, status, created_at, id);

create table secrets (
  tenant_id text not null references tenants (id) on delete cascade,
  name text not null,
  ciphertext text not null,
  key_id text not null,
  expires_at text,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, name)
) strict;
create index secrets_list on secrets (tenant_id, created_at, name);

create table audit (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  actor text not null,
  action text not null,
  resource text not null,
  resource_id text not null,
  fields text not null,
  at text not null,
  request_id text,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id)
) strict;
create index audit_list on audit (tenant_id, at, id);
create index audit_by_actor on audit (tenant_id, actor, at, id);
create index audit_by_action on audit (tenant_id, action, at, id);
create index audit_by_resource on audit (tenant_id, resource, at, id);
create index audit_by_resource_id on audit (tenant_id, resource_id, at, id);

create table idempotency_keys (
  tenant_id text not null references tenants (id) on delete cascade,
  id text not null,
  request_digest text not null,
  resource_id text not null,
  content text,
  expires_at text not null,
  created_at text not null,
  updated_at text not null,
  version integer not null,
  primary key (tenant_id, id)
) strict;
create index idempotency_keys_list on idempotency_keys (tenant_id, expires_at, id);

create table encryption_keys (
  id text primary key,
  canary text not null,
  created_at text not null,
  updated_at text not null,
  version integer not null
) strict;

create table leases (
  id text primary key,
  expires_at text not null,
  created_at text not null,
  updated_at text not null,
  version integer not null
) strict;
