import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { fakeBrowser, FakeSocket } from '../../test/fakes';
import { TerminalLink } from './terminal-link.svelte';

/** A screen that draws only when the test says so. */
class FakeScreen {
  cols = 120;
  rows = 40;
  drawn: string[] = [];
  undrawn: (() => void)[] = [];

  write(data: Uint8Array | string, done?: () => void): void {
    this.drawn.push(typeof data === 'string' ? data : new TextDecoder().decode(data));
    if (done) this.undrawn.push(done);
  }

  reset(): void {
    this.drawn = ['<reset>'];
  }
}

let screen: FakeScreen;
let link: TerminalLink;
const onKeysLost = vi.fn();

beforeEach(() => {
  vi.useFakeTimers();
  fakeBrowser();
  onKeysLost.mockClear();
  screen = new FakeScreen();
  link = new TerminalLink('clincus-a1b2c3-1', 'terminal', screen, onKeysLost);
});

afterEach(() => {
  link.dispose();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const output = (text: string): ArrayBuffer => new TextEncoder().encode(text).buffer;

describe('a terminal', () => {
  it('asks for its own size from the first byte, and for the size of the day when it comes back', () => {
    expect(FakeSocket.last.url).toBe('ws://127.0.0.1:3000/ws/terminal/clincus-a1b2c3-1?cols=120&rows=40&own_mouse=1');
    screen.cols = 80;
    link.reconnect();
    expect(FakeSocket.last.url).toContain('cols=80&rows=40');
  });

  it('stays held back for a screen that nobody sees, also after the connection came back', () => {
    FakeSocket.last.open();
    link.rest(true);
    expect(FakeSocket.last.sent).toEqual(['{"type":"pause"}']);
    link.reconnect();
    FakeSocket.last.open();
    expect(FakeSocket.last.sent).toEqual(['{"type":"pause"}']);
    link.rest(false);
    expect(FakeSocket.last.sent).toEqual(['{"type":"pause"}', '{"type":"resume"}']);
  });

  it('types bytes, and says a new size as JSON', () => {
    FakeSocket.last.open();
    link.type('é');
    link.typeBinary('\x1b[M\xff');
    link.resize(90, 30);
    expect(FakeSocket.last.sent).toEqual([
      Uint8Array.of(0xc3, 0xa9),
      Uint8Array.of(0x1b, 0x5b, 0x4d, 0xff),
      '{"type":"resize","cols":90,"rows":30}',
    ]);
  });

  it('in a page that nobody sees comes back only when somebody does', () => {
    FakeSocket.last.open();
    Object.assign(document, { visibilityState: 'hidden' });
    FakeSocket.last.lose(1001);
    vi.advanceTimersByTime(60_000);
    window.dispatchEvent(new Event('online'));
    expect(FakeSocket.all).toHaveLength(1);
    Object.assign(document, { visibilityState: 'visible' });
    document.dispatchEvent(new Event('visibilitychange'));
    expect(FakeSocket.all).toHaveLength(2);
  });

  it('pastes what is too long for one message in pieces', () => {
    FakeSocket.last.open();
    link.type('é'.repeat(100_000));
    const pieces = FakeSocket.last.sent as Uint8Array[];
    expect(pieces.map((piece) => piece.length)).toEqual([65_536, 65_536, 65_536, 3_392]);
    expect(new TextDecoder().decode(Uint8Array.from(pieces.flatMap((piece) => [...piece])))).toBe('é'.repeat(100_000));
  });

  it('says a size that changed while it connected', () => {
    screen.cols = 90;
    FakeSocket.last.open();
    expect(FakeSocket.last.sent).toEqual(['{"type":"resize","cols":90,"rows":40}']);
  });

  it.each([
    ['x', 1],
    ['\x1b[I', 0],
    ['\x1b[<35;1;1M', 0],
    ['\x1b[A', 1],
    ['\x1bP', 1],
  ])('tells once that a key was lost, not what xterm.js says by itself: %j', (text, told) => {
    FakeSocket.last.open();
    FakeSocket.last.lose(1006);
    link.type(text);
    link.type(text);
    link.reconnect();
    FakeSocket.last.open();
    FakeSocket.last.lose(1006);
    link.reconnect();
    FakeSocket.last.open();
    expect(onKeysLost).toHaveBeenCalledTimes(told);
    expect(FakeSocket.last.sent).toEqual([]);
  });

  it('starts with a clean screen when it comes back', () => {
    FakeSocket.last.open();
    FakeSocket.last.say(output('old'));
    FakeSocket.last.lose(1006);
    link.reconnect();
    FakeSocket.last.open();
    FakeSocket.last.say(output('new'));
    expect(screen.drawn).toEqual(['<reset>', 'new']);
  });

  it.each([
    [1000, 'closed'],
    [4404, 'closed'],
    [4409, 'closed'],
    [1001, 'waiting'],
    [1006, 'waiting'],
    [1011, 'waiting'],
    [1013, 'waiting'],
  ])('that is closed with %i is %s', (code, state) => {
    FakeSocket.last.open();
    FakeSocket.last.lose(code);
    expect(link.socket.state).toBe(state);
  });

  it('keeps what the server says of the end, and forgets it on the next start', () => {
    FakeSocket.last.open();
    FakeSocket.last.say('{"type":"exit","code":3,"reason":"The program ended with 3."}');
    expect(link.exit?.code).toBe(3);
    link.reconnect();
    expect(link.exit).toBeNull();
  });

  const MUCH = 100 * 1024;
  const asked = (): unknown[] => FakeSocket.last.sent.map((text) => JSON.parse(text as string) as unknown);

  it('has the output held back while the page cannot draw, and goes on on the same connection', () => {
    FakeSocket.last.open();
    for (let sent = 0; sent < 10; sent += 1) FakeSocket.last.say(new ArrayBuffer(MUCH));
    expect(asked()).toEqual([{ type: 'pause' }]);
    while (screen.undrawn.length > 1) screen.undrawn.shift()?.();
    expect(asked()).toEqual([{ type: 'pause' }]);
    screen.undrawn.shift()?.();
    expect(asked()).toEqual([{ type: 'pause' }, { type: 'resume' }]);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it('is not held back any more on a new connection, whatever the old one still draws', () => {
    FakeSocket.last.open();
    for (let sent = 0; sent < 10; sent += 1) FakeSocket.last.say(new ArrayBuffer(MUCH));
    link.reconnect();
    FakeSocket.last.open();
    for (const done of screen.undrawn) done();
    FakeSocket.last.say(new ArrayBuffer(MUCH));
    expect(asked()).toEqual([]);
  });

  it('holds nothing back with a screen that keeps up', () => {
    FakeSocket.last.open();
    for (let sent = 0; sent < 64; sent += 1) {
      FakeSocket.last.say(new ArrayBuffer(MUCH));
      screen.undrawn.pop()?.();
    }
    expect(asked()).toEqual([]);
  });
});

it('a shell is attached to again in the same way', () => {
  link.dispose();
  link = new TerminalLink('clincus-a1b2c3-1', 'shell', screen, onKeysLost);
  expect(FakeSocket.last.url).toBe('ws://127.0.0.1:3000/ws/shell/clincus-a1b2c3-1?cols=120&rows=40&own_mouse=1');
  FakeSocket.last.open();
  FakeSocket.last.say(output('old'));
  link.reconnect();
  FakeSocket.last.open();
  FakeSocket.last.say(output('new'));
  expect(screen.drawn).toEqual(['<reset>', 'new']);
});
