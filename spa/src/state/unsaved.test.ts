// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

import type { Session, Unsaved } from '../lib/types';
import { type Call, fakeServer, type Reply, someSession } from '../test/fakes';
import { remove } from './actions';
import { ui } from './ui.svelte';
import { losses } from './unsaved';

const CLONE = someSession({ id: 'clincus-a1b2c3-1', mode: 'clone' });
const NONE = { count: 0, names: [] };
const NOTHING: Unsaved = {
  conversation: { count: 1, names: ['.claude/x.jsonl'] },
  commits: NONE,
  uncommitted: NONE,
  stashes: NONE,
  nested: NONE,
  outside: NONE,
  unreadable: NONE,
  total: 1,
  unknown: '',
  pending: false,
};
const PENDING = { ...NOTHING, commits: { count: null, names: [] }, total: null, pending: true, unknown: 'its container has not answered yet: ask again' };

let calls: Call[];

function serve(reply: Reply | Promise<Reply>, deleted: Reply = { status: 204 }): void {
  ui.toasts = [];
  calls = fakeServer(({ method, path }) => (path.endsWith('/unsaved') ? reply : method === 'DELETE' ? deleted : { json: [] }));
}

afterEach(() => {
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

it.each<[string, Session, Partial<Unsaved>, RegExp, readonly string[]]>([
  ['a clone with nothing new', CLONE, {}, /^All work in its clone is in the project already\.$/, []],
  ['a mounted folder', someSession(), {}, /^$/, []],
  [
    'commits and a stash',
    CLONE,
    { commits: { count: 2, names: ['a1 Fix', 'b2 Add'] }, stashes: { count: 1, names: ['WIP'] } },
    /^Only the container has this/,
    ['2 commits: a1 Fix, b2 Add', '1 stash: WIP'],
  ],
  [
    'many files, with names of an agent',
    CLONE,
    { uncommitted: { count: 30, names: ['\u202egnp', 'b', 'c', 'd', 'e', 'f'] } },
    /^Only the container has this/,
    ['30 uncommitted files: \ufffdgnp, b, c, d, e and 25 more'],
  ],
  ['an upload to a mounted session', someSession(), { outside: { count: 1, names: ['/x.png'] } }, /^Only/, ['1 file outside the project: /x.png']],
  [
    'a clone that is stopped',
    CLONE,
    { commits: { count: null, names: [] }, outside: { count: 1, names: ['/x.png'] }, total: null, unknown: 'the session is stopped' },
    /cannot be known now: the session is stopped\. Clincus looks first/,
    ['1 file outside the project: /x.png'],
  ],
])('tells what only the container has: %s', async (_, session, found, text, lines) => {
  serve({ json: { ...NOTHING, ...found } });
  const told = await losses(session);
  expect(told.text).toMatch(text);
  expect(told.lines).toEqual(lines);
});

it('says that it cannot be known while the engine is away', async () => {
  serve({ status: 503, json: { error: 'the engine "tower" cannot be reached' } });
  expect((await losses(CLONE)).text).toContain('cannot be known now: The engine "tower" cannot be reached.');
});

it('does not keep a person waiting for a container that hangs', async () => {
  vi.useFakeTimers();
  serve(new Promise(() => {}));
  const told = losses(CLONE);
  await vi.advanceTimersByTimeAsync(10_000);
  expect((await told).text).toContain('cannot be known now: its container has not answered yet');
});

it('asks again while the container has not answered', async () => {
  vi.useFakeTimers();
  let asked = 0;
  calls = fakeServer(() => ({ json: ++asked < 3 ? PENDING : { ...NOTHING, commits: { count: 1, names: ['a1 Fix'] } } }));
  const told = losses(CLONE);
  await vi.advanceTimersByTimeAsync(1_000);
  expect((await told).lines).toEqual(['1 commit: a1 Fix']);
  expect(asked).toBe(3);
});

it('never shows what a container has not told as nothing', async () => {
  vi.useFakeTimers();
  serve({ json: PENDING });
  const told = losses(CLONE);
  await vi.advanceTimersByTimeAsync(11_000);
  expect((await told).text).toContain('cannot be known now: its container has not answered yet: ask again. Clincus looks first');
});

it('asks before a delete with what would be lost, and deletes nothing without a yes', async () => {
  serve({ json: { ...NOTHING, commits: { count: 1, names: ['a1 Fix'] } } });
  const removed = remove(CLONE);
  await vi.waitFor(() => expect(ui.question?.lines).toEqual(['1 commit: a1 Fix']));
  expect(ui.question?.text).toContain('the clone in it are deleted');
  ui.question?.answer(false);
  await removed;
  expect(calls.filter(({ method }) => method === 'DELETE')).toEqual([]);
});

it('says where the copies are, until that is dismissed', async () => {
  serve({ json: NOTHING }, { status: 204, headers: { 'Clincus-Kept': '/home/ann/a%20b.bundle, /home/ann/c.tar' } });
  const removed = remove(CLONE);
  await vi.waitFor(() => expect(ui.question).not.toBeNull());
  ui.question?.answer(true);
  await removed;
  const [kept] = ui.toasts.filter(({ kind }) => kind === 'lasting');
  expect(kept?.text).toBe('What only my-app had is kept: /home/ann/a b.bundle, /home/ann/c.tar');
});

it('names the engine that keeps a mounted folder', async () => {
  serve({ json: NOTHING });
  const removed = remove(someSession({ engine: 'tower' }));
  await vi.waitFor(() => expect(ui.question?.text).toContain('The project folder on tower stays'));
  ui.question?.answer(false);
  await removed;
});
