import { describe, expect, it } from 'vitest';

import { canBeAllowed, nameFor, namesIn } from './names';

describe('names of an allow list', () => {
  it.each([
    ['pypi.org, *.A.example\n pypi.org', ['pypi.org', '*.a.example']],
    ['  ', []],
  ])('are read from %j', (text, names) => expect(namesIn(text)).toEqual(names));

  it.each([
    [443, 'a.example'],
    [80, 'a.example'],
    [8443, 'a.example:8443'],
  ])('say port %i only if it is not of the web', (port, name) => expect(nameFor({ host: 'a.example', port })).toBe(name));

  it.each([
    ['a.example', 443, [], true],
    ['a.example', 443, ['a.example'], false],
    ['a.example', 8443, ['a.example'], true],
    ['a.example', 8443, ['a.example:8443'], false],
    ['b.a.example', 443, ['*.a.example'], false],
    ['a.example', 443, ['*.a.example'], true],
    ['10.0.0.7', 443, [], false],
    ['2001:db8::1', 443, [], false],
    ['', 0, [], false],
  ])('are offered for %s port %i beside %j: %s', (host, port, names, offered) => {
    expect(canBeAllowed({ host, port }, names)).toBe(offered);
  });
});
