import { readdirSync, readFileSync } from 'node:fs'
import t from 'tap'
import { packageFile } from '../../adapters/package-files.js'

t.test('the build has TypeBox in it', async (t) => {
  const folder = packageFile('dist/src/')
  const files = readdirSync(folder).filter((name) => name.endsWith('.js'))
  t.ok(files.includes('server.js'))
  const without = files.filter((name) =>
    /["']@sinclair\/typebox/.test(readFileSync(new URL(name, folder), 'utf8'))
  )
  t.strictSame(without, [], 'no file leaves it to Node.js')
})
