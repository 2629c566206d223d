import type { Redis } from 'ioredis'

/**
 * A connection that fails at once while Redis is away, so that what it serves can do without, and
 * that comes back by itself. Resolves when it is known whether Redis is there.
 */
export async function connectRedis(url: string): Promise<Redis> {
  const { Redis } = await import('ioredis')
  const redis = new Redis(url, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: 500,
    // One that is there but hangs counts as away, too.
    commandTimeout: 500
  })
  await new Promise<void>((resolve) => {
    redis.once('ready', resolve)
    // Every try to connect ends here; whoever uses the connection says that it is away, once.
    redis.on('error', () => resolve())
  })
  return redis
}
