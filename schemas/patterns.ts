/** The patterns of what requests hold: a field that has one takes it from here, so that it has words. */
export const patterns = {
  notBlank: '\\S',
  /** Of an id that a client may choose. */
  textId: '^[A-Za-z0-9][A-Za-z0-9._-]*$',
  /** No URL can end in one or two dots: they mean a folder. */
  secretName: '^(?!\\.{1,2}$)(?!.*\\p{C})[^\\s/\\\\]+$',
  /** No spaces: a name goes into logs and totals, and must not be a place to put a text. */
  modelName: '^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$',
  day: '^\\d{4}-\\d{2}-\\d{2}$',
  printable: '^[ -~]*$'
} as const

/** What is wrong with a text that does not match, to go after its name. */
export const patternsInWords: Readonly<Record<string, string>> = {
  [patterns.notBlank]: 'must not be blank',
  [patterns.textId]:
    'may have only A-Z, a-z, 0-9, ".", "_" and "-", and must begin with a letter or digit',
  [patterns.secretName]:
    'may have no spaces, control characters, "/" or "\\", and must not be "." or ".."',
  [patterns.modelName]:
    'may have only A-Z, a-z, 0-9 and "._:/@+-", and must begin with a letter or digit',
  [patterns.day]: 'must be a day such as 2026-01-31',
  [patterns.printable]: 'may have only letters, digits, signs and spaces of ASCII'
}
