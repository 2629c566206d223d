import Database from 'better-sqlite3'
import type { Driver } from '../../adapters/storage/driver.js'
import { openSqlite, type SqliteOptions } from '../../adapters/storage/sqlite.js'

/** The driver, and the connection that it made for itself. */
export function openWithConnection(options: SqliteOptions): {
  driver: Driver
  db: Database.Database
} {
  const { exec } = Database.prototype
  let db: Database.Database | undefined
  Database.prototype.exec = function (sql) {
    db = this
    return exec.call(this, sql)
  }
  try {
    const driver = openSqlite(options)
    return { driver, db: db as unknown as Database.Database }
  } finally {
    Database.prototype.exec = exec
  }
}
