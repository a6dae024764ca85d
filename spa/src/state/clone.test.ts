// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, type Reply, someSession } from '../test/fakes';
import { remove } from './actions';
import { fetchCommits, wouldBeLost } from './clone';
import { ui } from './ui.svelte';

const SESSION = someSession({ id: 'clincus-a1b2c3-1', workspace: '/w/my-app', mode: 'clone' });
const NOTHING = { branch: 'main', head: 'abc', commits: 0, uncommitted: false, stashes: 0, work_trees: 0, unreadable: 0, nested: [] };

let calls: Call[];

function serve(reply: Reply): void {
  ui.toasts = [];
  calls = fakeServer(() => reply);
}

afterEach(() => vi.unstubAllGlobals());

it('says which branch the commits are in', async () => {
  serve({ json: { branch: 'clincus/login', head: 'abc', commits: 2 } });
  await fetchCommits(SESSION);
  expect(calls.map(({ method, path }) => `${method} ${path}`)).toEqual(['POST /api/sessions/clincus-a1b2c3-1/fetch']);
  expect(ui.toasts.at(-1)?.text).toBe('2 new commits of my-app in the branch clincus/login of my-app.');
});

it('says why nothing was fetched', async () => {
  serve({ status: 409, json: { error: 'the branch moved elsewhere' } });
  await fetchCommits(SESSION);
  expect(ui.toasts.at(-1)?.text).toContain('were not fetched. The branch moved elsewhere');
});

it.each([
  [{ commits: 0, uncommitted: false }, 'All its commits were fetched.'],
  [{ commits: 1, uncommitted: false }, 'Not fetched yet: 1 commit.'],
  [{ commits: 3, uncommitted: true }, 'Not fetched yet: 3 commits and uncommitted changes.'],
  [{ commits: 0, uncommitted: false, stashes: 1 }, 'Not fetched yet: 1 stash.'],
  [
    { commits: 1, uncommitted: false, stashes: 2, work_trees: 1, nested: ['app'] },
    'Not fetched yet: 1 commit, 2 stashes, uncommitted changes in 1 other work tree, and the history of app.',
  ],
  [{ commits: 0, uncommitted: false, unreadable: 2 }, 'All its commits were fetched. No fetch and no bundle brings 2 files that only root can read.'],
])('tells before a delete what would go: %o', async (told, words) => {
  serve({ json: { ...NOTHING, ...told } });
  expect(await wouldBeLost(SESSION)).toContain(words);
});

it('asks about a clone what would be lost, and deletes nothing without a yes', async () => {
  serve({ json: { ...NOTHING, commits: 1 } });
  const removed = remove(SESSION);
  await vi.waitFor(() => expect(ui.question?.text).toContain('Not fetched yet: 1 commit.'));
  expect(ui.question?.text).toContain('the clone in it');
  ui.question?.answer(false);
  await removed;
  expect(calls.filter(({ method }) => method === 'DELETE')).toEqual([]);
});
