import type { Driver, DriverChange, DriverQuery, DriverRow } from '../../adapters/storage/driver.js'
import { StorageError } from '../../adapters/storage/errors.js'
import { SYSTEM, type TenantId } from '../../adapters/storage/port.js'
import type { AnyResource } from '../../schemas/resource.js'
import type { Rule } from '../contract/contract-case.js'
import { resourceNamed } from './sample-rows.js'

/** A driver with one defect, as a careless adapter might have it. */
export interface BrokenDriver {
  readonly breaks: Rule
  readonly how: string
  wrap(sound: Driver): Driver
}

type Insert = Extract<DriverChange, { op: 'insert' }>
type Rows = (DriverRow | null)[]

export const brokenDrivers: readonly BrokenDriver[] = [
  {
    breaks: 'values are kept',
    how: 'cuts long texts',
    wrap: mapValues((value) => (typeof value === 'string' ? value.slice(0, 65_535) : value))
  },
  {
    breaks: 'values are kept',
    how: 'has no characters of four bytes',
    wrap: mapValues((value) =>
      typeof value === 'string' ? value.replace(/[\u{10000}-\u{10ffff}]/gu, '?') : value
    )
  },
  {
    breaks: 'null is kept',
    how: 'leaves empty columns out',
    wrap: mapRows((row) => withoutNulls(row))
  },
  {
    breaks: 'null is kept',
    how: 'drops nulls inside JSON',
    wrap: mapValues((value) =>
      typeof value === 'object' && value && !Array.isArray(value) ? withoutNulls(value) : value
    )
  },
  {
    breaks: 'times are normal',
    how: 'writes UTC as +00:00',
    wrap: mapRows((row, { columns }) => {
      const times = columns.filter(({ name, kind }) => kind === 'timestamp' && row[name])
      const texts = times.map(({ name }) => [name, String(row[name]).replace('Z', '+00:00')])
      return { ...row, ...Object.fromEntries(texts) }
    })
  },
  {
    breaks: 'stamps are set',
    how: 'stamps created_at again with each update',
    wrap: mapRows((row) => ({ ...row, created_at: row.updated_at }))
  },
  {
    breaks: 'lists are sorted',
    how: 'sorts by key',
    wrap: sortPages((a, b) => (a.key < b.key ? -1 : 1))
  },
  {
    breaks: 'ties go by key',
    how: 'leaves rows of one instant as they came',
    wrap: sortPages((a, b) => (a.at === b.at ? a.version - b.version : a.at < b.at ? -1 : 1))
  },
  {
    breaks: 'ties go by key',
    how: 'sorts keys by UTF-16 units',
    wrap: sortPages((a, b) => (a.at + a.key < b.at + b.key ? -1 : 1))
  },
  { breaks: 'pages are stable', how: 'pages by offset', wrap: pageByOffset },
  {
    breaks: 'filters hold',
    how: 'takes a filter by null for none',
    wrap: mapQueries((query) => ({
      ...query,
      filter: new Map([...query.filter].filter(([, value]) => value !== null))
    }))
  },
  {
    breaks: 'filters hold',
    how: 'knows one filter at a time',
    wrap: mapQueries((query) => ({ ...query, filter: new Map([...query.filter].slice(0, 1)) }))
  },
  {
    breaks: 'periods hold',
    how: 'includes the end of a period',
    wrap: mapQueries((query) => ({ ...query, until: query.until && later(query.until) }))
  },
  {
    breaks: 'periods hold',
    how: 'leaves the start of a period out',
    wrap: mapQueries((query) => ({ ...query, since: query.since && later(query.since) }))
  },
  {
    breaks: 'cursors are bound',
    how: 'starts from the first page again',
    wrap: mapQueries((query) => ({ ...query, after: undefined }))
  },
  {
    breaks: 'pages are bounded',
    how: 'reads as many rows as it may, however long they are',
    wrap: mapQueries((query) => ({ ...query, size: Number.MAX_SAFE_INTEGER }))
  },
  {
    breaks: 'pages are bounded',
    how: 'does not say that it left rows out',
    wrap: (sound) => ({
      ...sound,
      async page(resource, tenant, query) {
        const { cut: _, ...page } = await sound.page(resource, tenant, query)
        return page
      }
    })
  },
  {
    breaks: 'pages are bounded',
    how: 'shows no row that is longer than a page',
    wrap: (sound) => ({
      ...sound,
      async page(resource, tenant, query) {
        const page = await sound.page(resource, tenant, query)
        const isShort = (row: DriverRow) => JSON.stringify(row).length < query.size
        return { ...page, rows: page.rows.filter(isShort) }
      }
    })
  },
  {
    breaks: 'counts are exact',
    how: 'counts what the page shows',
    wrap: (sound) => ({
      ...sound,
      async page(resource, tenant, query) {
        const { rows, total } = await sound.page(resource, tenant, query)
        return total === undefined ? { rows } : { rows, total: rows.length }
      }
    })
  },
  {
    breaks: 'counts are exact',
    how: 'counts unasked',
    wrap: mapQueries((query) => ({ ...query, count: true }))
  },
  {
    breaks: 'unique is unique',
    how: 'overwrites a row of the same key',
    wrap: mapChanges(async (change, { sound, tenant }) => {
      if (change.op !== 'insert' || !(await sound.get(change.resource, tenant, change.key)))
        return [change]
      const { op: _, row, ...rest } = change
      return [{ op: 'update', ...rest, expect: undefined, set: row }]
    })
  },
  {
    breaks: 'unique is unique',
    how: 'does not say which field is taken',
    wrap: mapErrors((error) =>
      error.code === 'conflict' ? new StorageError('conflict', { fields: [] }) : error
    )
  },
  {
    breaks: 'references exist',
    how: 'forgets a reference that leads nowhere',
    wrap: mapChanges(async (change, { sound, tenant }) => {
      if (change.op !== 'insert' || change.resource.name !== 'flows') return [change]
      const target = change.row.template_id as string | null
      if (target === null || (await sound.get(resourceNamed('templates'), tenant, target)))
        return [change]
      return [{ ...change, row: { ...change.row, template_id: null } }]
    })
  },
  {
    breaks: 'targets stay',
    how: 'deletes the rows in the way',
    wrap: mapChanges(async (change, { sound, tenant }) => {
      if (change.op !== 'delete' || change.resource.name !== 'templates') return [change]
      const flows = resourceNamed('flows')
      const filter = new Map([['template_id', change.key]])
      const { rows } = await sound.page(flows, tenant, { ...everything, filter })
      const keys = rows.map((row) => row.id as string)
      const clear = keys.map((key) => ({ ...change, resource: flows, key, expect: undefined }))
      return [...clear, change]
    })
  },
  { breaks: 'deletes cascade', how: 'leaves the executions of a flow behind', wrap: keepOrphans },
  {
    breaks: 'missing is told',
    how: 'deletes what is not there',
    wrap: mapChanges(async (change, { sound, tenant }) => {
      const missing = !(await sound.get(change.resource, tenant, change.key))
      return change.op === 'delete' && missing ? [] : [change]
    })
  },
  {
    breaks: 'expect holds',
    how: 'ignores the expected version',
    wrap: mapChanges(async (change) =>
      change.op === 'update' || change.op === 'delete'
        ? [{ ...change, expect: undefined }]
        : [change]
    )
  },
  {
    breaks: 'expect holds',
    how: 'compares the version before the commit and not in it',
    wrap: mapChanges(async (change, { sound, tenant }) => {
      if (change.op !== 'update' || change.expect === undefined) return [change]
      const row = await sound.get(change.resource, tenant, change.key)
      if (row && row.version !== change.expect) throw new StorageError('stale')
      return [{ ...change, expect: undefined }]
    })
  },
  {
    breaks: 'check holds',
    how: 'does not check',
    wrap: mapChanges(async (change) => (change.op === 'check' ? [] : [change]))
  },
  {
    breaks: 'commits are whole',
    how: 'stores change by change',
    wrap: (sound) => ({
      ...sound,
      async apply(tenant, changes) {
        const rows: Rows = []
        for (const change of changes) rows.push(...(await sound.apply(tenant, [change])))
        return rows
      }
    })
  },
  {
    breaks: 'audit goes along',
    how: 'loses the entry',
    wrap: splitAudit(async (sound, tenant, changes) => {
      await sound.apply(tenant, changes)
    })
  },
  {
    breaks: 'audit goes along',
    how: 'stores the entry afterwards, if it can',
    wrap: splitAudit(async (sound, tenant, changes, entries) => {
      await sound.apply(tenant, changes)
      await sound.apply(tenant, entries).catch(() => {})
    })
  },
  {
    breaks: 'tenants are apart',
    how: 'gets the row of whichever tenant',
    wrap: (sound) => ({ ...sound, get: (resource, _, key) => sound.get(resource, null, key) })
  },
  {
    breaks: 'tenants are apart',
    how: 'lists without the tenant',
    wrap: (sound) => ({ ...sound, page: (resource, _, query) => sound.page(resource, null, query) })
  },
  {
    breaks: 'tenants are apart',
    how: 'counts without the tenant',
    wrap: (sound) => ({
      ...sound,
      async page(resource, tenant, query) {
        const { rows } = await sound.page(resource, tenant, query)
        const { total } = await sound.page(resource, null, query)
        return total === undefined ? { rows } : { rows, total }
      }
    })
  },
  {
    breaks: 'tenants are apart in writes',
    how: 'writes to the row of whichever tenant',
    wrap: (sound) => ({
      ...sound,
      async apply(tenant, changes) {
        const [first] = changes
        if (first?.op !== 'update' && first?.op !== 'delete') return sound.apply(tenant, changes)
        const { scope } = first.resource
        const row = scope && (await sound.get(first.resource, null, first.key))
        return sound.apply(row ? (row[scope] as TenantId) : tenant, changes)
      }
    })
  },
  {
    breaks: 'crossing sees all',
    how: 'stays in one tenant',
    wrap: (sound) => {
      let home: TenantId | null = null
      return {
        ...sound,
        apply(tenant, changes) {
          if (tenant !== SYSTEM) home ??= tenant
          return sound.apply(tenant, changes)
        },
        page: (resource, tenant, query) => sound.page(resource, tenant ?? home, query)
      }
    }
  },
  {
    breaks: 'system has its own',
    how: 'shows nothing without a tenant',
    wrap: (sound) => ({
      ...sound,
      get: async (resource, tenant, key) =>
        resource.scope ? sound.get(resource, tenant, key) : null
    })
  },
  { breaks: 'versions grow', how: 'counts each row from 1', wrap: restartVersions },
  {
    breaks: 'a commit has one version',
    how: 'numbers the audit apart',
    wrap: mapRows((row, { name }) => ({
      ...row,
      version: 2 * (row.version as number) + (name === 'audit' ? 1 : 0)
    }))
  },
  {
    breaks: 'closed is closed',
    how: 'drops the commits under way',
    wrap: (sound) => {
      let closed = false
      return {
        ...sound,
        async apply(tenant, changes) {
          await new Promise(setImmediate)
          if (closed) throw new StorageError('unavailable')
          return sound.apply(tenant, changes)
        },
        close() {
          closed = true
          return sound.close()
        }
      }
    }
  },
  {
    breaks: 'persistence is as stated',
    how: 'shows a schema and keeps nothing',
    wrap: (sound) => ({ ...sound, ping: async () => ({ migration: '1' }) })
  },
  { breaks: 'rows are not shared', how: 'hands out the rows of its cache', wrap: shareRows }
]

