import { expect, it } from 'vitest';

import { sentTexts, walk } from './history';
import type { Prompt } from './types';

const sent = (text: string): Prompt => ({ prompt_id: text, text, result: 'submitted', at: '', command: false });

it('has each text once, the newest first', () => {
  expect(sentTexts([sent('a'), sent('b'), sent('a')])).toEqual(['a', 'b']);
});

it.each([
  ['', 'ArrowUp', 'new'],
  ['new', 'ArrowUp', 'old'],
  ['old', 'ArrowUp', null],
  ['old', 'ArrowDown', 'new'],
  ['new', 'ArrowDown', ''],
  ['', 'ArrowDown', null],
  ['half a thought', 'ArrowUp', null],
  ['half a thought', 'ArrowDown', null],
])('leads from "%s" by %s to %s', (current, key, wanted) => {
  expect(walk(['new', 'old'], current, key)).toBe(wanted);
});
