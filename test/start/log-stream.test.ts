import t from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { startChild } from '../support/child-process.js'

t.test('lines of the very end are written, more than a pipe holds too', async (t) => {
  const lines = Array.from({ length: 20_000 }, (_, n) => String(n).padEnd(99))
  const program = `
    import { logStream } from '${packageFile('src/log-stream.ts')}'
    const log = logStream()
    for (let n = 0; n < ${lines.length}; n++) log.write(String(n).padEnd(99) + '\\n')
    process.exit()`
  const tsx = import.meta.resolve('tsx')
  const args = ['--import', tsx, '--input-type=module', '--eval', program]
  const child = startChild(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.equal(await child.ended(), 0)
  const written = child.output().split('\n')
  t.equal(written.length - 1, lines.length)
  t.ok(written.join('\n') === `${lines.join('\n')}\n`, 'each as it was, in order')
})
