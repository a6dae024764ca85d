// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Cost } from '../../lib/types';
import { type Call, fakeServer, type Reply } from '../../test/fakes';
import SessionCost from './SessionCost.svelte';

const tokens = { input: 1200, output: 300, cache_read: 50_000, cache_write: 0 };
const COST: Cost = {
  model: 'claude-opus-4-5',
  tokens,
  cost_usd: 0.756,
  unpriced_tokens: 700,
  unpriced_models: ['claude-next'],
  prices_as_of: '2026-11-29',
  context: { used: 51_500, size: 200_000 },
  windows: [{ name: '5 h', used: 42, resets_at: '2026-11-25T23:40:00Z' }],
  days: [
    { day: '2026-11-25', tokens, cost_usd: 0.5, unpriced_tokens: 700 },
    { day: '2026-11-24', tokens, cost_usd: null, unpriced_tokens: 51_500 },
  ],
  truncated: false,
};
const NOTHING: Cost = {
  ...COST,
  model: null,
  tokens: null,
  cost_usd: null,
  unpriced_tokens: 0,
  unpriced_models: [],
  context: null,
  windows: [],
  days: [],
};

let calls: Call[];
let answers: Record<string, Reply>;

beforeEach(() => {
  answers = { a: { json: COST }, b: { json: NOTHING } };
  calls = fakeServer(({ path }) => answers[path.split('/')[3] ?? ''] ?? { status: 404, json: { error: 'gone' } });
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

it('tells dollars, tokens, context and days', async () => {
  render(SessionCost, { id: 'a' });
  const cost = await screen.findByRole('region', { name: 'Cost' });
  expect(cost.textContent.replace(/\s+/g, ' ')).toContain(
    '$0.76+ at the list prices of 2026-11-29 and your own · 1.2K in, 300 out, 50K read from the cache',
  );
  expect(cost.textContent).toContain('700 tokens have no known price. Add prices for claude-next under [cost.prices]');
  expect(cost.textContent).toContain('Context: 51.5K of 200K tokens · claude-opus-4-5');
  expect(cost.textContent).toContain('Of the plan’s 5 h: 42 % used, until ');
  expect([...cost.querySelectorAll('tbody tr')].map(({ textContent }) => textContent)).toEqual([
    '2026-11-2551.5K$0.50+',
    '2026-11-2451.5Knot known',
  ]);
});

it('says that not all was read', async () => {
  answers = { a: { json: { ...COST, unpriced_tokens: 0, unpriced_models: [], truncated: true } } };
  render(SessionCost, { id: 'a' });
  const cost = await screen.findByRole('region', { name: 'Cost' });
  expect(cost.textContent).toContain('$0.76+');
  expect(cost.textContent).toContain('Not all was read: more was used than this.');
});

it.each([
  ['of a tool that tells nothing', 'b'],
  ['of a session that has gone', 'c'],
])('shows nothing %s', async (_, id) => {
  render(SessionCost, { id });
  await vi.waitFor(() => expect(calls).toHaveLength(1));
  expect(screen.queryByRole('region')).toBeNull();
});

it('forgets one session when another is shown', async () => {
  const { rerender } = render(SessionCost, { id: 'a' });
  await screen.findByRole('region', { name: 'Cost' });
  await rerender({ id: 'b' });
  expect(screen.queryByRole('region')).toBeNull();
});
