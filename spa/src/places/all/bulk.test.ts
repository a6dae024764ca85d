// @vitest-environment happy-dom
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { sessions } from '../../state/sessions.svelte';
import { ui } from '../../state/ui.svelte';
import { fakeServer, someAgent, someSession } from '../../test/fakes';
import { promptAll, stopAll } from './bulk';

const ONE = someSession({ id: 'a', name: 'one' });
const TWO = someSession({ id: 'b', name: 'two', agent: someAgent('working') });
const STOPPED = someSession({ id: 'c', name: 'three', status: 'stopped' });

beforeEach(() => {
  ui.toasts = [];
});

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllGlobals();
});

it('stops those that run, and names those that are working before', async () => {
  const confirm = vi.spyOn(ui, 'confirm').mockResolvedValue(true);
  const stop = vi.spyOn(sessions, 'stop').mockResolvedValue();
  await stopAll([ONE, TWO, STOPPED]);
  expect(confirm.mock.calls[0]?.[0]).toBe('Stop 2 sessions?');
  expect(confirm.mock.calls[0]?.[3]).toEqual(['two']);
  expect(stop.mock.calls.map(([id]) => id)).toEqual(['a', 'b']);
  expect(ui.toasts.at(-1)?.text).toBe('Stopped 2 sessions.');
});

it('stops none without a yes', async () => {
  vi.spyOn(ui, 'confirm').mockResolvedValue(false);
  const stop = vi.spyOn(sessions, 'stop').mockResolvedValue();
  await stopAll([ONE]);
  expect(stop).not.toHaveBeenCalled();
});

it('says which agents have a prompt, and which refused it', async () => {
  fakeServer(({ path }) => (path.includes('/a/') ? { json: { prompt_id: '1', result: 'submitted' } } : { status: 409, json: { error: 'a question is open' } }));
  expect(await promptAll([ONE, TWO], 'go on')).toBe(false);
  expect(ui.toasts.map(({ text }) => text)).toEqual(['Not all have the prompt. two: A question is open', 'Sent to 1 agent.']);
});
