import t from 'tap'
import { packageFile } from '../../adapters/package-files.js'
import { startChild } from '../support/child-process.js'

t.test('lines of the very end are written, after those of before and in order', async (t) => {
  const program = `
    import { logStream } from '${packageFile('src/log-stream.ts')}'
    const log = logStream()
    const count = (from, to) => { for (let n = from; n < to; n++) log.write(n + '\\n') }
    count(0, 1000)
    setImmediate(() => {
      count(1000, 2000)
      setImmediate(() => {
        count(2000, 3000)
        process.exit()
      })
    })`
  const tsx = import.meta.resolve('tsx')
  const args = ['--import', tsx, '--input-type=module', '--eval', program]
  const child = startChild(process.execPath, args)
  t.equal(await child.ended(), 0)
  t.equal(child.output(), Array.from({ length: 3000 }, (_, n) => `${n}\n`).join(''))
})
