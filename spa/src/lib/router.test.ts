import { expect, it } from 'vitest';

import { href, parse } from './router.svelte';

const at = (path: string) => parse(new URL(path, 'http://127.0.0.1:3000'));

it.each([
  ['/', { place: 'home' }],
  ['/sessions', { place: 'home' }],
  ['/projects', { place: 'projects' }],
  ['/sessions/clincus-a1b2c3-1', { place: 'session', id: 'clincus-a1b2c3-1', tab: 'terminal', path: '' }],
  ['/sessions/clincus-a1b2c3-1/shell', { place: 'session', id: 'clincus-a1b2c3-1', tab: 'shell', path: '' }],
  ['/sessions/clincus-a1b2c3-1/nonsense', { place: 'unknown', path: '/sessions/clincus-a1b2c3-1/nonsense' }],
  ['/history?page=3&tool=claude', { place: 'history', q: '', tool: 'claude', page: 3 }],
  ['/history?page=x', { place: 'history', q: '', tool: '', page: 1 }],
  ['/logins', { place: 'logins' }],
  ['/settings/', { place: 'settings' }],
  ['/nowhere/at/all', { place: 'unknown', path: '/nowhere/at/all' }],
])('%s is a place', (path, route) => expect(at(path)).toEqual(route));

it.each([
  href.session('clincus-a1b2c3-1', 'files', 'a b/数据#1?.py'),
  href.session('clincus-a1b2c3-1', 'files', 'caf\udce9.txt'),
  href.session('clincus-a1b2c3-1', 'shell'),
  href.history('my app & more', 'claude', 2),
])('%s leads back to where it was made from', (path) => {
  const route = at(path);
  const again =
    route.place === 'session'
      ? href.session(route.id, route.tab, route.path)
      : route.place === 'history'
        ? href.history(route.q, route.tool, route.page)
        : '';
  expect(again).toBe(path);
});
