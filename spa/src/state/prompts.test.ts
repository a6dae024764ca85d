import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { fakeServer } from '../test/fakes';
import { Prompts } from './prompts.svelte';

const QUEUED = { prompt_id: 'p1', text: 'Then the docs', result: 'queued' as const, at: '', command: false };

let prompts: Prompts;

beforeEach(() => {
  fakeServer(({ method }) => (method === 'DELETE' ? { status: 204 } : { json: [] }));
  prompts = new Prompts();
  prompts.write('a', '');
});

afterEach(() => vi.unstubAllGlobals());

it.each([
  ['is the draft', '', 'Then the docs'],
  ['stands below the draft that there is', 'Half a prompt ', 'Half a prompt\nThen the docs'],
])('what is taken out of the queue %s', async (_, draft, text) => {
  prompts.write('a', draft);
  await prompts.cancel('a', QUEUED);
  expect(prompts.draft('a')).toBe(text);
});

it('shows the answer to the last look, also if that to an earlier one comes after it', async () => {
  const waiting: ((list: object[]) => void)[] = [];
  fakeServer(async () => ({ json: await new Promise<object[]>((arrive) => waiting.push(arrive)) }));
  const first = prompts.look('a');
  prompts.changed('a'); // before there is an answer to the first
  expect(waiting).toHaveLength(2);
  waiting[1]?.([QUEUED]);
  await vi.waitFor(() => expect(prompts.queue('a')).toEqual([QUEUED]));
  waiting[0]?.([]);
  await first;
  expect(prompts.queue('a')).toEqual([QUEUED]);
});

it('keeps what a prompt of the queue is being changed to, and gives it back as the draft if the prompt goes', async () => {
  let listed: object[] = [QUEUED];
  fakeServer(() => ({ json: listed }));
  await prompts.look('a');
  prompts.writeEdit('a', QUEUED, 'Then the docs and the tests');
  await prompts.look('a');
  expect(prompts.edit('a', QUEUED)).toBe('Then the docs and the tests');
  expect(new Prompts().edit('a', QUEUED)).toBe('Then the docs and the tests');
  listed = [{ ...QUEUED, result: 'submitted' }];
  await prompts.look('a');
  expect([prompts.isEdited('a'), prompts.draft('a')]).toEqual([false, 'Then the docs and the tests']);
});

it('gives back no text that was not changed', async () => {
  fakeServer(() => ({ json: [{ ...QUEUED, result: 'submitted' }] }));
  prompts.writeEdit('a', QUEUED, QUEUED.text);
  await prompts.look('a');
  expect([prompts.isEdited('a'), prompts.draft('a')]).toEqual([false, '']);
});
