import { escapeRegExp } from '../escape-regexp.js'
import { ApiError } from '../problems.js'

export interface ModerationRules {
  readonly bannedTerms: readonly string[]
  /** Whether answers are held against the terms, too. */
  readonly answers: boolean
  /** Most characters (code points) of prompt and system prompt together. */
  readonly maxChars: number
}

export interface Moderation {
  /** @throws ApiError `prompt_too_large` or `banned_term`. They name the rule and never the text. */
  assertAllowed(request: { readonly prompt: string; readonly system?: string | undefined }): void
  /** Whether a whole answer may be sent. */
  passes(answer: string): boolean
  /** A gate for one streamed answer. */
  openGate(): Gate
}

/** Lets an answer through only as far as no banned term can begin in what has passed. */
export interface Gate {
  /**
   * What may be sent by now; empty while everything is held back.
   * @throws ApiError `answer_withheld`
   */
  push(piece: string): string
  /** The rest. @throws ApiError `answer_withheld` */
  end(): string
}

export function createModeration({ bannedTerms, answers, maxChars }: ModerationRules): Moderation {
  const terms = compileTerms(bannedTerms)

  return {
    assertAllowed({ prompt, system = '' }) {
      if (longerThan(maxChars, prompt, system))
        throw new ApiError(
          'prompt_too_large',
          `The request breaks the rule max_prompt_chars: prompt and system together may have ${maxChars} characters.`
        )
      if (terms && (terms.occursIn(prompt) || terms.occursIn(system)))
        throw new ApiError('banned_term')
    },

    passes: (answer) => !(answers && terms?.occursIn(answer)),

    openGate() {
      return answers && terms ? createGate(terms) : openGate
    }
  }
}

/** @throws ApiError `answer_withheld` */
export function withhold(): never {
  throw new ApiError('answer_withheld')
}

const openGate: Gate = { push: (piece) => piece, end: () => '' }

function longerThan(limit: number, ...texts: readonly string[]): boolean {
  const units = texts.reduce((sum, { length }) => sum + length, 0)
  // A character is one or two units: only in between must they be counted.
  if (units <= limit) return false
  if (units > 2 * limit) return true
  return texts.reduce((sum, text) => sum + [...text].length, 0) > limit
}

interface Terms {
  occursIn(text: string): boolean
  /** Whether a term stands in the folded text, its end being certain whatever follows. */
  endsIn(folded: string): boolean
  /** Where the first term may begin that goes on behind the text; the text's length without one. */
  startOfOpenTerm(folded: string): number
}

/** Letters of scripts that put no spaces between words: each is a word, as UAX #29 has it. */
const UNSPACED = '[\\p{sc=Han}\\p{sc=Hira}\\p{sc=Thai}\\p{sc=Laoo}\\p{sc=Khmr}\\p{sc=Mymr}]'
/**
 * Of all others, what belongs to a word, so that a term next to it is not a whole word. Not the underscore,
 * which is emphasis where models write Markdown.
 */
const SPACED = `[[\\p{L}\\p{N}]--${UNSPACED}]`
const isSpaced = new RegExp(`^${SPACED}`, 'v')
const isUnspaced = new RegExp(`^${UNSPACED}`, 'v')
const endsInWord = new RegExp(`${SPACED}\\p{M}*$`, 'v')
const NOT_BEHIND_WORD = `(?<!${SPACED}\\p{M}*)`
const notBehindWord = new RegExp(NOT_BEHIND_WORD, 'vy')

function compileTerms(given: readonly string[]): Terms | null {
  // A mark at the start would belong to whatever stands before the term.
  const folded = given.map((term) =>
    fold(term)
      .replace(/^[\p{M}\s]+/u, '')
      .trimEnd()
  )
  const terms = [...new Set(folded)].filter((term) => term !== '')
  if (terms.length === 0) return null
  const longest = Math.max(...terms.map(({ length }) => length))
  const beginnings = new Set(terms.flatMap(beginningsOf))
  // A mark after a letter makes it another, in every script.
  const whole = anyOf(terms, `(?![${SPACED}\\p{M}])`, '(?!\\p{M})')
  const certain = anyOf(terms, `(?=[^${SPACED}\\p{M}])`, '(?=\\P{M})')

  function mayBegin(open: string, at: number): boolean {
    if (!beginnings.has(open.slice(at))) return false
    notBehindWord.lastIndex = at
    return !isSpaced.test(open.slice(at, at + 2)) || notBehindWord.test(open)
  }

  return {
    occursIn: (text) => whole.test(fold(text)),
    endsIn: (folded) => certain.test(folded),
    startOfOpenTerm(folded) {
      // Marks that follow may belong before the last ones.
      const open = folded.replace(lastMarks, '')
      for (let at = Math.max(0, open.length - longest); at < open.length; at++)
        if (mayBegin(open, at)) return at
      return folded.length
    }
  }
}

function beginningsOf(term: string): string[] {
  return Array.from({ length: term.length }, (_, index) => term.slice(0, index + 1))
}