const everything: DriverQuery = {
  filter: new Map(),
  since: undefined,
  until: undefined,
  order: 'asc',
  limit: Number.POSITIVE_INFINITY,
  size: Number.MAX_SAFE_INTEGER,
  after: undefined,
  count: false
}

/** Changes every row on its way out. */
function mapRows(change: (row: DriverRow, resource: AnyResource) => DriverRow) {
  return (sound: Driver): Driver => ({
    ...sound,
    async get(resource, tenant, key) {
      const row = await sound.get(resource, tenant, key)
      return row && change(row, resource)
    },
    async page(resource, tenant, query) {
      const { rows, ...rest } = await sound.page(resource, tenant, query)
      return { ...rest, rows: rows.map((row) => change(row, resource)) }
    },
    async apply(tenant, changes) {
      const rows = await sound.apply(tenant, changes)
      return rows.map((row, i) => row && change(row, (changes[i] as DriverChange).resource))
    }
  })
}

function mapValues(change: (value: unknown) => unknown) {
  return mapRows((row) =>
    Object.fromEntries(Object.entries(row).map(([name, value]) => [name, change(value)]))
  )
}

function withoutNulls(value: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(value).filter(([, inner]) => inner !== null))
}

function mapQueries(change: (query: DriverQuery) => DriverQuery) {
  return (sound: Driver): Driver => ({
    ...sound,
    page: (resource, tenant, query) => sound.page(resource, tenant, change(query))
  })
}

