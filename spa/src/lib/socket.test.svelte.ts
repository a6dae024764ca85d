import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { fakeBrowser, FakeSocket } from '../test/fakes';
import { ReconnectingSocket, socketUrl } from './socket.svelte';

const received: unknown[] = [];
let socket: ReconnectingSocket;

function connect(): ReconnectingSocket {
  return new ReconnectingSocket({
    url: () => socketUrl('/ws/x'),
    protocol: 'x.v1',
    isFinal: (code) => code === 1000 || code >= 4000,
    onMessage: (data) => received.push(data),
  });
}

beforeEach(() => {
  vi.useFakeTimers();
  fakeBrowser();
  received.length = 0;
  socket = connect();
});

afterEach(() => {
  socket.dispose();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe('a socket', () => {
  it('connects at once, for binary frames, with its subprotocol', () => {
    expect(FakeSocket.last).toMatchObject({ url: 'ws://127.0.0.1:3000/ws/x', protocol: 'x.v1', binaryType: 'arraybuffer' });
    expect(socket.state).toBe('connecting');
    FakeSocket.last.open();
    expect(socket.state).toBe('open');
  });

  it.each([
    [1000, 'closed'],
    [4404, 'closed'],
    [1001, 'waiting'],
    [1006, 'waiting'],
    [1013, 'waiting'],
  ])('that is closed with %i is %s', (code, state) => {
    FakeSocket.last.open();
    FakeSocket.last.lose(code, 'why');
    expect({ state: socket.state, code: socket.closeCode, reason: socket.closeReason }).toEqual({ state, code, reason: 'why' });
    vi.advanceTimersByTime(60_000);
    expect(FakeSocket.all.length > 1).toBe(state === 'waiting');
  });

  it('waits longer after each failure, but never longer than 18 s', () => {
    const waits = Array.from({ length: 9 }, () => {
      FakeSocket.last.lose(1006);
      const wait = socket.retryAt - Date.now();
      vi.advanceTimersByTime(wait);
      return wait;
    });
    expect(waits[0]).toBeLessThan(500);
    expect(waits[3]).toBeGreaterThan(waits[0] ?? 0);
    expect(Math.max(...waits)).toBeLessThanOrEqual(18_000);
  });

  it('counts failures anew only after a steady connection', () => {
    FakeSocket.last.lose(1006);
    socket.reconnect();
    FakeSocket.last.open();
    FakeSocket.last.lose(1006);
    expect(socket.attempt).toBe(2);
    socket.reconnect();
    FakeSocket.last.open();
    vi.advanceTimersByTime(5_000);
    expect(socket.attempt).toBe(0);
  });

  it('gives up a connection that never opens, and tries another', () => {
    vi.advanceTimersByTime(10_000);
    expect(socket.state).toBe('waiting');
    vi.advanceTimersByTime(1_000);
    expect(FakeSocket.all).toHaveLength(2);
  });

  it('sends nothing that was typed while it was not open', () => {
    expect(socket.send('lost')).toBe(false);
    FakeSocket.last.open();
    expect(socket.send('kept')).toBe(true);
    expect(FakeSocket.last.sent).toEqual(['kept']);
  });

  it('tries at once when the network is back', () => {
    FakeSocket.last.lose(1006);
    window.dispatchEvent(new Event('online'));
    expect(socket.state).toBe('connecting');
    expect(FakeSocket.all).toHaveLength(2);
  });

  it('doubts an open connection after the machine slept', () => {
    FakeSocket.last.open();
    vi.setSystemTime(Date.now() + 3_600_000);
    vi.advanceTimersByTime(5_000);
    expect(FakeSocket.all).toHaveLength(2);
    expect(FakeSocket.all[0]?.closed).toBe(true);
  });

  it('that was disposed of stays closed, whatever comes', () => {
    const old = FakeSocket.last;
    old.open();
    socket.dispose();
    window.dispatchEvent(new Event('online'));
    old.say('late');
    vi.advanceTimersByTime(60_000);
    expect({ state: socket.state, sockets: FakeSocket.all.length, received }).toEqual({ state: 'closed', sockets: 1, received: [] });
  });
});
