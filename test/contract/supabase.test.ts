import t from 'tap'
import { withStack } from '../support/postgres-stack.js'
import { openSupabaseProject } from '../support/supabase-stack.js'
import { storageContract } from './storage-contract.js'

await withStack(t, openSupabaseProject, (project) =>
  storageContract(t, 'Supabase', () => project.place())
)
