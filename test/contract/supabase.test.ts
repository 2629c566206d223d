import t from 'tap'
import { withOwnRowsOnly } from '../support/own-rows.js'
import { withStack } from '../support/postgres-stack.js'
import { openSupabaseProject } from '../support/supabase-stack.js'
import { storageContract } from './storage-contract.js'

const isShared = Boolean(process.env.SUPABASE_TEST_URL)

await withStack(t, openSupabaseProject, (project) =>
  storageContract(t, 'Supabase', async () =>
    isShared ? withOwnRowsOnly(await project.place()) : project.place()
  )
)
