// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';

import { router } from '../../lib/router.svelte';
import { connection } from '../../state/connection.svelte';
import { sessions } from '../../state/sessions.svelte';
import { fakeServer, someSession } from '../../test/fakes';
import ConnectionBar from './ConnectionBar.svelte';

beforeEach(async () => {
  fakeServer(() => ({ json: [someSession()] }));
  await sessions.refresh();
  connection.stale = true;
});

afterEach(() => {
  connection.stale = connection.signedOut = false;
  cleanup();
  vi.unstubAllGlobals();
});

it.each([
  ['/history', true],
  ['/sessions/a/files', true],
  ['/sessions/a/changes', true],
  ['/sessions/a/network', true],
  ['/sessions/a', false],
  ['/sessions/a/shell', false],
])('at %s it says that the connection is lost, unless a terminal does: %s', (path, shown) => {
  router.go(path);
  render(ConnectionBar);
  expect(screen.queryByText(/Connection to the server lost/) !== null).toBe(shown);
});

it.each(['/history', '/sessions/a'])('at %s it offers to sign in, which is the one thing that helps', (path) => {
  connection.signedOut = true;
  router.go(path);
  render(ConnectionBar);
  expect(screen.getByRole('alert').textContent).toContain('You are signed out');
  expect(screen.getByRole('button', { name: 'Sign in' })).toBeTruthy();
});
