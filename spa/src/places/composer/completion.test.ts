import { expect, it } from 'vitest';

import { wordAt } from './completion.svelte';

it.each([
  ['@', 1, { kind: 'file', text: '', start: 0 }],
  ['look at @src/a', 14, { kind: 'file', text: 'src/a', start: 8 }],
  ['@src/a and', 6, { kind: 'file', text: 'src/a', start: 0 }],
  ['a@b', 3, null],
  ['/', 1, { kind: 'command', text: '', start: 0 }],
  ['/com', 4, { kind: 'command', text: 'com', start: 0 }],
  ['and /com', 8, null],
  ['/com pact', 9, null],
])('finds the word in "%s" at %i', (value, cursor, wanted) => {
  expect(wordAt(value, cursor)).toEqual(wanted);
});
