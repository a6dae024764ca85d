// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Session } from '../../lib/types';
import { sessions } from '../../state/sessions.svelte';
import { type Call, fakeServer, FakeSocket, someSession } from '../../test/fakes';
import type { TerminalHost } from './terminal';
import TerminalPane from './TerminalPane.svelte';

/** Types into the terminal that stands in for xterm.js. */
let type: (text: string) => void;
let written: string;
let opens: boolean;
let host: TerminalHost;

vi.mock('./terminal', () => ({
  SCROLLBACK_LINES: 100,
  openTerminal: (_element: unknown, _look: unknown, given: TerminalHost) => {
    if (!opens) throw new Error('the chunk is gone');
    host = given;
    const terminal = {
      cols: 80,
      rows: 24,
      modes: { applicationCursorKeysMode: false },
      onData: (listener: (text: string) => void) => (type = listener),
      onBinary: () => undefined,
      onResize: () => undefined,
      write: (data: Uint8Array | string, done?: () => void) => {
        written += typeof data === 'string' ? data : new TextDecoder().decode(data);
        done?.();
      },
      reset: () => (written = ''),
      focus: () => undefined,
      dispose: () => undefined,
    };
    return { terminal, fit: () => undefined, show: () => undefined };
  },
}));

let calls: Call[];

beforeEach(() => {
  opens = true;
  written = '';
  FakeSocket.all = [];
  vi.stubGlobal('WebSocket', FakeSocket);
  calls = fakeServer(({ path }) => ({ json: path === '/api/sessions' ? [] : { id: 'a', status: 'running' } }));
  sessions.unreachable = '';
});

afterEach(() => {
  cleanup();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const place = (fields: Partial<Session> = {}, kind: 'terminal' | 'shell' = 'terminal') =>
  render(TerminalPane, { session: someSession(fields), kind, visible: true });

async function connected(kind: 'terminal' | 'shell' = 'terminal'): Promise<FakeSocket> {
  place({}, kind);
  await vi.waitFor(() => expect(FakeSocket.all).toHaveLength(1));
  FakeSocket.last.open();
  flushSync();
  return FakeSocket.last;
}

it.each([
  [{ status: 'stopped' }, 'Stopped', /goes on with the conversation/],
  [{ status: 'stopped', paused: true }, 'Paused', /stands still/],
  [{ status: 'stopped', error: 'The disk is full.' }, 'Failed', /The disk is full/],
] as const)('says what became of a session that does not run, and resumes it: %o', async (fields, title, text) => {
  place(fields);
  expect(screen.getByRole('heading', { name: title })).toBeTruthy();
  expect(screen.getByText(text)).toBeTruthy();
  await userEvent.click(screen.getByRole('button', { name: 'Resume' }));
  expect(calls[0]).toMatchObject({ method: 'POST', path: '/api/sessions/a/resume' });
  expect(FakeSocket.all).toEqual([]);
});

it.each([
  ['starting', 'Starting …'],
  ['stopping', 'Stopping …'],
] as const)('waits while a session is %s', (status, title) => {
  place({ status });
  expect(screen.getByRole('heading', { name: title })).toBeTruthy();
  expect(screen.queryByRole('button', { name: 'Resume' })).toBeNull();
});

it('lets nothing be pressed in vain while Incus is away', () => {
  sessions.unreachable = 'The daemon does not answer.';
  place({ status: 'stopped' });
  expect(screen.getByRole<HTMLButtonElement>('button', { name: 'Resume' }).disabled).toBe(true);
});

it('offers a reload when the terminal cannot be loaded', async () => {
  opens = false;
  place();
  expect(await screen.findByRole('heading', { name: 'The terminal could not be loaded' })).toBeTruthy();
});

it('connects, shows what comes and sends what is typed', async () => {
  const socket = await connected();
  expect(socket.url).toContain('/ws/terminal/a?cols=80&rows=24');
  socket.say(new TextEncoder().encode('hello').buffer);
  type('x');
  expect([written, socket.sent]).toEqual(['hello', [Uint8Array.of(0x78)]]);
});

it('says that the shell ended, and opens another one on Enter', async () => {
  const socket = await connected('shell');
  socket.say('{"type":"exit","code":0,"reason":"The shell ended"}');
  socket.lose(1000);
  flushSync();
  expect(screen.getByRole('status').textContent).toMatch(/The shell ended\. +Press Enter to open it again\./);
  type('\r');
  expect(FakeSocket.all).toHaveLength(2);
});

it('says that keys go nowhere while it is not connected', async () => {
  const socket = await connected();
  vi.useFakeTimers(); // it does not try again by itself meanwhile
  socket.lose(1006);
  flushSync();
  expect(screen.getByRole('status').textContent).toContain('Not connected, keys go nowhere');
  screen.getByRole('button', { name: 'Try now' }).click();
  expect(FakeSocket.all).toHaveLength(2);
});

it('says why Incus does not answer', async () => {
  await connected();
  sessions.unreachable = 'The daemon does not answer.';
  flushSync();
  expect(screen.getByRole('status').textContent).toContain('The daemon does not answer.');
});

it('searches a shell as it does a tool: in what tmux keeps', async () => {
  await connected('shell');
  host.onSearch();
  flushSync();
  await vi.waitFor(() => expect(calls.map(({ path }) => path)).toContain('/api/sessions/a/scrollback?lines=100&shell=true'));
});
