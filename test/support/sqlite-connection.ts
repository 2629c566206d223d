import Database, { type Connection } from '../../adapters/storage/better-sqlite3.js'
import type { Driver } from '../../adapters/storage/driver.js'
import { openSqlite, type SqliteOptions } from '../../adapters/storage/sqlite.js'

/** The driver, and the connection that it made for itself. */
export function openWithConnection(options: SqliteOptions): {
  driver: Driver
  db: Connection
} {
  const { exec } = Database.prototype
  let db: Connection | undefined
  Database.prototype.exec = function (sql) {
    db = this
    return exec.call(this, sql)
  }
  try {
    const driver = openSqlite(options)
    return { driver, db: db as unknown as Connection }
  } finally {
    Database.prototype.exec = exec
  }
}
