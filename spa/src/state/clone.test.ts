// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, type Reply, someSession } from '../test/fakes';
import { fetchCommits } from './clone';
import { ui } from './ui.svelte';

const SESSION = someSession({ id: 'clincus-a1b2c3-1', workspace: '/w/my-app', mode: 'clone' });
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
