// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import userEvent from '@testing-library/user-event';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { type Call, fakeServer, someSession } from '../../test/fakes';
import SessionTitle from './SessionTitle.svelte';

let calls: Call[];

beforeEach(() => {
  calls = fakeServer(() => ({ json: someSession({ name: 'sign-in' }) }));
});

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

it.each([
  ['', 'my-app'],
  ['login page', 'login page'],
])('shows the name %j as %s', (name, shown) => {
  render(SessionTitle, { session: someSession({ name }), renaming: false });
  expect(screen.getByRole('heading').textContent).toBe(shown);
});

it('takes another name in place', async () => {
  render(SessionTitle, { session: someSession({ name: 'login page' }), renaming: false });
  await userEvent.dblClick(screen.getByRole('heading'));
  const field = screen.getByRole('textbox', { name: 'Name of this session' });
  await userEvent.clear(field);
  await userEvent.type(field, 'sign-in{Enter}');
  expect(calls.map(({ method, path, body }) => [method, path, body])).toEqual([['PATCH', '/api/sessions/a', '{"name":"sign-in"}']]);
  expect(screen.queryByRole('textbox')).toBeNull();
});

it('changes nothing on Escape', async () => {
  render(SessionTitle, { session: someSession(), renaming: true });
  await userEvent.type(screen.getByRole('textbox'), 'x{Escape}');
  expect([calls, screen.getByRole('heading').textContent]).toEqual([[], 'my-app']);
});

it('leaves the Enter that ends a conversion to the input method', () => {
  render(SessionTitle, { session: someSession(), renaming: true });
  const enter = new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true });
  screen.getByRole('textbox').dispatchEvent(enter);
  expect([calls, screen.queryByRole('textbox') !== null]).toEqual([[], true]);
});
