import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { ui } from '../../state/ui.svelte';
import { fakeServer } from '../../test/fakes';
import { Past } from './past.svelte';
import type { TerminalHost } from './terminal';

interface Made {
  host: TerminalHost;
  written: string;
  scrolled: number[];
  disposed: boolean;
}

const made: Made[] = [];

vi.mock('./terminal', () => ({
  SCROLLBACK_LINES: 100,
  openTerminal: (_element: unknown, _look: unknown, host: TerminalHost) => {
    const one: Made = { host, written: '', scrolled: [], disposed: false };
    made.push(one);
    const terminal = {
      write: (text: string, done: () => void) => {
        one.written = text;
        done();
      },
      scrollLines: (lines: number) => one.scrolled.push(lines),
      dispose: () => (one.disposed = true),
    };
    return { terminal, screen: terminal };
  },
}));

const host = {} as TerminalHost;
const look = () => ({ dark: true, fontSize: 13, fontFamily: '', searching: false, read: false, label: '' });
let ended: number;
let past: Past;
let answer: { status?: number; text?: string; json?: unknown };
let asked: string[];

beforeEach(() => {
  made.length = 0;
  ended = 0;
  asked = [];
  answer = { text: 'first\nlast\n' };
  fakeServer(({ path }) => {
    asked.push(path);
    return answer;
  });
  past = new Past('s', 'terminal', () => (ended += 1));
});

afterEach(() => vi.unstubAllGlobals());

const open = () => past.open({} as HTMLElement, look, host);

it('is scrolled as far as was asked before it came', async () => {
  past.scroll(-3);
  past.scroll(-4);
  await open();
  past.scroll(-1);
  expect(asked).toEqual(['/api/sessions/s/scrollback?lines=100']);
  expect(made[0]?.written).toMatch(/first\r\nlast$/);
  expect(made[0]?.scrolled).toEqual([-7, -1]);
});

it('is that of the shell for a shell', async () => {
  past = new Past('s', 'shell', () => undefined);
  await open();
  expect(asked).toEqual(['/api/sessions/s/scrollback?lines=100&shell=true']);
});

it('ends when it is scrolled beyond the screen, and not at its top', async () => {
  await open();
  made[0]?.host.onOverscroll?.(-1);
  expect(ended).toBe(0);
  made[0]?.host.onOverscroll?.(1);
  expect(ended).toBe(1);
});

it('ends when it was scrolled beyond the screen before it came', () => {
  void open();
  past.scroll(-3);
  past.scroll(3);
  expect(ended).toBe(0);
  past.scroll(3);
  expect(ended).toBe(1);
});

it('shows nothing any more when it was left before it came', async () => {
  const opening = open();
  past.dispose();
  await opening;
  expect([made.length, past.parts, ended]).toEqual([0, null, 0]);
});

it('takes its terminal with it', async () => {
  await open();
  past.dispose();
  expect(made[0]?.disposed).toBe(true);
});

it('says why it cannot be had, and ends', async () => {
  answer = { status: 409, json: { error: 'the session is not running' } };
  await open();
  expect([ended, past.parts]).toEqual([1, null]);
  expect(ui.toasts.at(-1)?.text).toContain('The session is not running');
});
