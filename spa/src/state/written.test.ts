import { afterEach, expect, it, vi } from 'vitest';

import { fakeServer, someSession } from '../test/fakes';
import { prompts } from './prompts.svelte';
import { Sessions } from './sessions.svelte';
import { files, forms } from './written';

afterEach(() => vi.unstubAllGlobals());

const born = (created_at: string) => someSession({ id: 'clincus-abc-1', created_at });

it.each([
  ['keeps what was written for a session that is still the same', '2026-01-01T00:00:00Z', true],
  ['gives the next session of an id nothing that was written for the one before', '2026-01-02T00:00:00Z', false],
])('%s', async (_, later, kept) => {
  let listed = [born('2026-01-01T00:00:00Z')];
  fakeServer(() => ({ json: listed }));
  const sessions = new Sessions();
  await sessions.refresh();
  const { id } = born('');
  prompts.write(id, 'half a prompt');
  forms.current = { [id]: [{ path: 'a', line: 1, end_line: 1, text: 'half a comment' }] };
  files.current = { [id]: { path: 'a', text: 'half a line', etag: '"1"' } };
  listed = [];
  await sessions.refresh();
  expect(prompts.draft(id)).toBe('half a prompt');
  listed = [born(later)];
  await sessions.refresh();
  expect([prompts.draft(id) !== '', id in forms.current, id in files.current]).toEqual([kept, kept, kept]);
});

it('tells the next session of an id nothing of what became of the prompts of the one before', async () => {
  const prompt = { prompt_id: 'p1', text: 'Then the docs', result: 'unconfirmed', at: '', command: false };
  let listed = [born('2026-02-01T00:00:00Z')];
  fakeServer(({ path, method }) => ({ json: path === '/api/sessions' ? listed : method === 'POST' ? prompt : [prompt] }));
  const sessions = new Sessions();
  await sessions.refresh();
  const { id } = born('');
  prompts.write(id, 'Then the docs');
  await prompts.send(id);
  expect([prompts.outcome(id)?.result, prompts.all(id).length]).toEqual(['unconfirmed', 1]);
  listed = [born('2026-02-02T00:00:00Z')];
  await sessions.refresh();
  expect([prompts.outcome(id), prompts.all(id)]).toEqual([undefined, []]);
});
