import type Library from 'better-sqlite3'

export type { Database as Connection, Statement } from 'better-sqlite3'

/**
 * better-sqlite3 for the Node.js that runs. Version 12 aborts the process from Node 24.19 on, as soon
 * as a statement is collected in the background
 * (https://github.com/WiseLibs/better-sqlite3/issues/1515); version 13 needs Node 22.
 */
const isOld = Number.parseInt(process.versions.node, 10) < 22
const library = await import(isOld ? 'better-sqlite3' : 'better-sqlite3-13')
const Database: typeof Library = library.default

export default Database
