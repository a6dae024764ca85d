// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { flushSync } from 'svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { router } from '../../lib/router.svelte';
import { sessions } from '../../state/sessions.svelte';
import { fakeServer, type Reply, someAgent, someSession } from '../../test/fakes';
import History from './History.svelte';

const props = (q: string) => ({ q, tool: '', page: 1 });

const RUN = { id: 'a', session_id: 'b', workspace: '/w/my-app', tool: 'claude', persistent: false, started_at: '2026-01-01T12:00:00Z', ended_at: '2026-01-01T13:00:00Z', exit_code: 0, slot: 1, name: '', prompt: '', branch: '', cost_usd: null };
let reply: Reply;

beforeEach(() => {
  reply = { json: [] };
  fakeServer(() => reply);
  router.go('/history');
});

afterEach(() => {
  cleanup();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const box = () => screen.getByRole<HTMLInputElement>('searchbox');

it('shows in its box what the address searches for, also when that changes', async () => {
  const { rerender } = render(History, props('one'));
  expect(box().value).toBe('one');
  await rerender(props('two'));
  expect(box().value).toBe('two');
  await rerender(props(''));
  expect(box().value).toBe('');
});

it('searches for what is typed after a moment, and takes nothing back of it meanwhile', async () => {
  vi.useFakeTimers({ shouldAdvanceTime: true });
  const user = userEvent.setup({ advanceTimers: (ms) => vi.advanceTimersByTime(ms) });
  const { rerender } = render(History, props(''));
  await user.type(box(), 'my');
  await rerender(props('m'));
  expect(box().value).toBe('my');
  vi.advanceTimersByTime(300);
  expect(router.route).toMatchObject({ place: 'history', q: 'my' });
});

it('asks for the runs anew when one starts, not for each word of a tool', async () => {
  let listed = [someSession()];
  const calls = fakeServer(({ path }) => ({ json: path === '/api/sessions' ? listed : [] }));
  const asked = (): number => calls.filter(({ path }) => path.startsWith('/api/sessions/history')).length;
  await sessions.refresh();
  render(History, props(''));
  flushSync();
  const before = asked();
  sessions.agentIs(listed[0]?.id ?? '', someAgent('working'));
  flushSync();
  expect(asked()).toBe(before);
  listed = [...listed, someSession({ id: 'another' })];
  await sessions.refresh();
  flushSync();
  expect(asked()).toBe(before + 1);
});

it('keeps the runs that are shown when a later look fails, and says so', async () => {
  reply = { json: [RUN] };
  const { rerender } = render(History, props(''));
  expect(await screen.findByText('my-app')).toBeTruthy();
  reply = { status: 503, json: { error: 'the disk is full' } };
  await rerender(props('my'));
  expect(await screen.findByText(/Possibly out of date. The disk is full/)).toBeTruthy();
  expect(screen.getByText('my-app')).toBeTruthy();
});

it('offers no resume while the engine of the container does not answer, and says why', async () => {
  const away = someSession({ id: 'a', session_id: 'b', status: 'stopped', engine: 'far', unreachable_since: '2026-01-01T13:00:00Z' });
  fakeServer(({ path }) => ({ json: path.startsWith('/api/sessions/history') ? [RUN] : [away] }));
  await sessions.refresh();
  render(History, props(''));
  const resume = await screen.findByRole<HTMLButtonElement>('button', { name: 'Resume' });
  expect(resume.disabled).toBe(true);
  expect(resume.title).toBe('far does not answer');
});

it('tells runs of one project apart by name, first prompt, branch and cost', async () => {
  reply = {
    json: [
      { ...RUN, name: 'billing', prompt: 'Fix the totals', branch: 'topic\u202e', cost_usd: 1.5 },
      { ...RUN, session_id: 'c', started_at: '2026-01-02T12:00:00Z' },
    ],
  };
  render(History, props(''));
  expect(await screen.findByText('billing · Fix the totals')).toBeTruthy();
  expect([screen.getAllByText('topic\ufffd').length, screen.getAllByText(/\$1\.50/).length > 0]).toEqual([1, true]);
});
