import { join } from 'node:path'
import { type BrowserContext, chromium, type Locator, type Page } from 'playwright-core'
import t from 'tap'
import { startChild } from '../support/child-process.js'
import { builtProgram } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

/**
 * Swagger UI as a person meets it: the server that `npm start` runs, with the demo data, in a real
 * Chromium. `CHROMIUM` is the browser to start; without it, Debian's.
 */

const root = join(import.meta.dirname, '..', '..')
const server = startChild(process.execPath, [builtProgram('server')], {
  cwd: root,
  env: { ...process.env, NODE_ENV: '', STORAGE: 'memory', PORT: '0', HOST: '127.0.0.1' }
})
t.teardown(async () => {
  server.signal('SIGTERM')
  await server.ended()
})
await server.wrote('Sign in')
const [docs = ''] = /http:\S+\/api\/docs/.exec(server.output()) ?? []
const { origin } = new URL(docs)

// tap gives a file that is run by itself 30 s, whatever .taprc says.
t.setTimeout(300_000)

const context = await chromium.launchPersistentContext(temporaryFolder(t), {
  executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
  headless: true,
  viewport: { width: 1280, height: 1000 },
  args: [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync'
  ]
})
t.teardown(() => context.close())
const { requests, complaints } = observe(context)
const page = await context.newPage()
let token = ''

await t.test('the page renders with strict headers', async (t) => {
  const answer = await page.goto(docs)
  t.equal(answer?.status(), 200)
  const policy = answer?.headers()['content-security-policy'] ?? ''
  t.match(policy, /default-src 'none'/)
  t.notMatch(policy, /unsafe|upgrade-insecure-requests|https?:/)
  await page.locator('.opblock').first().waitFor()
  t.equal(await page.title(), 'Workflow API')
  t.strictSame(await tagsOf(page), await tagsOfDocument())
})

await t.test('"Try it out" of the sign-in works as it stands and answers a token', async (t) => {
  const login = operation(page, 'auth', 'login')
  const { status, body } = await tryOut(login)
  t.equal(status, '200')
  token = (body as { token: string }).token
  t.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/)
})

await t.test('the Authorize dialog takes the token', async (t) => {
  await page.locator('.auth-wrapper .btn.authorize').click()
  const dialog = page.locator('.dialog-ux')
  await dialog.locator('input').fill(token)
  await dialog.locator('.btn.authorize').click()
  t.match(await dialog.locator('h4, h6').allInnerTexts(), [/bearerAuth/, /Authorized/])
  await dialog.locator('.btn-done').click()
})

await t.test('"Try it out" of a list then shows the demo rows', async (t) => {
  const sent = page.waitForRequest((request) => request.url().includes('/api/flows'))
  const { status, body } = await tryOut(operation(page, 'flows', 'listFlows'))
  t.equal((await sent).headers().authorization, `Bearer ${token}`)
  t.equal(status, '200')
  const ids = (body as { id: string }[]).map(({ id }) => id)
  t.strictSame(ids.sort(), ['flow_digest', 'flow_onboarding'])
})

await t.test('a row can be made from the example', async (t) => {
  const { status, body } = await tryOut(operation(page, 'flows', 'createFlow'))
  t.equal(status, '201')
  t.match(body, { name: 'Onboarding', status: 'draft' })
})

t.test(
  'nothing was asked of another server, and the browser had nothing to complain',
  async (t) => {
    t.ok(requests.length > 5)
    t.strictSame(
      requests.filter((url) => !url.startsWith(`${origin}/`)),
      []
    )
    t.strictSame(complaints, [])
  }
)

/** Everything that pages request, and every error and warning of theirs. */
function observe(context: BrowserContext) {
  const requests: string[] = []
  const complaints: string[] = []
  // Images in the page's own text go nowhere.
  context.on('request', (request) => {
    if (!request.url().startsWith('data:')) requests.push(request.url())
  })
  context.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) complaints.push(message.text())
  })
  context.on('weberror', (error) => complaints.push(error.error().message))
  return { requests, complaints }
}

function operation(page: Page, tag: string, id: string): Locator {
  return page.locator(`#operations-${tag}-${id}`)
}

/** Opens an operation, sends it as the page proposes, and reads the answer that is shown. */
async function tryOut(operation: Locator): Promise<{ status: string; body: unknown }> {
  await operation.locator('.opblock-summary-control').click()
  await operation.locator('.try-out__btn').click()
  await operation.locator('.execute').click()
  const answer = operation.locator('.live-responses-table tbody tr.response')
  const status = await answer.locator('.response-col_status').innerText()
  const body = await answer.locator('.highlight-code code').first().innerText()
  return { status: status.trim(), body: JSON.parse(body) }
}

async function tagsOf(page: Page): Promise<(string | null)[]> {
  const headings = await page.locator('.opblock-tag').all()
  return Promise.all(headings.map((each) => each.getAttribute('data-tag')))
}

async function tagsOfDocument(): Promise<string[]> {
  const document = (await (await fetch(`${origin}/api/openapi.json`)).json()) as {
    tags: { name: string }[]
  }
  return document.tags.map(({ name }) => name)
}
