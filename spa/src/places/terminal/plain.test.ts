import { expect, it } from 'vitest';

import { plain } from './plain';

it.each([
  ['colours', '\x1b[1;31mred\x1b[0m and \x1b[38:2::1:2:3mmore\x1b[m', 'red and more'],
  ['links', '\x1b]8;;https://example.com\x1b\\here\x1b]8;;\x07 now', 'here now'],
  ['other character sets', '\x1b(0\x0eqqq\x0f\x1b(B', 'qqq'],
  ['what would move a cursor', 'ls\r\x08\x9b2Jrm', 'ls2Jrm'],
  ['blanks at the end', 'one   \n\ttwo \n\n\n', 'one\n\ttwo'],
])('leaves out %s', (_, shown, text) => {
  expect(plain(shown)).toBe(text);
});
