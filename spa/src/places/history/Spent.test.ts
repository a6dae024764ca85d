// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import type { Spending } from '../../lib/types';
import { type Call, fakeServer, type Reply } from '../../test/fakes';
import Spent from './Spent.svelte';

const tokens = (input: number) => ({ input, output: 0, cache_read: 0, cache_write: 0 });
const day = (name: string, input: number, cost_usd: number | null, unpriced_tokens = 0) => ({
  day: name,
  tokens: tokens(input),
  cost_usd,
  unpriced_tokens,
});

const SPENT: Spending = {
  since: '2026-10-27',
  tokens: tokens(4500),
  cost_usd: 1.25,
  unpriced_tokens: 500,
  unpriced_models: ['claude-next'],
  prices_as_of: '2026-11-29',
  days: [],
  projects: [
    { ...day('', 4000, 1.25), workspace: '/w/web-shop', sessions: 2, days: [day('2026-11-25', 3000, 1), day('2026-11-24', 1000, 0.25)] },
    { ...day('', 500, null, 500), workspace: '/w/infra', sessions: 1, days: [day('2026-11-25', 500, null, 500)] },
  ],
  silent_tools: ['codex'],
  truncated: false,
};

let calls: Call[];
let answer: Reply;

beforeEach(() => {
  answer = { json: SPENT };
  calls = fakeServer(() => answer);
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

/** Renders it, and opens it as a click does. */
async function open(): Promise<HTMLElement> {
  const { container } = render(Spent);
  const details = container.querySelector('details');
  if (!details) throw new Error('no details');
  details.open = true;
  details.dispatchEvent(new Event('toggle'));
  await vi.waitFor(() => expect(container.querySelector('table, .notice, p')).not.toBeNull());
  return container;
}

const rows = (container: HTMLElement): string[] =>
  [...container.querySelectorAll('tr')].map((row) => [...row.children].map((cell) => cell.textContent.trim()).join('|'));

it('asks for nothing before it is opened', () => {
  render(Spent);
  expect(calls).toEqual([]);
});

it('shows each project, and its days when it is unfolded', async () => {
  const container = await open();
  expect(rows(container)).toEqual([
    'Project|Sessions|Tokens|Cost',
    'web-shop|2|4K|$1.25',
    'infra|1|500|not known',
    'Total||4.5K|$1.25+',
  ]);
  expect(container.textContent).toContain('list prices of 2026-11-29 and your own');
  await userEvent.click(screen.getByRole('button', { name: 'web-shop' }));
  expect(rows(container).slice(2, 4)).toEqual(['2026-11-25||3K|$1.00', '2026-11-24||1K|$0.25']);
  expect(container.textContent).toContain(
    '500 tokens have no known price. Add prices for claude-next under [cost.prices] in your configuration. No data from Codex.',
  );
});

it('says that nothing was used', async () => {
  answer = { json: { ...SPENT, projects: [], silent_tools: [], unpriced_tokens: 0, unpriced_models: [] } };
  expect((await open()).textContent).toContain('Nothing was used since 2026-10-27');
});

it('says why it cannot be told', async () => {
  answer = { status: 500, json: { error: 'the disk is broken' } };
  const container = await open();
  await vi.waitFor(() => expect(container.textContent).toContain('disk is broken'));
});
