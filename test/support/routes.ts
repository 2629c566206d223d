import type { FastifyInstance } from 'fastify'

/**
 * The routes that an app really has, documented or not, as `METHOD /path`, read from the tree that
 * the router prints. HEAD goes with GET; Swagger UI is files.
 */
export function routesOf(app: FastifyInstance): string[] {
  const above: string[] = []
  const routes = app
    .printRoutes({ commonPrefix: false })
    .split('\n')
    .flatMap((line) => {
      const [, indent = '', part = '', methods = ''] =
        /^([│ ]*)[├└]── (\S+) \((.+)\)/.exec(line) ?? []
      const depth = indent.length / 4
      above.splice(depth, above.length, part)
      return methods.split(', ').map((method) => `${method} ${above.join('')}`)
    })
  return routes.filter((route) => !/^$|^HEAD|^ | \/api\/docs(\/|$)/.test(route))
}
