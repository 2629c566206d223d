import type { AnyResource } from '../schemas/resource.js'

/** What one row of a resource is called in a sentence. */
export function wordsOf({ singular }: AnyResource): string {
  return singular.replaceAll('_', ' ').replace(/^api\b/, 'API')
}

export function withArticle(words: string): string {
  return `${/^[aeiou]/i.test(words) && !words.startsWith('us') ? 'an' : 'a'} ${words}`
}

export function pluralOf(words: string): string {
  return `${words.replace(/(?<=[^aeiou])y$/, 'ie')}s`
}
