import { Chunk } from '@codemirror/merge';
import { Text } from '@codemirror/state';
import { describe, expect, it } from 'vitest';

import { compareTexts, hasTooManyLines } from './line-diff';

/** What is shown as changed: the lines on both sides of each chunk. */
function shown(oldText: string, newText: string, ignoreSpace = false): [string, string][] {
  const { old, new: text, changes } = compareTexts(oldText, newText, ignoreSpace);
  const [a, b] = [Text.of(old.split('\n')), Text.of(text.split('\n'))];
  const chunks = Chunk.build(a, b, { override: () => [...changes] });
  return chunks.map((one) => [a.sliceString(one.fromA, Math.min(one.toA, a.length)), b.sliceString(one.fromB, Math.min(one.toB, b.length))]);
}

describe('compareTexts', () => {
  it.each([
    ['a changed line', 'a\nb\nc\n', 'a\nB\nc\n', [['b\n', 'B\n']]],
    ['an added line', 'a\nc\n', 'a\nb\nc\n', [['', 'b\n']]],
    ['a removed line', 'a\nb\nc\n', 'a\nc\n', [['b\n', '']]],
    ['a line added at the end', 'a\n', 'a\nb\n', [['', 'b\n']]],
    ['a line behind one that has no break', 'a', 'a\nb', [['a', 'a\nb']]],
    ['a last line removed, and its break', 'a\nb', 'a', [['a\nb', 'a']]],
    ['the first text of an empty file', '', 'x', [['', 'x']]],
    ['two places', 'a\nb\nc\nd\ne\nf\ng\n', 'A\nb\nc\nd\ne\nf\nG\n', [['a\n', 'A\n'], ['g\n', 'G\n']]],
    ['nothing', 'a\nb\n', 'a\nb\n', []],
  ])('finds %s', (_what, before, after, chunks) => {
    expect(shown(before, after)).toEqual(chunks);
  });

  it('marks what changed within a line', () => {
    const { changes } = compareTexts('const total = 1;\n', 'const total = 2;\n', false);
    expect(changes.map(({ fromA, toA, fromB, toB }) => [fromA, toA, fromB, toB])).toEqual([[14, 15, 14, 15]]);
  });

  it('leaves out what differs in white space only, where one asks for that', () => {
    expect(shown('if (a) {\n  b\n}\nc\n', 'if (a) {\n\tb \n}\nC\n', true)).toEqual([['c\n', 'C\n']]);
  });

  it('takes the new white space for the old side, so that both sides have the same length', () => {
    expect(compareTexts('  a\nb\n', '\ta\nb\n', true)).toEqual({ old: '\ta\nb\n', new: '\ta\nb\n', changes: [] });
  });

  it('copes with more different lines than there are letters', () => {
    const many = (prefix: string): string => Array.from({ length: 60_000 }, (_, at) => `${prefix}${at}`).join('\n');
    expect(shown(many('a'), many('b'))).toHaveLength(1);
  });

  it('cuts a line that no browser could lay out, and still says that it changed', () => {
    const line = 'x'.repeat(1_000_000);
    const found = compareTexts(`a\n${line}\nb`, `a\n${line}y\nb`, false);
    expect(found.changes).toHaveLength(1);
    expect(found.new.split('\n').map(({ length }) => length)).toEqual([1, 5_029, 1]);
  });
});

it.each([
  ['\n'.repeat(200_000), false],
  ['\n'.repeat(200_001), true],
])('knows a text of too many lines', (text, isTooMany) => {
  expect(hasTooManyLines(text)).toBe(isTooMany);
});
