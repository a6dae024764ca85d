import { expect, it } from 'vitest';

import { someSession } from '../test/fakes';
import { age, basename, bytes, dirname, duration, projectAndTool, shownFolder, toolAndSlot } from './format';

it.each([
  [0, '0 s'],
  [59_999, '59 s'],
  [60_000, '1 m'],
  [7_200_000, '2 h'],
  [86_400_000 * 3, '3 d'],
  [-5, '0 s'],
])('an age of %i ms is %s', (ms, text) => expect(age(ms)).toBe(text));

it.each([
  [9_400, '9 s'],
  [65_000, '1 m 5 s'],
  [5_100_000, '1 h 25 m'],
  [90_000_000, '1 d 1 h'],
])('a duration of %i ms is %s', (ms, text) => expect(duration(ms)).toBe(text));

it.each([
  [0, '0 B'],
  [999, '999 B'],
  [1500, '1.5 KB'],
  [1_288_490_188, '1.3 GB'],
])('%i bytes are %s', (count, text) => expect(bytes(count)).toBe(text));

it.each([
  ['/home/ann/my-app', 'my-app', '/home/ann'],
  ['/home/ann/数据/', '数据', '/home/ann'],
  ['/', '/', '/'],
])('%s is %s in %s', (path, name, folder) => {
  expect(basename(path)).toBe(name);
  expect(dirname(path)).toBe(folder);
});

it.each([
  [1, 'Claude Code'],
  [2, 'Claude Code · slot 2'],
])('slot %i is named as %s', (slot, text) => expect(toolAndSlot(someSession({ slot }))).toBe(text));

it.each([
  ['', 'Claude Code', '/home/ann/src'],
  ['Cart totals', 'shop · Claude Code', '/home/ann/src/shop'],
])('a session named %j shows its project once: %s, %s', (name, line, folder) => {
  const session = someSession({ name, workspace: '/home/ann/src/shop' });
  expect(projectAndTool(session)).toBe(line);
  expect(shownFolder(session)).toBe(folder);
});
