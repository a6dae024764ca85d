import { describe, expect, it } from 'vitest';

import { decodePath, encodePath } from './paths';

describe('a path', () => {
  it.each([
    ['src/a b.ts', 'src%2Fa%20b.ts'],
    ['ü&?#%+.txt', '%C3%BC%26%3F%23%25%2B.txt'],
    ['中/😀', '%E4%B8%AD%2F%F0%9F%98%80'],
    ['caf\udce9.txt', 'caf%E9.txt'],
    ['\udcff\udcc3(', '%FF%C3('],
    ['', ''],
  ])('%j is encoded as %s, and back', (path, encoded) => {
    expect([encodePath(path), decodePath(encoded)]).toEqual([path === '' ? '' : encoded, path]);
  });

  it.each([
    ['a+b%2Bc', 'a b+c'],
    ['100%', '100%'],
    ['%zz', '%zz'],
    ['%c3%bc', 'ü'],
    // Too long, a half of a pair, above Unicode, cut off: bytes, not characters.
    ['%C0%AF', '\udcc0\udcaf'],
    ['%ED%A0%80', '\udced\udca0\udc80'],
    ['%F5%80%80%80', '\udcf5\udc80\udc80\udc80'],
    ['%E4%B8', '\udce4\udcb8'],
  ])('is read from %s as %j', (encoded, path) => {
    expect(decodePath(encoded)).toBe(path);
  });

  it('keeps every byte', () => {
    const encoded = Array.from({ length: 255 }, (_, index) => `%${(index + 1).toString(16).padStart(2, '0').toUpperCase()}`).join('');
    expect(decodePath(encodePath(decodePath(encoded)))).toBe(decodePath(encoded));
  });
});
