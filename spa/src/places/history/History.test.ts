// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { router } from '../../lib/router.svelte';
import { fakeServer } from '../../test/fakes';
import History from './History.svelte';

const props = (q: string) => ({ q, tool: '', page: 1 });

beforeEach(() => {
  fakeServer(() => ({ json: [] }));
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
