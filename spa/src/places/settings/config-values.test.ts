import { expect, it } from 'vitest';

import { flatten, originOf } from './config-values';

it('a configuration is shown leaf by leaf', () => {
  const config = { a: { b: 1, c: { d: '' } }, list: [], table: {}, nothing: null };
  expect(flatten(config)).toEqual([
    ['a.b', 1],
    ['a.c.d', ''],
    ['list', []],
    ['table', {}],
    ['nothing', null],
  ]);
});

it.each([
  ['dashboard.port', '/etc/clincus/config.toml'],
  ['mounts.default', 'CLINCUS_X'],
  ['profiles.rust.image', 'file'],
  ['tool.name', 'default'],
])('the origin of %s is %s', (key, origin) => {
  const origins = { 'dashboard.port': '/etc/clincus/config.toml', 'mounts.default': 'CLINCUS_X', 'profiles.rust': 'file' };
  expect(originOf(origins, key)).toBe(origin);
});
