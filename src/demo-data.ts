import { type AccountChange, AccountError, type Identity } from '../adapters/identity/port.js'
import { isStorageError } from '../adapters/storage/errors.js'
import type { Change, NewRow, Storage, TenantId } from '../adapters/storage/port.js'
import { connections } from '../schemas/connections.js'
import type { Environment } from '../schemas/environment.js'
import { executions } from '../schemas/executions.js'
import { flows } from '../schemas/flows.js'
import type { AnyResource } from '../schemas/resource.js'
import { secrets } from '../schemas/secrets.js'
import { templates } from '../schemas/templates.js'
import { tenants } from '../schemas/tenants.js'
import { users } from '../schemas/users.js'
import { bySystem } from './audit-entry.js'
import { ConfigurationError } from './configuration.js'
import { demoLogin } from './demo-login.js'
import type { Keyring } from './encryption.js'
import { isEasilyGuessed } from './passwords.js'
import { secretContext } from './secret-values.js'
import { createStore, type Store } from './store.js'
import { together, type UserRow } from './users.js'

/**
 * The password that the demo's admin gets.
 * @throws ConfigurationError in production for the known one, unless told that it is meant, and for
 *   others that users may not choose.
 */
export async function demoPassword(env: Environment): Promise<string> {
  const password = env.DEMO_PASSWORD ?? demoLogin.password
  if (env.NODE_ENV !== 'production') return password
  const isKnown = password === demoLogin.password
  if (isKnown && !env.ALLOW_DEMO_PASSWORD)
    throw new ConfigurationError(
      'Everybody knows the demo password: set DEMO_PASSWORD, or ALLOW_DEMO_PASSWORD=true if that is meant.'
    )
  if (!isKnown && (await isEasilyGuessed(password)))
    throw new ConfigurationError(
      'DEMO_PASSWORD is known from leaks, or a pattern, so that guessers try it early. Set another.'
    )
  return password
}

const tenant = '019b76da-a800-7000-8000-000000000000' as TenantId
const adminId = '019b76da-a800-7000-8000-000000000001'

/** A row of the demo; keys are fixed, so that filling twice changes nothing. */
type DemoRow<R extends AnyResource = AnyResource> = readonly [resource: R, row: NewRow<R>]

function demoRow<R extends AnyResource>(resource: R, row: NewRow<R>): DemoRow {
  return [resource, row as never]
}

const welcome = { steps: [{ send: 'welcome', to: '{{customer.email}}' }] }
const digest = { steps: [{ query: 'orders' }, { post: 'slack', channel: '#sales' }] }

const rows = [
  demoRow(templates, {
    id: 'tpl_welcome',
    name: 'Welcome e-mail',
    description: 'Greets a new customer.',
    definition: welcome
  }),
  demoRow(templates, {
    id: 'tpl_digest',
    name: 'Daily digest',
    description: 'Posts the orders of the day.',
    definition: digest
  }),
  demoRow(flows, {
    id: 'flow_onboarding',
    name: 'Onboarding',
    status: 'active',
    definition: welcome,
    template_id: 'tpl_welcome'
  }),
  demoRow(flows, {
    id: 'flow_digest',
    name: 'Sales digest',
    status: 'draft',
    definition: digest,
    template_id: 'tpl_digest'
  }),
  demoRow(executions, {
    id: '019b76da-a800-7000-8000-000000000011',
    flow_id: 'flow_onboarding',
    status: 'success',
    started_at: '2026-01-31T09:30:00.000Z',
    finished_at: '2026-01-31T09:30:02.000Z',
    input: { customer: 42 },
    output: { sent: true }
  }),
  demoRow(executions, {
    id: '019b76da-a800-7000-8000-000000000012',
    flow_id: 'flow_onboarding',
    status: 'failed',
    started_at: '2026-01-31T10:00:00.000Z',
    finished_at: '2026-01-31T10:00:01.000Z',
    error: 'The mail server refused the message.',
    input: { customer: 43 }
  }),
  demoRow(connections, {
    id: 'conn_slack',
    provider: 'slack',
    category: 'messaging',
    account: 'team@example.com',
    status: 'connected'
  }),
  demoRow(connections, {
    id: 'conn_mail',
    provider: 'smtp',
    category: 'email',
    account: 'noreply@example.com',
    status: 'connected'
  })
]

