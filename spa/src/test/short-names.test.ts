/** The names that the build shortens in xterm.js (scripts/xterm.mjs). */
import { expect, it } from 'vitest';

import { renamed, shortNames } from '../../scripts/xterm.mjs';

const PROGRAMS = [
  'class A { bufferCount = 1; resize() { this.lastWidth = this.bufferCount } read(e) { return e.wheelDeltaY + e["keyLookup"] } }',
  'const b = { keyLookup: 1, scrollTop: 2, bufferCount: 3 }; export const bufferName = () => b.bufferCount;',
];

it('changes a name that the programs give to something of their own, in the same way in all of them, and no other one', () => {
  const short = shortNames(PROGRAMS, new Set(['resize', 'read', 'scrollTop']));
  expect(PROGRAMS.map((one) => renamed(one, short))).toEqual([
    'class A { _0 = 1; resize() { this._1 = this._0 } read(e) { return e.wheelDeltaY + e["keyLookup"] } }',
    'const b = { keyLookup: 1, scrollTop: 2, _0: 3 }; export const bufferName = () => b._0;',
  ]);
});
