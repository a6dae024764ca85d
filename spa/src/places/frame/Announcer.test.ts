// @vitest-environment happy-dom
import { cleanup, render, screen } from '@testing-library/svelte';
import { flushSync } from 'svelte';
import { afterEach, expect, it, vi } from 'vitest';

import { sessions } from '../../state/sessions.svelte';
import { fakeServer, someAgent, someSession } from '../../test/fakes';
import Announcer from './Announcer.svelte';

afterEach(() => {
  cleanup();
  vi.unstubAllGlobals();
});

it('says each change once, and nothing of what was there from the beginning', async () => {
  fakeServer(() => ({ json: [someSession({ agent: someAgent('working') })] }));
  await sessions.refresh();
  render(Announcer);
  flushSync();
  const said = (): string[] => [...screen.getByRole('log').children].map(({ textContent }) => textContent);
  expect(said()).toEqual([]);
  const asked = someAgent('waiting', { text: 'Red or green?' });
  sessions.agentIs('a', asked);
  flushSync();
  sessions.agentIs('a', { ...asked, since: '2026-01-01T00:00:00Z' });
  flushSync();
  sessions.agentIs('a', someAgent('done'));
  flushSync();
  expect(said()).toEqual(['my-app is waiting for you: Red or green?', 'my-app is done.']);
});
