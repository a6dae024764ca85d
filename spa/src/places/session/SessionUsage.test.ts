// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Usage } from '../../lib/types';
import { type Call, fakeServer, type Reply } from '../../test/fakes';
import SessionUsage from './SessionUsage.svelte';

const USAGE: Usage = {
  cpu_seconds: 10,
  memory_bytes: 300e6,
  memory_limit: 2e9,
  disk_bytes: 5e9,
  processes: 1,
  received_bytes: 2000,
  sent_bytes: null,
  at: '2026-11-25T10:00:00Z',
};

let calls: Call[];
let answer: Reply;

beforeEach(() => {
  vi.useFakeTimers();
  answer = { json: USAGE };
  calls = fakeServer(() => answer);
});

afterEach(() => {
  cleanup();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

/** What stands in the region, in one line. */
const shown = (): string => screen.getByRole('region', { name: 'Usage' }).textContent.replace(/\s+/g, ' ');

it('tells what is known of the machine, and leaves out what is not', async () => {
  render(SessionUsage, { id: 'a' });
  await vi.advanceTimersByTimeAsync(0);
  expect(shown()).toContain('300 MB');
  expect(shown()).toContain('5.0 GB on disk · 1 process · 2.0 KB received');
  expect(shown()).not.toContain('sent');
});

it('tells the CPU from two looks', async () => {
  render(SessionUsage, { id: 'a' });
  await vi.advanceTimersByTimeAsync(0);
  answer = { json: { ...USAGE, cpu_seconds: 11, at: '2026-11-25T10:00:02Z' } };
  await vi.advanceTimersByTimeAsync(2_500);
  expect(shown()).toContain('50 %');
});

it('keeps what it has when the session stops, and asks no more once it is closed', async () => {
  const { unmount } = render(SessionUsage, { id: 'a' });
  await vi.advanceTimersByTimeAsync(0);
  answer = { status: 409, json: { error: 'it does not run' } };
  await vi.advanceTimersByTimeAsync(2_500);
  expect([calls.length, shown().includes('300 MB')]).toEqual([2, true]);
  unmount();
  await vi.advanceTimersByTimeAsync(10_000);
  expect(calls).toHaveLength(2);
});
