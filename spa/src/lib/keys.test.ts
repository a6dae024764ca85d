// @vitest-environment happy-dom
import { expect, it } from 'vitest';

import { isPaletteKey, sessionSwitch } from './keys';
import { shortcuts } from './shortcut-list';

const key = (code: string, ...held: ('ctrlKey' | 'altKey' | 'shiftKey' | 'metaKey')[]): KeyboardEvent =>
  new KeyboardEvent('keydown', { code, ...Object.fromEntries(held.map((name) => [name, true])) });

const CTRL_K = key('KeyK', 'ctrlKey');
const CTRL_SHIFT_K = key('KeyK', 'ctrlKey', 'shiftKey');
const ALT_0 = key('Digit0', 'altKey');

it.each([
  [CTRL_K, 'Alt 0', { outside: true, inside: false }],
  [ALT_0, 'Alt 0', { outside: true, inside: true }],
  [CTRL_SHIFT_K, 'Alt 0', { outside: false, inside: false }],
  [CTRL_K, 'Ctrl K', { outside: true, inside: true }],
  [CTRL_SHIFT_K, 'Ctrl Shift K', { outside: true, inside: true }],
  [ALT_0, 'Ctrl Shift K', { outside: false, inside: false }],
  [CTRL_K, 'none', { outside: true, inside: false }],
  [key('KeyK'), 'none', { outside: false, inside: false }],
] as const)('%o with “%s” chosen for terminals opens the palette: %o', (event, chosen, opens) => {
  expect({ outside: isPaletteKey(event, chosen, false), inside: isPaletteKey(event, chosen, true) }).toEqual(opens);
});

it('leaves Alt+0 out of the switch between sessions', () => {
  expect([sessionSwitch(ALT_0), sessionSwitch(key('Digit1', 'altKey'))]).toEqual([null, 1]);
});

it('lists the key that was chosen', () => {
  expect(shortcuts('Ctrl Shift K')[0]?.keys[0]).toEqual(['Ctrl Shift K', 'Command palette']);
  expect(shortcuts('none')[0]?.keys.map(([, what]) => what)).not.toContain('Command palette');
});
