import { afterEach, expect, it, vi } from 'vitest';

import { FakeSocket } from '../test/fakes';
import { takeAnswer, takeStream } from './begun';

/** What start.js leaves. */
function begin(): FakeSocket {
  vi.stubGlobal('WebSocket', FakeSocket);
  const socket = new FakeSocket('/ws/events', 'clincus.events.v1');
  vi.stubGlobal('begun', { stream: { socket, heard: ['first'] }, answers: { '/api/config': Promise.resolve(new Response('{}')) } });
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
  expect([takeAnswer('/api/config'), takeAnswer('/api/config'), takeAnswer('/api/tools')]).toEqual([expect.any(Promise), undefined, undefined]);
});

it('drops the answers with a stream that was lost', () => {
  begin().readyState = 3;
  expect([takeStream(), takeAnswer('/api/config')]).toEqual([null, undefined]);
});

it('gives nothing where nothing was begun', () => {
  expect([takeStream(), takeAnswer('/api/config')]).toEqual([null, undefined]);
});