export interface Seeded {
  readonly admin: UserRow
  /** Whether the admin has the password: one that was there before may have another. */
  readonly signsIn: boolean
}

/**
 * Fills a storage with the demo tenant, its admin and something to look at. Idempotent.
 * @throws ConfigurationError where others have the name or the email of the demo.
 */
export async function seedDemoData(
  storage: Storage,
  identity: Identity,
  keyring: Keyring,
  password: string = demoLogin.password
): Promise<Seeded> {
  const store = createStore(storage, { tenant, ...bySystem })
  const seeded = await seedAdmin(store, identity, password)
  for (const [resource, row] of rows)
    if (!(await store.get(resource, row[resource.key as never]))) await store.insert(resource, row)
  const name = 'SLACK_TOKEN'
  if (!(await store.get(secrets, name)))
    await store.insert(secrets, {
      name,
      ...keyring.seal('not-a-real-token', secretContext({ tenant_id: tenant, name }))
    })
  return seeded
}

async function seedAdmin(store: Store, identity: Identity, password: string): Promise<Seeded> {
  const known = await store.get(users, adminId)
  if (!known) return { admin: await makeAdmin(store, identity, password), signsIn: true }
  await keepAccount(identity, known.email, password)
  return { admin: known, signsIn: await identity.checkPassword(known, password) }
}

/** With the tenant, where there is none: a tenant without an admin is nobody's. */
async function makeAdmin(store: Store, identity: Identity, password: string): Promise<UserRow> {
  const { email } = demoLogin
  const changes: Change[] = []
  if (!(await store.get(tenants, tenant)))
    changes.push({ op: 'insert', resource: tenants, row: { id: tenant, name: 'Demo' } })
  try {
    const account = await makeAccount(identity, email, password)
    const row = { id: adminId, email, name: 'Demo Admin', role: 'admin', ...account.columns }
    changes.push({ op: 'insert', resource: users, row })
    await together(account, () => store.commit(changes, { elsewhere: ['password'] }))
  } catch (error) {
    const taken = takenByOthers(error)
    if (!taken) throw error
    throw new ConfigurationError(
      `The demo data cannot be made here: ${taken} is taken. Use an empty storage.`,
      { cause: error }
    )
  }
  return store.need(users, adminId)
}

/** What of the demo others have. */
function takenByOthers(error: unknown): string | null {
  if (error instanceof AccountError && error.code === 'email_taken') return demoLogin.email
  if (!isStorageError(error, 'conflict')) return null
  return error.resource === tenants.name ? 'the name Demo' : demoLogin.email
}

/** @throws ConfigurationError that names the project whose rules the password does not meet. */
async function makeAccount(
  identity: Identity,
  email: string,
  password: string
): Promise<AccountChange> {
  try {
    return await identity.createAccount({ id: adminId, email, password })
  } catch (error) {
    if (!(error instanceof AccountError && error.code === 'password_refused')) throw error
    throw new ConfigurationError(
      `${identity.service ?? identity.kind} refuses the password of ${email}: ${error.message} ` +
        'Set DEMO_PASSWORD to one that meets its rules, or relax them.',
      { cause: error }
    )
  }
}

/** Makes the account of the demo's admin again, where somebody deleted it and left the row. */
async function keepAccount(identity: Identity, email: string, password: string): Promise<void> {
  try {
    await makeAccount(identity, email, password)
  } catch (error) {
    // It is there.
    if (!(error instanceof AccountError && error.code === 'email_taken')) throw error
  }
}
