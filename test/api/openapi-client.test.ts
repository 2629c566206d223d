import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import openapiTS, { astToString } from 'openapi-typescript'
import t from 'tap'
import ts from 'typescript'
import { packageFile } from '../../adapters/package-files.js'
import { testApi } from '../support/api.js'
import { runChild } from '../support/child-process.js'

const root = fileURLToPath(packageFile('.'))
const { app } = await testApi(t)
await app.listen({ port: 0, host: '127.0.0.1' })
const base = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`

// Inside the project, so that imports of packages resolve.
mkdirSync(join(root, '.tap'), { recursive: true })
const folder = mkdtempSync(join(root, '.tap', 'openapi-client-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))

/** What a user of the client writes; every type in it comes from the document. */
const program = `
import createClient from 'openapi-fetch'
import type { components, operations, paths } from './api.js'

const [base = ''] = process.argv.slice(2)
const api = createClient<paths>({ baseUrl: base })

const email = 'ada@example.com'
const password = 'correct horse battery staple'
const registered = await api.POST('/api/auth/register', {
  body: { tenant_name: 'Acme', name: 'Ada', email, password }
})
if (!registered.data) throw new Error(registered.error.detail)
const admin: components['schemas']['User'] = registered.data.user
const role: 'viewer' | 'editor' | 'admin' = admin.role

const signedIn = await api.POST('/api/auth/login', { body: { email, password } })
if (signedIn.error) throw new Error(signedIn.error.code)
const { token, expires_in } = signedIn.data
const life: number = expires_in
api.use({
  onRequest({ request }) {
    request.headers.set('authorization', \`Bearer \${token}\`)
    return request
  }
})

const created = await api.POST('/api/flows', {
  body: { name: 'Onboarding', definition: { steps: [] } }
})
if (!created.data) throw new Error(created.error.detail)
const flow: components['schemas']['Flow'] = created.data
const status: 'draft' | 'active' = flow.status
const template: string | null = flow.template_id
const etag = created.response.headers.get('etag') ?? ''

const query: operations['listFlows']['parameters']['query'] = { limit: 10, order: 'asc' }
const listed = await api.GET('/api/flows', { params: { query: { ...query, status } } })
const names: string[] = (listed.data ?? []).map(({ name }) => name)

const path = { id: flow.id }
const changed = await api.PATCH('/api/flows/{id}', {
  params: { path, header: { 'If-Match': etag } },
  body: { name: 'Renamed' }
})
const late = await api.DELETE('/api/flows/{id}', { params: { path, header: { 'If-Match': etag } } })

const absent = await api.GET('/api/flows/{id}', { params: { path: { id: 'absent' } } })
const problem: components['schemas']['Problem'] | undefined = absent.error
const fields: { in: string; pointer: string; detail: string }[] = problem?.errors ?? []

process.stdout.write(
  JSON.stringify({
    role, life, names, template,
    changed: changed.data?.name, late: late.error?.code, problem: problem?.code, fields
  })
)
`

/** Mistakes that the types must notice, each with the line that makes it. */
const mistakes = {
  'an unknown path': "await api.GET('/api/flow')",
  'a method that the path has not': "await api.PUT('/api/flows', { body: { name: 'x' } })",
  'a body without a required field': "await api.POST('/api/flows', { body: {} })",
  'a value that is not of the enum':
    "await api.POST('/api/flows', { body: { name: 'x', status: 'live' } })",
  'a missing path parameter': "await api.GET('/api/flows/{id}')",
  'an unknown query parameter': "await api.GET('/api/flows', { params: { query: { page: 1 } } })",
  'a field that answers do not have': "void (await api.GET('/api/auth/me')).data?.password_hash",
  'data that is there although the request failed': "void (await api.GET('/api/auth/me')).data.name"
}

const wrong = [
  "import createClient from 'openapi-fetch'",
  "import type { paths } from './api.js'",
  "const api = createClient<paths>({ baseUrl: '' })",
  ...Object.values(mistakes),
  'export {}'
]

const document = (await app.inject('/api/openapi.json')).json()
writeFileSync(
  join(folder, 'api.ts'),
  astToString(await openapiTS(document, { defaultNonNullable: false }))
)
writeFileSync(join(folder, 'program.ts'), program)
writeFileSync(join(folder, 'wrong.ts'), wrong.join('\n'))
const complaints = compile('program.ts', 'wrong.ts')

t.test('a client can be generated, and a program that uses it compiles', async (t) => {
  t.strictSame(
    complaints.filter(({ file }) => file !== 'wrong.ts'),
    []
  )
})

t.test('the program works against the server', async (t) => {
  const output = await runChild(
    process.execPath,
    ['--import', 'tsx', join(folder, 'program.ts'), base],
    { cwd: root }
  )
  t.strictSame(JSON.parse(output), {
    role: 'admin',
    life: 900,
    names: ['Onboarding'],
    template: null,
    changed: 'Renamed',
    late: 'precondition_failed',
    problem: 'not_found',
    fields: []
  })
})

t.test('mistakes do not compile', async (t) => {
  const noticed = complaints.map(({ file, line }) => file === 'wrong.ts' && wrong[line])
  for (const [name, line] of Object.entries(mistakes)) t.ok(noticed.includes(line), name)
})

interface Complaint {
  readonly file: string
  /** From 0. */
  readonly line: number
  readonly message: string
}

/** What the compiler has to say of files, as strict as it can be. */
function compile(...files: string[]): Complaint[] {
  const paths = files.map((file) => join(folder, file))
  const compiled = ts.createProgram(paths, {
    target: ts.ScriptTarget.ES2023,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    lib: ['lib.es2023.d.ts', 'lib.dom.d.ts', 'lib.dom.iterable.d.ts'],
    types: ['node'],
    typeRoots: [join(root, 'node_modules', '@types')],
    strict: true,
    noUncheckedIndexedAccess: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    noEmit: true
  })
  return ts.getPreEmitDiagnostics(compiled).map(({ file, start = 0, messageText }) => ({
    file: basename(file?.fileName ?? ''),
    line: file?.getLineAndCharacterOfPosition(start).line ?? -1,
    message: ts.flattenDiagnosticMessageText(messageText, '\n')
  }))
}
