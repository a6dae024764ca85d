/**
 * The difference of two texts: first of their lines, then of the characters within the lines that changed. Lines first is what
 * keeps large and hostile texts quick.
 */
import { Change, diff, presentableDiff } from '@codemirror/merge';

/** How long the comparison may take before it becomes coarse. */
const LINES_MS = 400;
const CHARACTERS_MS = 150;
/** Longer changes are marked as a whole. */
const MOST_CHARACTERS = 20_000;
/** A line is a character of an alphabet while lines are compared; surrogates are none, since the algorithm keeps pairs together. */
const ALPHABET = 0xd800;
/** Longer lines are cut for the page: a browser lays out each line as a whole. */
const LONGEST_LINE = 5_000;
/** Texts of more lines are not shown: no program is written like that. */
const MOST_LINES = 200_000;

export interface TextDiff {
  /** The texts as they are shown: long lines are cut. The old one: without white space it has the new text's white space where nothing else differs. */
  old: string;
  new: string;
  changes: readonly Change[];
}

/** Whether a text has more lines than the page shows. */
export function hasTooManyLines(text: string): boolean {
  let lines = 0;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) if ((lines += 1) > MOST_LINES) return true;
  return false;
}

const cut = (line: string): string =>
  line.length > LONGEST_LINE ? `${line.slice(0, LONGEST_LINE)} … and ${line.length - LONGEST_LINE} more characters` : line;

/** A text with its long lines cut. */
export function cutLines(text: string): string {
  return text.length > LONGEST_LINE ? text.split('\n').map(cut).join('\n') : text;
}

/** Numbers for lines: the same for lines that count as equal. */
class Alphabet {
  readonly #letters = new Map<string, number>();

  constructor(readonly ignoreSpace: boolean) {}

  /** The lines as one string of a letter each; null if there are too many different ones. */
  spell(lines: readonly string[]): string | null {
    const codes: string[] = [];
    for (const line of lines) {
      const key = this.ignoreSpace ? line.replace(/\s+/g, '') : line;
      const letter = this.#letters.get(key) ?? this.#letters.size + 1;
      if (letter >= ALPHABET) return null;
      this.#letters.set(key, letter);
      codes.push(String.fromCharCode(letter));
    }
    return codes.join('');
  }
}

/** Where each line begins, and behind them the end of the text with its line break. */
function starts(lines: readonly string[]): number[] {
  const at = [0];
  for (const line of lines) at.push((at.at(-1) ?? 0) + line.length + 1);
  return at;
}

/** The changes of lines, in lines. */
function compareLines(oldLines: readonly string[], newLines: readonly string[], ignoreSpace: boolean): readonly Change[] {
  const alphabet = new Alphabet(ignoreSpace);
  const a = alphabet.spell(oldLines);
  const b = alphabet.spell(newLines);
  if (a === null || b === null) return [new Change(0, oldLines.length, 0, newLines.length)];
  return diff(a, b, { scanLimit: 20_000, timeout: LINES_MS });
}

/** The old lines, with the new ones in place of those that differ in white space only. */
function withNewSpace(oldLines: readonly string[], newLines: readonly string[], changes: readonly Change[]): string[] {
  const lines = [...oldLines];
  let [atOld, atNew] = [0, 0];
  for (const change of [...changes, new Change(oldLines.length, oldLines.length, newLines.length, newLines.length)]) {
    for (; atOld < change.fromA; atOld += 1, atNew += 1) lines[atOld] = newLines[atNew] ?? '';
    [atOld, atNew] = [change.toA, change.toB];
  }
  return lines;
}

/** The difference as CodeMirror's views take it: line breaks are `\n`. */
export function compareTexts(oldText: string, newText: string, ignoreSpace: boolean): TextDiff {
  const [before, after] = [oldText.split('\n'), newText.split('\n')];
  const lines = compareLines(before, after, ignoreSpace);
  const oldLines = (ignoreSpace ? withNewSpace(before, after, lines) : before).map(cut);
  const newLines = after.map(cut);
  const [old, text] = [oldLines.join('\n'), newLines.join('\n')];
  const [startsA, startsB] = [starts(oldLines), starts(newLines)];
  const until = Date.now() + CHARACTERS_MS;
  const changes = lines.flatMap(({ fromA, toA, fromB, toB }) => {
    let [a, b] = [startsA[fromA] ?? 0, startsB[fromB] ?? 0];
    // Behind the last line there is no break: what is added or removed there begins with the break before it.
    if (a > old.length || b > text.length) [a, b] = [a - 1, b - 1];
    const [endA, endB] = [Math.min(startsA[toA] ?? 0, old.length), Math.min(startsB[toB] ?? 0, text.length)];
    const isSmall = endA - a + endB - b <= MOST_CHARACTERS;
    if (a === endA || b === endB || !isSmall || Date.now() > until) return [new Change(a, endA, b, endB)];
    const within = presentableDiff(old.slice(a, endA), text.slice(b, endB), { scanLimit: 500, timeout: CHARACTERS_MS });
    return within.map((one) => new Change(one.fromA + a, one.toA + a, one.fromB + b, one.toB + b));
  });
  return { old, new: text, changes };
}
