// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { createRawSnippet, tick } from 'svelte';
import { afterEach, expect, it, vi } from 'vitest';

import Boundary from './Boundary.svelte';

afterEach(() => {
  cleanup();
  vi.restoreAllMocks();
});

it('shows what failed in place of the part, and draws it anew when asked', async () => {
  const told = vi.spyOn(console, 'error').mockImplementation(() => undefined);
  let broken = true;
  const children = createRawSnippet(() => ({
    render: () => {
      if (broken) throw new Error('No such colour.');
      return '<p>whole</p>';
    },
  }));
  render(Boundary, { children });
  expect(screen.getByText('No such colour.')).toBeTruthy();
  expect(told).toHaveBeenCalledOnce();
  broken = false;
  screen.getByRole('button', { name: 'Try again' }).click();
  await tick();
  expect(screen.getByText('whole')).toBeTruthy();
});
