import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import t from 'tap'
import { testApi } from '../support/api.js'
import { temporaryFolder } from '../support/storages.js'

/** The linter as its command line runs it, in a folder without configuration or exceptions. */
async function lint(folder: string, document: string) {
  writeFileSync(join(folder, 'openapi.json'), document)
  const manifest = createRequire(import.meta.url).resolve('@redocly/cli/package.json')
  const program = join(dirname(manifest), 'bin', 'cli.js')
  const args = ['lint', 'openapi.json', '--extends=recommended-strict', '--format=json']
  const env = {
    ...process.env,
    REDOCLY_TELEMETRY: 'off',
    REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true'
  }
  const child = spawn(process.execPath, [program, ...args], { cwd: folder, env })
  const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr)])
  try {
    const { problems } = JSON.parse(output)
    return problems as { ruleId: string; message: string; location: unknown }[]
  } catch {
    throw new Error(`The linter did not answer: ${output}${errors}`)
  }
}

t.test('the document follows every recommended rule, warnings too', async (t) => {
  const { app } = await testApi(t)
  const { body } = await app.inject('/api/openapi.json')
  t.strictSame(await lint(temporaryFolder(t), body), [])
})

t.test('a document that breaks a rule does not pass', async (t) => {
  const { app } = await testApi(t)
  const document = (await app.inject('/api/openapi.json')).json()
  delete document.paths['/api/health'].get.operationId
  delete document.servers
  const problems = await lint(temporaryFolder(t), JSON.stringify(document))
  t.match(
    problems.map(({ ruleId }) => ruleId),
    ['no-empty-servers', 'operation-operationId']
  )
})
