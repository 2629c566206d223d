import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import t from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { problems } from '../../src/problems.js'
import { environmentExample } from '../support/environment-example.js'
import { addressOf, startServer } from '../support/server.js'
import { temporaryFolder } from '../support/storages.js'

function read(file: string): string {
  return readFileSync(packageFile(file), 'utf8')
}

t.test('.env.example has every declared variable', async (t) => {
  t.equal(read('.env.example'), environmentExample(), 'npm run env:example writes it')
})

t.test('docs/errors.md has every code, with its status', async (t) => {
  const rows = read('docs/errors.md').matchAll(/^\| `(\w+)` \| (\d+) \|/gm)
  const documented = Object.fromEntries([...rows].map(([, code, status]) => [code, Number(status)]))
  const declared = Object.entries(problems).map(([code, { status }]) => [code, status])
  t.strictSame(documented, Object.fromEntries(declared))
})

t.test('the walk-through of the README works as it stands', async (t) => {
  const [, script = ''] = /```sh walk-through\n(.+?)```/s.exec(read('README.md')) ?? []
  t.match(script, 'API=http://127.0.0.1:3000/api', 'the address that the test replaces')
  const api = await addressOf(startServer(t, temporaryFolder(t)))
  const here = script.replace('http://127.0.0.1:3000/api', api)
  const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', here])
  for (const expected of [
    /"id":"flow_hello".*"status":"draft"/,
    /"id":"flow_hello".*"status":"active"/,
    /"status":"success".*"output":\{"said":"hello, Ada"\}/,
    /"name":"GREETING_KEY".*"expired":false/,
    /"action":"flow.deploy".*"action":"flow.create"/
  ])
    t.match(stdout, expected)
  t.notMatch(stdout, 's3cr3t')
})

t.test('the first admin of a SQLite file is made as the README says', async (t) => {
  const [, script = ''] = /```sh first-admin\n(.+?)```/s.exec(read('README.md')) ?? []
  t.match(script, 'http://127.0.0.1:3000/api', 'the address that the test replaces')
  const api = await addressOf(startServer(t, temporaryFolder(t), { SQLITE_PATH: './app.db' }))
  const here = script.replace('http://127.0.0.1:3000/api', api)
  const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', here])
  t.match(JSON.parse(stdout), { user: { role: 'admin' }, token: String })
})

t.test('the files that the README links to exist', async (t) => {
  const links = [...read('README.md').matchAll(/\]\((?!http)([^)#]+)\)/g)].map(
    ([, file = '']) => file
  )
  t.ok(links.length > 0)
  for (const file of links) t.doesNotThrow(() => read(file), file)
})
