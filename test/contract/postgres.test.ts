import t from 'tap'
import { startPostgres, withStack } from '../support/postgres-stack.js'
import { storageContract } from './storage-contract.js'

await withStack(t, startPostgres, (server) => storageContract(t, 'Postgres', () => server.place()))
