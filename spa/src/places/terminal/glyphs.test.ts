import { Terminal } from '@xterm/xterm';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { COMPLEX, screenOf } from './glyphs';

const FAMILY = '👨‍👩‍👧';

/** Writes, and gives the row that comes of it, with the column of the cursor. */
async function written(terminal: Terminal, ...pieces: (string | Uint8Array)[]): Promise<[string | undefined, number]> {
  const screen = screenOf(terminal);
  for (const piece of pieces.slice(0, -1)) screen.write(piece);
  await new Promise<void>((done) => screen.write(pieces.at(-1) ?? '', done));
  return [terminal.buffer.active.getLine(0)?.translateToString(true), terminal.buffer.active.cursorX];
}

let terminal: Terminal;

beforeEach(() => {
  // With it the add-on takes its table out of Node's shared memory, from the wrong place.
  vi.stubGlobal('Buffer', undefined);
  terminal = new Terminal({ allowProposedApi: true });
});

afterEach(() => {
  terminal.dispose();
  vi.unstubAllGlobals();
});

it('leaves what every terminal can draw to xterm.js alone', async () => {
  expect(await written(terminal, '❯ ✻ größer │ 中文 ⏵⏵')).toEqual(['❯ ✻ größer │ 中文 ⏵⏵', 20]);
  expect(terminal.unicode.versions).toEqual(['6']);
});

it.each([
  ['an emoji', '🙂', 2],
  ['a family of joined emoji', FAMILY, 2],
  ['a letter with a mark', 'é', 1],
])('draws %s in its own width', async (_, text, width) => {
  expect(await written(terminal, `${text}!`)).toEqual([`${text}!`, width + 1]);
});

it('notices a character that is spread over two pieces, and keeps the order of all', async () => {
  const bytes = new TextEncoder().encode('a🙂b');
  expect(await written(terminal, bytes.slice(0, 3), bytes.slice(3), 'c', 'd')).toEqual(['a🙂bcd', 6]);
});

it('forgets what waited when the screen is reset, as it forgets what was drawn', async () => {
  const screen = screenOf(terminal);
  screen.write('🙂 of the old connection');
  screen.reset();
  await new Promise<void>((done) => screen.write('new', done));
  expect(terminal.buffer.active.getLine(0)?.translateToString(true)).toBe('new');
});

it('knows every character that xterm.js alone and its add-on see in two ways', async () => {
  await written(terminal, '🙂');
  const core = (terminal as unknown as { _core: { unicodeService: { charProperties: (code: number, before: number) => number } } })._core;
  const AFTER_A_LETTER = 2;
  /** Width, and whether it is drawn with a letter before it. */
  const seen = (version: string, code: number): number[] => {
    terminal.unicode.activeVersion = version;
    const { unicodeService: table } = core;
    return [table.charProperties(code, 0) & 6, table.charProperties(code, AFTER_A_LETTER) & 1];
  };
  const missed: string[] = [];
  for (let code = 0xa0; code < 0x20000; code += 1) {
    const character = String.fromCodePoint(code);
    if (/[\p{Cn}\p{Cs}]/u.test(character) || COMPLEX.test(character)) continue;
    if (seen('6', code).join() !== seen('15-graphemes', code).join()) missed.push(code.toString(16));
  }
  expect(missed).toEqual([]);
});
