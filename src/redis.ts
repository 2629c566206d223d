import type { Redis } from 'ioredis'

/**
 * A connection that fails at once while Redis is away, so that what it serves can do without, and
 * that comes back by itself.
 */
export async function connectRedis(url: string): Promise<Redis> {
  const { Redis } = await import('ioredis')
  const redis = new Redis(url, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    connectTimeout: 500
  })
  redis.on('error', (error) => process.emitWarning(`Redis: ${error.message}`))
  return redis
}
