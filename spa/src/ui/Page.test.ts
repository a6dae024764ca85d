// @vitest-environment happy-dom
// In an environment of its own: ALONE in vite.config.ts.
import { cleanup, render, screen } from '@testing-library/svelte';
import { createRawSnippet } from 'svelte';
import { afterEach, expect, it } from 'vitest';

import { router } from '../lib/router.svelte';
import Page from './Page.svelte';

afterEach(cleanup);

const children = createRawSnippet(() => ({ render: () => '<p>text</p>' }));

it('takes the focus of who came by a link, not of who loads the page', () => {
  render(Page, { name: 'History', children });
  expect(document.activeElement).toBe(document.body);
  cleanup();
  router.go('/history');
  render(Page, { name: 'History', children });
  expect(document.activeElement).toBe(screen.getByRole('region', { name: 'History' }));
});