/** Replaces each change by others, of which the last one's row is returned. */
function mapChanges(
  replace: (
    change: DriverChange,
    context: { sound: Driver; tenant: TenantId }
  ) => Promise<DriverChange[]>
) {
  return (sound: Driver): Driver => ({
    ...sound,
    async apply(tenant, changes) {
      const replaced: DriverChange[][] = []
      for (const change of changes) replaced.push(await replace(change, { sound, tenant }))
      const rows = await sound.apply(tenant, replaced.flat())
      return replaced.map((group) => rows.splice(0, group.length).at(-1) ?? null)
    }
  })
}

function mapErrors(change: (error: StorageError) => StorageError) {
  return (sound: Driver): Driver => ({
    ...sound,
    apply: (tenant, changes) =>
      sound.apply(tenant, changes).catch((error) => {
        throw change(error)
      })
  })
}

/** Treats the audit entries of a commit apart from its changes. */
function splitAudit(
  store: (
    sound: Driver,
    tenant: TenantId,
    changes: DriverChange[],
    entries: Insert[]
  ) => Promise<void>
) {
  return (sound: Driver): Driver => ({
    ...sound,
    async apply(tenant, changes) {
      const isEntry = (change: DriverChange): change is Insert =>
        change.op === 'insert' && change.resource.name === 'audit'
      const entries = changes.filter(isEntry)
      const mixed = entries.length > 0 && entries.length < changes.length
      if (!mixed) return sound.apply(tenant, changes)
      await store(
        sound,
        tenant,
        changes.filter((change) => !isEntry(change)),
        entries
      )
      return changes.map(() => null)
    }
  })
}

