// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import type { Login } from '../../lib/types';
import { ui } from '../../state/ui.svelte';
import { fakeServer } from '../../test/fakes';
import Logins from './Logins.svelte';
import LoginsField from './LoginsField.svelte';
import { usedWords } from './words';

const LOGIN: Login = {
  name: 'claude',
  service: 'claude',
  hosts: ['api.anthropic.com'],
  source: 'vendor',
  state: 'good',
  error: '',
  good_until: '2026-11-30T10:00:00Z',
  last_used: '',
  sessions: ['clincus-0ffe11-9'],
  today: { requests: 2, tokens: 34_000, usd: 0.5 },
  limit: { requests_per_day: 2000 },
};

afterEach(() => {
  cleanup();
  ui.toasts = [];
  vi.unstubAllGlobals();
});

it('shows where each login lives and who borrows it', async () => {
  fakeServer(() => ({ json: [LOGIN, { ...LOGIN, name: 'github', state: 'missing', error: 'there is no file', sessions: [] }] }));
  render(Logins);
  expect(await screen.findByText('claude')).toBeTruthy();
  expect(screen.getAllByText(/The agent’s own file, renewed by Clincus, good until/)).toHaveLength(2);
  expect(screen.getByRole('link', { name: 'clincus-0ffe11-9' }).getAttribute('href')).toBe('/sessions/clincus-0ffe11-9/network');
  expect(screen.getByText('there is no file')).toBeTruthy();
});

it('revokes a login once the person agrees, and shows it as revoked', async () => {
  let state: Login['state'] = 'good';
  const calls = fakeServer(({ method }) => {
    if (method === 'POST') state = 'revoked';
    return { json: method === 'POST' ? { ...LOGIN, state } : [{ ...LOGIN, state }] };
  });
  render(Logins);
  (await screen.findByRole('button', { name: /^Revoke/ })).click();
  await vi.waitFor(() => expect(ui.question?.title).toBe('Revoke claude?'));
  expect(calls.filter(({ method }) => method === 'POST')).toEqual([]);
  ui.question?.answer(true);
  expect(await screen.findByRole('button', { name: 'Allow again' })).toBeTruthy();
  expect(calls.map(({ method, path }) => `${method} ${path}`)).toContain('POST /api/logins/claude/revoke');
});

it('says how to get some where there is none', async () => {
  fakeServer(() => ({ json: [] }));
  render(Logins);
  expect(await screen.findByText('No logins yet')).toBeTruthy();
});

it('says what was used, and what may be', () => {
  expect(usedWords(LOGIN)).toBe(`2 requests, ${(34_000).toLocaleString()} tokens, $0.50; at most ${(2000).toLocaleString()} requests a day`);
  expect(usedWords({ ...LOGIN, today: { requests: 0, tokens: 0, usd: 0 }, limit: {} })).toBe('0 requests');
});

it('offers a new session the logins to borrow, and none where there are none', async () => {
  fakeServer(() => ({ json: [LOGIN, { ...LOGIN, name: 'github', state: 'revoked' }] }));
  const choose = vi.fn();
  render(LoginsField, { chosen: ['claude'], choose, disabled: false });
  (await screen.findByLabelText(/github/)).click();
  expect(choose).toHaveBeenLastCalledWith(['claude', 'github']);
  screen.getByLabelText('claude').click();
  expect(choose).toHaveBeenLastCalledWith([]);
});
