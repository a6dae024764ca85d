import { expect, it } from 'vitest';

import { Deck } from './deck.svelte';

const names = (count: number) => Array.from({ length: count }, (_, index) => `s${index + 1}`);

it('keeps the twelve that were shown last', () => {
  const deck = new Deck();
  for (const id of [...names(12), 's1', 's13']) deck.show(id);
  expect(deck.ids).not.toContain('s2');
  expect(deck.ids).toHaveLength(12);
  expect(deck.recent.slice(0, 2)).toEqual(['s13', 's1']);
});

it('keeps what has something unsaved in it, until it is saved', () => {
  const deck = new Deck();
  deck.show('s1');
  deck.hold('s1', true);
  for (const id of names(20)) deck.show(id);
  expect(deck.ids).toContain('s1');
  deck.hold('s1', false);
  for (const id of names(20).slice(1)) deck.show(id);
  expect(deck.ids).not.toContain('s1');
});
