// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

import { grow } from './grow';

afterEach(() => vi.unstubAllGlobals());

/** A field whose text is so high, with a border of one pixel. */
function fieldOf(scrollHeight: number): HTMLTextAreaElement {
  const field = document.createElement('textarea');
  for (const [name, value] of Object.entries({ scrollHeight, clientHeight: 30, offsetHeight: 32 }))
    Object.defineProperty(field, name, { value });
  return field;
}

it.each([
  ['grows with its text where the browser lacks field-sizing', false, 'a\nb\nc', '92px'],
  ['is one line again without text', false, '', 'auto'],
  ['is left to a browser that can', true, 'a\nb\nc', ''],
])('%s', (_, supported, text, height) => {
  vi.stubGlobal('CSS', { supports: () => supported });
  const field = fieldOf(90);
  grow(field, text);
  expect(field.style.height).toBe(height);
});
