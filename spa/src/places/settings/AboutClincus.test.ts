// @vitest-environment happy-dom
import { cleanup, render } from '@testing-library/svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { configuration } from '../../state/config.svelte';
import { fakeServer } from '../../test/fakes';
import AboutClincus from './AboutClincus.svelte';

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

it.each([
  ['5d898849321dc4113c63940763d4c105b7ac9801', '2026-11-29', 'Clincus 0.1.0 commit 5d898849321d, built 2026-11-29'],
  ['5d898849321dc4113c63940763d4c105b7ac9801+', '2026-11-29', 'Clincus 0.1.0 commit 5d898849321d with changes, built 2026-11-29'],
  ['source', 'unknown', 'Clincus 0.1.0 from a checkout'],
])('says what was built from %s', async (commit, built, words) => {
  fakeServer(() => ({ json: { status: 'healthy', checks: {}, version: '0.1.0', commit, built } }));
  await configuration.refreshHealth();
  const { container } = render(AboutClincus);
  expect(container.textContent.replace(/\s+/g, ' ').trim()).toBe(words);
});
