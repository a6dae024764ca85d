// @vitest-environment happy-dom
import { afterEach, expect, it, vi } from 'vitest';

import { router } from '../../lib/router.svelte';
import { connection } from '../../state/connection.svelte';
import { menuOf } from '../../state/session-menu';
import { sessions } from '../../state/sessions.svelte';
import { fakeServer, someSession } from '../../test/fakes';
import { commands } from './commands.svelte';

afterEach(() => {
  connection.stale = false;
  router.go('/');
  vi.unstubAllGlobals();
});

/** The titles of the group for the session whose page is shown. */
async function here(text: string, session = someSession()): Promise<string[]> {
  fakeServer(() => ({ json: [session] }));
  await sessions.refresh();
  router.go('/sessions/a');
  return commands.search(text).find(({ title }) => title === 'This session')?.commands.map(({ title }) => title) ?? [];
}

it('offers each view of the session that is open, and to stop it', async () => {
  expect((await here('')).slice(0, 7)).toEqual(['Terminal', 'Shell', 'Transcript', 'Files', 'Changes', 'Network', 'Stop']);
});

it.each(menuOf(someSession()).map(({ label }) => label))('finds “%s”, as it is in the menu of the session', async (label) => {
  expect(await here(label)).toContain(label);
});

it('offers nothing that changes the session while the server is gone', async () => {
  connection.stale = true;
  expect(await here('stop')).not.toContain('Stop');
  expect(await here('delete')).toEqual([]);
});

it('goes to the view that was chosen', async () => {
  await here('changes');
  commands.search('changes')[0]?.commands[0]?.run();
  expect(location.pathname).toBe('/sessions/a/changes');
});