/** Terms with the same surroundings stand together: an alternation of mere texts is a quick one. */
function anyOf(terms: readonly string[], afterSpaced: string, afterUnspaced: string): RegExp {
  const groups = new Map<string, { before: string; texts: string[]; after: string }>()
  for (const term of terms) {
    const last = [...term.replace(lastMarks, '')].at(-1) ?? ''
    const before = isSpaced.test(term) ? NOT_BEHIND_WORD : ''
    // A term such as `c++` has no word at its end, so anything may follow.
    const after = isSpaced.test(last) ? afterSpaced : isUnspaced.test(last) ? afterUnspaced : ''
    const group = groups.get(before + after) ?? { before, texts: [], after }
    group.texts.push(escapeRegExp(term))
    groups.set(before + after, group)
  }
  const alternatives = [...groups.values()].map(
    ({ before, texts, after }) => `${before}(?:${texts.join('|')})${after}`
  )
  return new RegExp(alternatives.join('|'), 'v')
}

/**
 * The form in which texts are compared: compatibility-decomposed, without case, without characters
 * that do not show, white space as single spaces. Decomposed and not composed, so that each
 * character folds alike whatever stands beside it, which the gate depends on.
 */
function fold(text: string): string {
  // What does not show goes first: some of it are marks, and would leave no room for those that do.
  const decomposed = decompose(text.replace(hidden, ''))
  // The iota below a letter is a mark, and as a capital a letter, before which no mark goes any more. It does
  // not count, for it would fold by what comes later.
  const shown = decomposed.replaceAll('\u0345', '')
  // Some letters have no capital and some are none: all agree after both.
  const caseless = shown.toLowerCase().toUpperCase().toLowerCase()
  return decompose(caseless)
    .replaceAll('ς', 'σ')
    .replace(/[\s\x85]+/gu, ' ')
}

/** What does not show: control characters, too, but for those that are white space. */
const HIDDEN = '\\p{Default_Ignorable_Code_Point}\\0-\\x08\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f'
const hidden = new RegExp(`[${HIDDEN}]`, 'gu')

/** Of a text that is not folded: the two letters become marks when they are decomposed. */
const MARK = '\\p{M}\\uff9e\\uff9f'
/** Marks without end, of which the first are kept: as many as UAX #15 allows in a stream-safe text. */
const endlessMarks = new RegExp(`([${MARK}]{30})[${MARK}]+`, 'gu')
const lastMarks = /\p{M}+$/u

/** Bounded first: to put marks in order takes the square of their number. */
function decompose(text: string): string {
  return text.replace(endlessMarks, '$1').normalize('NFKD')
}

/**
 * A held text of this length is a character with endless marks or a term as long. To look at it
 * again for each piece would take ever longer.
 */
const MANY = 1000

const JOINED = `${MARK}${HIDDEN}`
/** A character together with the marks that follow it: what folds as one. */
const characters = new RegExp(`[^${JOINED}]?[${JOINED}]*`, 'gu')

/** The first half of a character whose second is yet to come. */
const half = /[\ud800-\udbff]$/

function createGate(terms: Terms): Gate {
  /** What has come and not passed yet. */
  let held = ''
  /** The length of the held text at which it is looked at again. */
  let enough = 0
  /** Stands for the last character that has passed: a word, a space, or nothing of interest. */
  let passed: '' | ' ' | typeof INSIDE_WORD = ''

  /** The held text, folded, and for each unit of it where its character begins in the raw text. */
  function foldHeld() {
    let folded: string = passed
    let endsInSpace = passed === ' '
    const starts: number[] = Array(passed.length).fill(0)
    let last = 0
    for (const { 0: character, index } of held.replace(half, '').matchAll(characters)) {
      if (character === '') continue
      last = index
      let part = isPlain(character) ? character.toLowerCase() : fold(character)
      if (endsInSpace && part.startsWith(' ')) part = part.slice(1)
      if (part !== '') endsInSpace = part.endsWith(' ')
      folded += part
      for (let unit = 0; unit < part.length; unit++) starts.push(index)
    }
    return { folded, starts, last }
  }

  function remember(gone: string): void {
    if (gone !== '') passed = endsInWord.test(gone) ? INSIDE_WORD : gone.endsWith(' ') ? ' ' : ''
  }

  return {
    push(piece) {
      held += piece
      if (held.length < enough) return ''
      const { folded, starts, last } = foldHeld()
      if (terms.endsIn(folded)) withhold()
      // The last character stays in any case: a mark may follow and make it another.
      const end = Math.min(starts[terms.startOfOpenTerm(folded)] ?? last, last)
      const released = held.slice(0, end)
      held = held.slice(end)
      enough = held.length > MANY ? held.length * 1.1 : 0
      const kept = starts.findIndex((start, unit) => unit >= passed.length && start >= end)
      remember(kept < 0 ? folded : folded.slice(0, kept))
      return released
    },

    end() {
      // A space ends whatever word is open.
      if (terms.endsIn(`${foldHeld().folded} `)) withhold()
      const rest = held
      held = ''
      return rest
    }
  }
}

/** A capital letter: no folded term has one. */
const INSIDE_WORD = 'Q'

function isPlain(character: string): boolean {
  return character.length === 1 && character >= ' ' && character <= '~'
}
