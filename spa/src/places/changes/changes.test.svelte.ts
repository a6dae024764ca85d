import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, type Reply, someChange } from '../../test/fakes';
import { Changes } from './changes.svelte';

const SINCE_START = { from: 'start', to: 'now' };
const list = (...paths: string[]): Reply => ({
  json: { files: paths.map((path) => someChange({ path })), truncated: false, skipped: [], others: [], stale: '' },
});

/** The questions that the server has not answered yet. */
let open: ((reply: Reply) => void)[];
let calls: Call[];
let changes: Changes;

beforeEach(() => {
  open = [];
  calls = fakeServer(() => new Promise((resolve) => open.push(resolve)));
  changes = new Changes('s');
});

afterEach(() => {
  vi.unstubAllGlobals();
});

async function answer(reply: Reply): Promise<void> {
  await vi.waitFor(() => expect(open).not.toHaveLength(0));
  open.shift()?.(reply);
}

const shown = (): string[] => changes.files.map(({ path }) => path);

it('lets a slow look end, and looks once more for all who asked meanwhile', async () => {
  const looked = changes.look(SINCE_START);
  void changes.look(SINCE_START);
  void changes.look(SINCE_START);
  await answer(list('first'));
  await vi.waitFor(() => expect(shown()).toEqual(['first']));
  await answer(list('second'));
  await looked;
  expect([shown(), calls.length, changes.busy]).toEqual([['second'], 2, false]);
});

it('drops what is no longer asked for', async () => {
  const slow = changes.look(SINCE_START);
  const turn = changes.look({ from: 'turn', to: 'now' });
  await vi.waitFor(() => expect(open).toHaveLength(2));
  open[1]?.(list('of the turn'));
  await turn;
  open[0]?.(list('of all'));
  await slow;
  expect([shown(), changes.scope.from]).toEqual([['of the turn'], 'turn']);
});

it('keeps a list on the screen when a look fails', async () => {
  void changes.look(SINCE_START);
  await answer(list('a'));
  await vi.waitFor(() => expect(changes.busy).toBe(false));
  const failed = changes.look(SINCE_START);
  await answer({ status: 409, json: { error: 'the container has no git' } });
  await failed;
  expect([changes.phase, shown(), changes.error]).toEqual(['ready', ['a'], 'The container has no git']);
});

it('leaves the texts that are read in place while they are the same', async () => {
  const file = { path: 'a', old: '1', new: '2', binary: false, too_large: false, images: ['', ''], modes: ['100644', '100644'] };
  void changes.open('a');
  await answer({ json: file });
  await vi.waitFor(() => expect(changes.file).not.toBeNull());
  const before = changes.file;
  const again = changes.open('a');
  await answer({ json: file });
  await again;
  expect(changes.file).toBe(before);
});

it('asks for no file that this page may just have removed, until it knows the list behind the change', async () => {
  const slow = changes.look(SINCE_START);
  await vi.waitFor(() => expect(open).toHaveLength(1));
  changes.hold();
  await changes.open('new.ts');
  const fresh = changes.look(SINCE_START, true);
  await answer(list('new.ts', 'a'));
  await slow;
  await changes.open('new.ts');
  expect(calls.filter(({ path }) => path.includes('/changes/file'))).toEqual([]);
  await answer(list('a'));
  await fresh;
  expect(shown()).toEqual(['a']);
  void changes.open('a');
  await vi.waitFor(() => expect(calls.at(-1)?.path).toContain('/changes/file?path=a'));
});
