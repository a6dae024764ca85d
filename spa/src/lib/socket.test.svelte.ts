import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { fakeBrowser, FakeSocket } from '../test/fakes';
import { ReconnectingSocket, socketUrl } from './socket.svelte';

const received: unknown[] = [];
const losses: unknown[] = [];
let socket: ReconnectingSocket;

function connect(more: { answers?: boolean } = {}): ReconnectingSocket {
  return new ReconnectingSocket({
    ...more,
    url: () => socketUrl('/ws/x'),
    protocol: 'x.v1',
    isFinal: (code) => code === 1000 || code >= 4000,
    onMessage: (data) => received.push(data),
    onLost: (...loss) => losses.push(loss),
  });
}

/** It opens, answers nothing, and is given up for that. */
async function expectGivenUp(dead: FakeSocket): Promise<void> {
  dead.answers = false;
  dead.open();
  await vi.advanceTimersByTimeAsync(15_100);
  expect(dead.closed).toBe(true);
}

beforeEach(() => {
  vi.useFakeTimers();
  fakeBrowser();
  received.length = losses.length = 0;
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

  it('takes over a connection that was begun, with what came over it before', () => {
    FakeSocket.last.open();
    const begun = FakeSocket.last as unknown as WebSocket;
    const taking = new ReconnectingSocket({
      url: () => socketUrl('/ws/x'),
      protocol: 'x.v1',
      begun: { socket: begun, heard: ['early'] },
      isFinal: () => true,
      onMessage: (data) => received.push(data),
    });
    FakeSocket.last.say('late');
    expect([taking.state, received, FakeSocket.all.length]).toEqual(['open', ['early', 'late'], 1]);
    taking.dispose();
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

  it('asks after the machine slept whether it is still there, and stays if it is', async () => {
    FakeSocket.last.open();
    await vi.advanceTimersByTimeAsync(0);
    vi.setSystemTime(Date.now() + 3_600_000);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(FakeSocket.last.pings).toBe(2);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it.each([
    ['after the machine slept', () => vi.setSystemTime(Date.now() + 3_600_000), 10_000],
    ['when the page has the focus again', () => window.dispatchEvent(new Event('focus')), 3_100],
    ['when a frozen page goes on', () => document.dispatchEvent(new Event('resume')), 3_100],
    ['after some time without a word', () => undefined, 18_100],
    ['after something was typed', () => socket.type(Uint8Array.of(1)), 3_600],
  ])('gives up a connection that does not answer: %s', async (_when, act, within) => {
    const old = FakeSocket.last;
    old.open();
    await vi.advanceTimersByTimeAsync(1);
    old.answers = false;
    act();
    await vi.advanceTimersByTimeAsync(within);
    expect(old.closed).toBe(true);
    expect(FakeSocket.all).toHaveLength(2);
    expect(socket.attempt).toBe(1);
  });

  it('gives up one that came back, and is dead before it has answered anything', async () => {
    FakeSocket.last.open();
    await vi.advanceTimersByTimeAsync(1);
    FakeSocket.last.lose(1006);
    await vi.advanceTimersByTimeAsync(1_000);
    await expectGivenUp(FakeSocket.last);
  });

  it('gives up the first one, too, if the server is known to answer', async () => {
    socket.dispose();
    socket = connect({ answers: true });
    await expectGivenUp(FakeSocket.last);
  });

  it('leaves one alone that has never answered: the server does not know the question', async () => {
    FakeSocket.last.answers = false;
    FakeSocket.last.open();
    socket.type(Uint8Array.of(1));
    await vi.advanceTimersByTimeAsync(120_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it('bears a program that does not take a long paste for a minute', async () => {
    FakeSocket.last.open();
    await vi.advanceTimersByTimeAsync(1);
    FakeSocket.last.answers = false;
    socket.type(new Uint8Array(64 * 1024));
    await vi.advanceTimersByTimeAsync(55_000);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it('hears what arrived while its timers slept before it judges', async () => {
    FakeSocket.last.open();
    await vi.advanceTimersByTimeAsync(1);
    FakeSocket.last.answers = false;
    window.dispatchEvent(new Event('focus'));
    vi.setSystemTime(Date.now() + 60_000);
    await vi.advanceTimersByTimeAsync(3_000);
    FakeSocket.last.say('{"type": "pong"}');
    await vi.advanceTimersByTimeAsync(3_000);
    expect(FakeSocket.all).toHaveLength(1);
    expect(received).toEqual([]);
  });

  it.each([
    [true, false],
    [false, true],
  ])('knows whether what was typed has arrived (answered: %s)', async (answers, unconfirmed) => {
    FakeSocket.last.open();
    await vi.advanceTimersByTimeAsync(1);
    FakeSocket.last.answers = answers;
    socket.type(Uint8Array.of(1));
    await vi.advanceTimersByTimeAsync(1_000);
    FakeSocket.last.lose(1006);
    expect(losses).toEqual([[1006, unconfirmed]]);
  });

  it('begins anew what takes long to connect when there is news of the network', () => {
    window.dispatchEvent(new Event('online'));
    expect(FakeSocket.all).toHaveLength(1);
    vi.advanceTimersByTime(3_000);
    window.dispatchEvent(new Event('online'));
    expect(FakeSocket.all).toHaveLength(2);
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
