// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { configuration } from '../../state/config.svelte';
import { fakeServer } from '../../test/fakes';
import HealthList from './HealthList.svelte';

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

it('says why the machine could not be checked, and checks again', async () => {
  let works = false;
  const incus = { name: 'incus', label: 'Incus', status: 'ok', message: 'It answers.' };
  fakeServer(() =>
    works ? { json: { status: 'healthy', checks: { incus } } } : { status: 500, json: { error: 'It took too long.' } },
  );
  render(HealthList);
  expect(screen.getByRole('status').textContent).toContain('Looking at this machine');
  await configuration.refreshHealth();
  flushSync();
  expect(screen.getByRole('alert').textContent).toContain('It took too long.');
  works = true;
  screen.getByRole('button', { name: 'Check again' }).click();
  await vi.waitFor(() => expect(screen.getByText('It answers.')).toBeTruthy());
  expect(screen.queryByRole('alert')).toBeNull();
});