interface Place {
  readonly at: string
  readonly key: string
  readonly version: number
}

/** Sorts pages in another order, which the cursor follows. */
function sortPages(compare: (a: Place, b: Place) => number) {
  return (sound: Driver): Driver => ({
    ...sound,
    async page(resource, tenant, query) {
      const { order, key } = resource
      const all = { ...query, after: undefined, limit: Number.POSITIVE_INFINITY }
      const { rows, ...rest } = await sound.page(resource, tenant, all)
      const place = (row: DriverRow) =>
        ({ at: row[order], key: row[key], version: row.version }) as Place
      rows.sort((a, b) => compare(place(a), place(b)))
      if (query.order === 'desc') rows.reverse()
      const from = rows.findIndex((row) => row[key] === query.after?.key) + 1
      return { ...rest, rows: rows.slice(from, from + query.limit) }
    }
  })
}

function pageByOffset(sound: Driver): Driver {
  const offsets = new Map<string, number>()
  return {
    ...sound,
    async page(resource, tenant, query) {
      const offset = query.after ? (offsets.get(query.after.key) ?? 0) : 0
      const all = { ...query, after: undefined, limit: offset + query.limit }
      const { rows, ...rest } = await sound.page(resource, tenant, all)
      for (const [i, row] of rows.entries()) offsets.set(row[resource.key] as string, i + 1)
      return { ...rest, rows: rows.slice(offset) }
    }
  }
}

function later(time: string): string {
  return new Date(Date.parse(time) + 1).toISOString()
}

function keepOrphans(sound: Driver): Driver {
  const orphans = new Map<string, DriverRow>()
  return {
    ...sound,
    async apply(tenant, changes) {
      for (const { op, resource, key } of changes) {
        if (op !== 'delete' || resource.name !== 'flows') continue
        const query = { ...everything, filter: new Map([['flow_id', key]]) }
        const { rows } = await sound.page(resourceNamed('executions'), tenant, query)
        for (const row of rows) orphans.set(row.id as string, row)
      }
      return sound.apply(tenant, changes)
    },
    get: async (resource, tenant, key) =>
      (await sound.get(resource, tenant, key)) ?? orphans.get(key) ?? null
  }
}

function restartVersions(sound: Driver): Driver {
  const firsts = new Map<string, number>()
  const firstOf = (resource: AnyResource, key: string) => firsts.get(`${resource.name} ${key}`) ?? 1
  const renumbered = mapRows((row, resource) => {
    const first = firstOf(resource, row[resource.key] as string)
    return { ...row, version: (row.version as number) - first + 1 }
  })
  return renumbered({
    ...sound,
    async apply(tenant, changes) {
      const given = changes.map((change) =>
        'expect' in change && change.expect !== undefined
          ? { ...change, expect: change.expect + firstOf(change.resource, change.key) - 1 }
          : change
      )
      const rows = await sound.apply(tenant, given as DriverChange[])
      for (const [i, { op, resource, key }] of changes.entries())
        if (op === 'insert') firsts.set(`${resource.name} ${key}`, rows[i]?.version as number)
      return rows
    }
  })
}

function shareRows(sound: Driver): Driver {
  const cache = new Map<string, DriverRow>()
  return mapRows((row, { name, key }) => {
    const id = `${name} ${row[key]} ${row.version}`
    const shared = cache.get(id) ?? structuredClone(row)
    cache.set(id, shared)
    return shared
  })(sound)
}
