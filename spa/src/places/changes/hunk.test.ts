// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

import type { FileVersions } from '../../lib/types';
import { ui } from '../../state/ui.svelte';
import { type Call, fakeServer } from '../../test/fakes';
import { undoHunk, withoutHunk } from './hunk';

const HUNK = { old: { from: 1, to: 2 }, now: { from: 1, to: 3 } };
const FILE: FileVersions = { path: 'src/a', old: 'a\nb\nc\n', new: 'a\nX\nY\nc\n', binary: false, too_large: false, images: ['', ''], modes: ['100644', '100644'] };

afterEach(() => {
  vi.unstubAllGlobals();
  ui.toasts = [];
});

function serve(text: string): Call[] {
  return fakeServer(({ method, path }) => {
    if (path.includes('/checkpoints')) return { json: { checkpoint: '7' } };
    return method === 'PUT' ? { headers: { ETag: '"2"' } } : { text, headers: { ETag: '"1"' } };
  });
}

it.each([
  ['lines in the middle', 'a\nb\nc\n', 'a\nX\nY\nc\n', HUNK, 'a\nb\nc\n'],
  ['lines that came', 'a\nc\n', 'a\nX\nc\n', { old: { from: 1, to: 1 }, now: { from: 1, to: 2 } }, 'a\nc\n'],
  ['lines that went', 'a\nb\nc\n', 'a\nc\n', { old: { from: 1, to: 2 }, now: { from: 1, to: 1 } }, 'a\nb\nc\n'],
  ['a last line without a break', 'a\nb', 'a\nX', { old: { from: 1, to: 2 }, now: { from: 1, to: 2 } }, 'a\nb'],
  ['breaks of Windows', 'a\r\nb\r\n', 'a\r\nX\r\n', { old: { from: 1, to: 2 }, now: { from: 1, to: 2 } }, 'a\r\nb\r\n'],
  ['one of two places', 'a\nb\nc\n', 'X\nb\nY\n', { old: { from: 2, to: 3 }, now: { from: 2, to: 3 } }, 'X\nb\nc\n'],
])('puts back %s', (_, old, now, hunk, expected) => {
  expect(withoutHunk(old, now, hunk)).toBe(expected);
});

it('makes a checkpoint, then writes over the version that it has read', async () => {
  const calls = serve(FILE.new);
  await undoHunk('a', FILE, HUNK, () => undefined);
  const writes = calls.filter(({ method }) => method !== 'GET');
  expect(writes.map(({ method, path }) => `${method} ${path}`)).toEqual(['POST /api/sessions/a/checkpoints', 'PUT /api/sessions/a/files/content?path=src%2Fa']);
  expect([writes[1]?.headers.get('If-Match'), writes[1]?.body]).toEqual(['"1"', FILE.old]);
});

it.each([
  ['that has changed meanwhile', FILE, 'other\n', 'has changed meanwhile'],
  ['that is no text', { ...FILE, new: 'a\n\uFFFD\n' }, 'a\n\uFFFD\n', 'Not all of this file is UTF-8'],
])('leaves a file alone %s', async (_, file, text, words) => {
  const calls = serve(text);
  await undoHunk('a', file, HUNK, () => undefined);
  expect(calls.filter(({ method }) => method !== 'GET')).toEqual([]);
  expect(ui.toasts.at(-1)?.text).toContain(words);
});
