import fastify from 'fastify'
import t from 'tap'
import { writeInTurn } from '../../src/write-in-turn.js'

t.test('answers of one turn are written after it, each as it is', async (t) => {
  const app = fastify()
  t.teardown(() => app.close())
  const long = 'ü'.repeat(10_000)
  let answered = 0
  writeInTurn(app)
  app.addHook('onResponse', async () => {
    answered++
  })
  app.get('/short', async () => 'ü')
  app.get('/long', async () => long)
  app.get('/empty', async (_request, reply) => reply.code(204).send())
  app.get('/broken', async (_request, reply) => reply.header('x-broken', 'a\nb').send('ü'))
  app.get('/last', async () => `${answered} were answered before`)

  const urls = ['/short', '/long', '/empty', '/broken', '/last']
  const answers = await Promise.all(urls.map((url) => app.inject(url)))
  t.strictSame(
    answers.map(({ statusCode, body }) => [statusCode, body.slice(0, 30)]),
    [
      [200, 'ü'],
      [200, long.slice(0, 30)],
      [204, ''],
      [500, '{"statusCode":500,"code":"ERR_'],
      [200, '0 were answered before']
    ]
  )
  t.equal(answers[1]?.body, long)
  const head = await app.inject({ method: 'HEAD', url: '/long' })
  t.equal(head.headers['content-length'], '20000')
})
