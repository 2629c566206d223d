import t from 'tap'
import { decodeCursor, encodeCursor } from '../../adapters/storage/cursor.js'

const position = { at: '2026-01-31T09:30:00.000Z', key: 'flow_1' }

t.test('a cursor leads back to its place', async (t) => {
  t.strictSame(decodeCursor('list', encodeCursor('list', position)), position)
})

t.test('a cursor of another list, or of none, is refused', async (t) => {
  const cursor = encodeCursor('list', position)
  for (const text of [encodeCursor('other', position), `${cursor}=`, `${cursor}A`, 'null', '', '€'])
    t.throws(() => decodeCursor('list', text), { code: 'bad_cursor' }, text)
})

t.test('a cursor with an impossible time is refused', async (t) => {
  const cursor = encodeCursor('list', { ...position, at: '2026-02-31T09:30:00.000Z' })
  t.throws(() => decodeCursor('list', cursor), { code: 'bad_cursor' })
})
