/** Finds what a person means by a few letters: in lists of sessions, projects and commands. */

/** Value of one word of the search by where it fits; a name always beats a detail. */
const WORTH = { whole: 100, start: 80, wordStart: 60, inside: 40, initials: 30, scattered: 10, detail: 5 };

const SEPARATOR = /[\s\-_./·]+/;

function initials(text: string): string {
  return text
    .split(SEPARATOR)
    .map((part) => part.charAt(0))
    .join('');
}

/** Whether the letters occur in this order, with anything between them. */
function isScattered(letters: string, text: string): boolean {
  let at = -1;
  return Array.from(letters).every((letter) => (at = text.indexOf(letter, at + 1)) !== -1);
}

function worth(word: string, name: string, detail: string): number {
  if (name === word) return WORTH.whole;
  const at = name.indexOf(word);
  if (at === 0) return WORTH.start;
  if (name.split(SEPARATOR).some((part) => part.startsWith(word))) return WORTH.wordStart;
  if (at > 0) return WORTH.inside;
  if (word.length > 1 && initials(name).startsWith(word)) return WORTH.initials;
  if (detail.includes(word)) return WORTH.detail;
  return word.length > 2 && isScattered(word, name) ? WORTH.scattered : 0;
}

/** How well a search fits a name and its detail: 0 is not at all, since every word must fit somewhere. */
export function fit(search: string, name: string, detail = ''): number {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  const values = words.map((word) => worth(word, name.toLowerCase(), detail.toLowerCase()));
  return values.includes(0) ? 0 : values.reduce((sum, value) => sum + value, 0);
}

/** The items that fit, best first; equals keep their order. An empty search gives all. */
export function find<T>(search: string, items: readonly T[], texts: (item: T) => readonly [string, string]): T[] {
  if (!search.trim()) return [...items];
  return items
    .map((item) => ({ item, value: fit(search, ...texts(item)) }))
    .filter(({ value }) => value > 0)
    .sort((a, b) => b.value - a.value)
    .map(({ item }) => item);
}
