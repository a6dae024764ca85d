import { afterEach, describe, expect, it, vi } from 'vitest';

import { fakeServer } from '../test/fakes';
import { api, ApiError } from './api';
import { filesApi } from './api-files';
import { historyApi } from './api-history';
import { review } from './api-review';

afterEach(() => vi.unstubAllGlobals());

async function failure(promise: Promise<unknown>): Promise<ApiError> {
  const error: unknown = await promise.then(
    () => null,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ApiError);
  return error as ApiError;
}

describe('a failed request', () => {
  it.each([
    [{ status: 409, json: { error: 'no slot is free for "/p"' } }, 409, 'No slot is free for "/p"'],
    [{ status: 500, text: '<html>' }, 500, 'The server answered 500.'],
    [{ status: 400, json: { detail: 1 } }, 400, 'The server answered 400.'],
    [new TypeError('Failed to fetch'), 0, 'The Clincus server cannot be reached. Is “clincus serve” running?'],
    [new DOMException('late', 'TimeoutError'), 0, 'The server did not answer within 20 seconds.'],
  ])('%o becomes a sentence for the person', async (reply, status, message) => {
    fakeServer(() => reply);
    const error = await failure(api.sessions());
    expect({ status: error.status, message: error.message }).toEqual({ status, message });
  });
});

describe('a read', () => {
  it('that goes unanswered is asked for again, over another connection', async () => {
    const late = new DOMException('late', 'TimeoutError');
    const calls = fakeServer(() => (calls.length < 3 ? late : { json: [] }));
    expect(await api.sessions()).toEqual([]);
    expect(calls).toHaveLength(3);
  });

  it.each([
    ['health', () => api.health()],
    ['images', () => api.images()],
    ['directory', () => filesApi.directory('s', '')],
    ['file', () => filesApi.readFile('s', 'a')],
    ['scrollback', () => api.scrollback('s', 100, false)],
    ['history', () => historyApi.runs({ limit: 50, offset: 0, q: '', tool: '' })],
  ])('that makes the server work is asked for once: %s', async (_, ask) => {
    const calls = fakeServer(() => new DOMException('late', 'TimeoutError'));
    expect((await failure(ask())).message).toBe('The server did not answer within 30 seconds.');
    expect(calls).toHaveLength(1);
  });

  it('that the browser dropped on its way is sent again, once', async () => {
    const calls = fakeServer(() => (calls.length < 2 ? new TypeError('Failed to fetch') : { json: [] }));
    expect(await api.images()).toEqual([]);
    expect(calls).toHaveLength(2);
  });

  it('that is answered with an error is not', async () => {
    const calls = fakeServer(() => ({ status: 503 }));
    await failure(api.sessions());
    expect(calls).toHaveLength(1);
  });
});

describe('a write', () => {
  it('that the browser dropped is never sent again: it may have arrived', async () => {
    const calls = fakeServer(() => new TypeError('Failed to fetch'));
    const error = await failure(api.stopSession('s'));
    expect(error.status).toBe(0);
    expect(error.message).toContain('Look whether it was done before you try again.');
    expect(calls).toHaveLength(1);
  });

  it.each([
    ['a prompt', () => api.prompt('s', 'Go on', 'a-key', false)],
    ['a start', () => api.createSession({ workspace: '/p', tool: 'claude' }, 'a-key')],
    ['comments', () => review.sendComments('s', 'a-key')],
  ])('with a key that the browser dropped is sent again, once, with the same key: %s', async (_, ask) => {
    const calls = fakeServer(() => (calls.length < 2 ? new TypeError('Failed to fetch') : { json: {} }));
    await ask();
    expect(calls.map(({ headers }) => headers.get('Idempotency-Key'))).toEqual(['a-key', 'a-key']);
  });

  it('that goes unanswered is never tried twice', async () => {
    const calls = fakeServer(() => new DOMException('late', 'TimeoutError'));
    expect((await failure(api.stopSession('s'))).message).toBe('The server did not answer within 300 seconds.');
    expect(calls).toHaveLength(1);
  });

  it('is sent as JSON, once, even if it fails', async () => {
    const calls = fakeServer(() => ({ status: 503, json: { error: 'Incus is down.' } }));
    await failure(api.createSession({ workspace: '/p', tool: 'claude' }, 'a-key'));
    expect(calls.map(({ method, path, body }) => ({ method, path, body }))).toEqual([
      { method: 'POST', path: '/api/sessions', body: '{"workspace":"/p","tool":"claude"}' },
    ]);
    expect(calls[0]?.headers.get('Content-Type')).toBe('application/json');
    expect(calls[0]?.headers.get('Idempotency-Key')).toBe('a-key');
  });

  it('without an answer’s body is fine', async () => {
    const calls = fakeServer(() => ({ status: 204 }));
    await api.deleteSession('clincus-a1b2c3-1');
    expect(calls[0]?.path).toBe('/api/sessions/clincus-a1b2c3-1?force=true');
  });
});

describe('history', () => {
  it('asks for a page of what matches, and knows how much there is', async () => {
    const calls = fakeServer(() => ({ json: [], headers: { 'X-Total-Count': '120' } }));
    const page = await historyApi.runs({ limit: 50, offset: 100, q: 'my app', tool: '' });
    expect(calls[0]?.path).toBe('/api/sessions/history?limit=50&offset=100&q=my+app');
    expect(page).toEqual({ entries: [], total: 120 });
  });
});

describe('a file', () => {
  it('of any legal name is asked for', async () => {
    const calls = fakeServer(() => ({ text: 'x', headers: { ETag: '"1"' } }));
    await filesApi.readFile('s', 'a b/ü&?#%.txt');
    expect(new URL(calls[0]?.path ?? '', 'http://x').searchParams.get('path')).toBe('a b/ü&?#%.txt');
  });

  it('that is unchanged is null', async () => {
    const calls = fakeServer(() => ({ status: 304 }));
    expect(await filesApi.readFile('s', 'a', '"1"')).toBeNull();
    expect(calls[0]?.headers.get('If-None-Match')).toBe('"1"');
  });

  it.each([
    ['"1"', 'If-Match', '"1"'],
    [null, 'If-None-Match', '*'],
  ])('over version %s is saved with %s', async (etag, header, value) => {
    const calls = fakeServer(() => ({ status: 204, headers: { ETag: '"2"' } }));
    expect(await filesApi.writeFile('s', 'a', 'text', etag)).toBe('"2"');
    expect(calls[0]?.headers.get(header)).toBe(value);
  });
});
