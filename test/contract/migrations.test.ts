import t from 'tap'
import { readMigrations } from '../../adapters/storage/migrations.js'

/** A line for each file that a database may have, as it was then. */
const kept = {
  postgres: {
    '20261123000000_init': '0cc464e2324aadd2c800b6a376c590a65b6c51e549c763c150b78e7fd887d185',
    '20261123090000_llm_usage': 'e0b185889eedfa5639e9b8305884144fa62400069a9161df7d568cd12f7e0ba4',
    '20261127000000_page_size': '37942205327f41bab0e4de0c00e49655c05dba526d615a440a2f356414f7972d'
  },
  sqlite: {
    '20261123000000_init': 'eeb8ad6ddb9824c5870f48044c5dfc723cb6343ebaa83dd68f093a4da4bdc3b4',
    '20261123090000_llm_usage': '5415fe2d8c47cd9855da0b867fc39ae6a3cda758ab90080cf3d295548d49e485'
  }
}

t.test(
  'no migration is edited or taken away: databases that have it would be refused',
  async (t) => {
    for (const dialect of ['postgres', 'sqlite'] as const) {
      const files = readMigrations(dialect).map(({ version, checksum }) => [version, checksum])
      t.match(Object.fromEntries(files), kept[dialect], dialect)
    }
  }
)
