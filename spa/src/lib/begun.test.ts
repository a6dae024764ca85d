import { afterEach, expect, it, vi } from 'vitest';

import { FakeSocket } from '../test/fakes';
import { takeAnswer, takeStream } from './begun';

const { signal } = new AbortController();
let begun: AbortController;

/** What start.js leaves. */
function begin(): FakeSocket {
  begun = new AbortController();
  vi.stubGlobal('WebSocket', FakeSocket);
  const socket = new FakeSocket('/ws/events', 'clincus.events.v1');
  const answers = { '/api/config': { answer: Promise.resolve(new Response('{}')), controller: begun } };
  vi.stubGlobal('begun', { stream: { socket, heard: ['first'] }, answers });
  return socket;
}

afterEach(() => vi.unstubAllGlobals());

it('gives the stream once', () => {
  const socket = begin();
  expect([takeStream(), takeStream()]).toEqual([{ socket, heard: ['first'] }, null]);
});

it('gives each answer once, and none that was not asked for', () => {
  begin();
  takeStream();
  const taken = ['/api/config', '/api/config', '/api/tools'].map((path) => takeAnswer(path, signal));
  expect(taken).toEqual([expect.any(Promise), undefined, undefined]);
});

it('gives up a request with the one that took it over', () => {
  begin();
  takeStream();
  const taker = new AbortController();
  void takeAnswer('/api/config', taker.signal);
  taker.abort();
  expect(begun.signal.aborted).toBe(true);
});

it('drops the answers with a stream that was lost, and gives them up', () => {
  begin().readyState = 3;
  expect([takeStream(), takeAnswer('/api/config', signal)]).toEqual([null, undefined]);
  expect(begun.signal.aborted).toBe(true);
});

it('gives nothing where nothing was begun', () => {
  expect([takeStream(), takeAnswer('/api/config', signal)]).toEqual([null, undefined]);
});
