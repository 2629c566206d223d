import { Type } from '@sinclair/typebox'
import t from 'tap'
import { Choice, Email, Json, Line, Nullable, Text, TextId, Uuid } from '../schemas/fields.js'
import { patterns } from '../schemas/patterns.js'
import { defineResource } from '../schemas/resource.js'

t.test('what may be as long as a request is known, so that pages end in time', async (t) => {
  const { columns } = defineResource({
    name: 'things',
    singular: 'thing',
    description: 'Things.',
    fields: {
      id: Uuid(),
      text: Text('Any'),
      json: Nullable(Json({})),
      // It says what the text is made of, and not how long it is.
      patterned: Type.String({ minLength: 1, pattern: patterns.notBlank }),
      line: Line('Short'),
      email: Email('ada@example.com'),
      choice: Choice(['a', 'b']),
      reference: Nullable(TextId('thing_1'))
    },
    key: 'id',
    keys: 'uuid',
    required: [],
    optional: [],
    filters: [],
    audited: false
  })
  const unbounded = columns.filter((column) => column.unbounded).map(({ name }) => name)
  t.strictSame(unbounded, ['text', 'json', 'patterned'])
})
